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
DECLARED = {
    extra: names(lines)
    for extra, lines in SETTINGS["project"]["optional-dependencies"].items()
}


def third_party():
    """Return the packages of others that this one imports, with the files."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for module in modules:
                top = module.partition(".")[0]
                if top not in sys.stdlib_module_names and top != PACKAGE.name:
                    found.setdefault(top, set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_import_is_declared_in_an_extra():
    brought = BASE.union(*(DECLARED[extra] for extra in DECLARED if extra != "test"))
    for module, files in third_party().items():
        if module not in UNDECLARED:
            distribution = normal(DISTRIBUTIONS.get(module, module))
            assert distribution in brought, f"{module}, imported by {sorted(files)}"


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
