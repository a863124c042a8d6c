"""Imports run one way: library <- folders <- plugin <- experiments, recipe <- bin."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "espnet_adastride"


#: the folders and root modules, from those that know nothing of the rest to those that
#: may import everything
ORDER = [
    {"version", "errors"},
    {"files", "extras", "memory", "quiet"},
    {"options", "progress", "config"},
    {"downsampling"},
    {"networks", "timing"},
    {"corpora", "evaluation"},
    {"report"},
    {"deployment"},
    {"plugin"},
    {"transcribe"},
    {"experiments", "recipe"},
    {"bin"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def imports_of(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def layer_of(path):
    return path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else ""


def test_one_file_knows_where_espnet_keeps_things():
    roots = {"espnet", "espnet2", "espnet3", "espnetez"}
    importers = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if any(name.split(".")[0] in roots for name in imports_of(path))
    ]
    assert importers == ["plugin/espnet.py"]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_flow_one_way(path):
    names = imports_of(path)
    later = ("espnet_adastride.plugin", "espnet_adastride.bin")
    if layer_of(path) in ("", "recipe"):  # the stages of a recipe start fast
        later = later[1:] if path.name == "transcribe.py" else later
        assert not [name for name in names if name.startswith(later)]
    if layer_of(path) == "bin":  # what two commands need belongs into another folder
        shared = {
            later[1] + name for name in (".parsers", ".model_options", ".text_options")
        }
        assert {name for name in names if name.startswith(later[1])} <= shared
    if layer_of(path) == "downsampling":
        allowed = {"torch", "espnet_adastride"} | set(sys.stdlib_module_names)
        if path.name == "triton_rows.py":  # comes with torch's CUDA builds
            allowed.add("triton")
        assert {n.split(".")[0] for n in names} <= allowed
        if path.name not in ("registry.py", "__init__.py"):
            assert "espnet_adastride.downsampling.registry" not in names


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_a_folder_imports_no_later_one(path):
    folder = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if folder == "__init__":
        return
    assert folder in RANK, f"give {folder} a place in ORDER"
    for name in imports_of(path):
        top = name.split(".")[1:2] if name.startswith("espnet_adastride.") else []
        for imported in top:
            assert RANK[imported] <= RANK[folder], f"{path} imports {name}"


def test_importing_the_library_leaves_espnet_alone():
    code = (
        "import sys, espnet_adastride, espnet_adastride.downsampling\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('espnet', 'espnet2')]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
