"""docs/adding_a_downsampler.md: its code, in a copy of the package, keeps the
contract."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "adding_a_downsampler.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_one_file_and_one_line_are_all_that_a_method_needs(tmp_path):
    shutil.copytree(
        ROOT / "espnet_adastride",
        tmp_path / "espnet_adastride",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    plugin = ["plugin/test_subsampling.py", "plugin/test_model.py"]
    suites = ["downsampling/test_contract.py", *plugin]
    for name in ["conftest.py", "plugin/releases.py", *suites]:
        copy = tmp_path / "tests" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, copy)
    method, line, test = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    method_file, registry, test_file = re.findall(r"`([\w/]+\.py)`:\n", PAGE)
    (tmp_path / method_file).write_text(method, encoding="utf-8")
    with open(tmp_path / registry, "a", encoding="utf-8") as file:
        file.write("\n\n" + line)
    (tmp_path / test_file).write_text(test, encoding="utf-8")
    (name,) = re.findall(r'_register\("(\w+)"', line)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", name]
        + [f"tests/{suite}" for suite in suites]
        + [test_file],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    passed = re.search(r"(\d+) passed, \d+ deselected", result.stdout)
    # the contract's 12, three trunks at three strides, four encoders, and by hand
    assert passed and int(passed[1]) >= 12 + 9 + 4 + 1, result.stdout


def test_the_page_names_the_hooks_that_there_are():
    from espnet_adastride.downsampling import Downsampler, DownsamplingOutput

    table = PAGE.split("## Other attributes of a method")[1].split("## Pitfalls")[0]
    hooks = re.findall(r"^\| `(\w+)[^`]*` \|", table, flags=re.MULTILINE)
    words = re.findall(r"\(\.\.\., (\w+)=", table)
    assert len(hooks) == 20 and len(words) == 2
    for hook in hooks:
        assert hook == "DownsamplingOutput" or hasattr(Downsampler, hook), hook
    assert set(words) <= set(DownsamplingOutput._fields)
