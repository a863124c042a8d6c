"""pyproject.toml: what the package imports is declared, pinned, and in the wheel."""

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from espnet_adastride.extras import EXTRAS

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and newer")
ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "espnet_adastride"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

#: import name -> name on the package index, where they differ
DISTRIBUTIONS = {"espnet2": "espnet", "yaml": "pyyaml"}
#: what is imported and brought by something else: triton comes with torch on Linux,
#: mpi4py is built against a cluster's MPI
UNDECLARED = {"triton", "mpi4py"}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements):
    return {normal(re.match(r"[\w.-]+", line).group()) for line in requirements}


BASE = names(SETTINGS["project"]["dependencies"])
EXTRA_LINES = SETTINGS["project"]["optional-dependencies"]


def brought_by(extra):
    """Return what an extra brings, through another extra of this package, too."""
    found = set()
    for line in EXTRA_LINES[extra]:
        other = re.fullmatch(rf"{PACKAGE.name}\[(\w+)\]", line)
        found |= brought_by(other[1]) if other else names([line])
    return found


DECLARED = {extra: brought_by(extra) for extra in EXTRA_LINES}


def imported_by(path):
    """Return the modules that a file imports; of ``from a import b`` a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def third_party(paths):
    """Return the packages of others that these files import, with the files."""
    found = {}
    for path in paths:
        for top in {module.partition(".")[0] for module in imported_by(path)}:
            if top not in sys.stdlib_module_names and top != PACKAGE.name:
                found.setdefault(top, set()).add(str(path.relative_to(ROOT)))
    return found


def reached_from(commands):
    """Return the files of this package that commands import, at once or later."""
    todo = [PACKAGE / "bin" / f"{name}.py" for name in commands]
    seen = set()
    while todo:
        path = todo.pop()
        if path.is_file() and path not in seen:
            seen.add(path)
            for module in imported_by(path):
                place = ROOT / module.replace(".", "/")
                if module.partition(".")[0] == PACKAGE.name:
                    todo += [place.with_suffix(".py"), place / "__init__.py"]
    return seen


def assert_brought(paths, brought):
    for module, files in third_party(paths).items():
        if module not in UNDECLARED:
            distribution = normal(DISTRIBUTIONS.get(module, module))
            assert distribution in brought, f"{module}, imported by {sorted(files)}"


def test_every_import_is_declared_in_an_extra():
    brought = BASE.union(*(DECLARED[extra] for extra in DECLARED if extra != "test"))
    assert_brought(PACKAGE.rglob("*.py"), brought)


@pytest.mark.parametrize(
    "extra, commands",
    [
        ("demo", ("make_espeak_corpus", "say")),
        ("vqvae", ("vqvae_train", "compare_vqvae", "vqvae_reconstruct")),
    ],
)
def test_an_extra_has_all_that_its_commands_import(extra, commands):
    paths = reached_from(commands)
    assert len(paths) > 10
    assert_brought(paths, BASE | DECLARED[extra])


def test_the_extra_that_a_message_names_brings_the_package():
    for module, extra in EXTRAS.items():
        assert normal(DISTRIBUTIONS.get(module, module)) in DECLARED[extra], module


@pytest.mark.parametrize("version", ("3.10", "3.11", "3.12", "3.13"))
def test_what_is_declared_is_pinned(version):
    text = (ROOT / "constraints" / f"python{version}.txt").read_text()
    pinned = names(line for line in text.splitlines() if line[:1].isalnum())
    # brought by a marker for older Pythons only
    wanted = BASE.union(*DECLARED.values()) - {"six"}
    assert wanted <= pinned, wanted - pinned
    assert not pinned & {"pip", "setuptools"}  # which depend on the machine


def test_every_file_of_data_is_matched_by_package_data():
    given = SETTINGS["tool"]["setuptools"]["package-data"]
    matched = {
        path
        for package, patterns in given.items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = {
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert files and files == matched


def test_setup_py_is_one_call():
    """Settings in two places would drift apart."""
    body = ast.parse((ROOT / "setup.py").read_text()).body
    call = body[-1].value
    assert len(body) == 3 and ast.unparse(call) == "setup()"


def test_the_scripts_are_there():
    scripts = SETTINGS["project"]["scripts"]
    assert "adastride" in scripts
    for name, target in scripts.items():
        point = importlib.metadata.EntryPoint(name, target, "console_scripts")
        assert callable(point.load()), target
