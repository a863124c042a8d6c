"""The pages of documentation: the index is complete, pages of results keep one form."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RESULTS = sorted(DOCS.glob("results/*.md"))
TOPICS = [page for page in RESULTS if page.stem != "history"]  # superseded numbers
TEMPLATE = ["Setup", "Command", "Table", "Reading", "Limitations"]


def linked_files(page):
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"\]\((?!\w+:)([^)#\s]+)", text)
    return {(page.parent / name).resolve() for name in names}


def test_the_index_has_every_page():
    index = DOCS / "README.md"
    assert set(DOCS.rglob("*.md")) - {index} - linked_files(index) == set()


def test_every_picture_is_shown():
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    assert set(DOCS.rglob("*.png")) - set().union(*map(linked_files, pages)) == set()


def test_every_page_of_results_is_linked_from_the_one_page():
    assert set(RESULTS) - linked_files(ROOT / "RESULTS.md") == set()


@pytest.mark.parametrize("page", TOPICS, ids=lambda page: page.stem)
def test_pages_of_results_have_one_template(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^## (.*)", prose, flags=re.MULTILINE) == TEMPLATE
    command = text.split("\n## Command\n")[1].split("\n## Table\n")[0]
    assert "```" in command or "were not kept" in command
    assert "\n|---" in text.split("\n## Table\n")[1].split("\n## Reading\n")[0]


def test_the_architecture_page_names_files_that_are_there():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    places = [ROOT, ROOT / "espnet_adastride"]
    names = set(re.findall(r"`([\w/.]+\.(?:py|sh|md))`", text))
    names = {name for name in names if "/" in name}
    assert len(names) > 25
    for name in names:
        assert any((place / name).is_file() for place in places), name


def test_the_picture_has_the_folders_that_there_are():
    import architecture  # benchmarks/

    drawn = [name for row in architecture.FOLDERS for name, _ in row]
    package = ROOT / "espnet_adastride"
    assert sorted(drawn) == sorted(
        path.parent.name
        for path in package.glob("*/*.py")
        if path.name == "__init__.py"
    )
    for _, files, _ in architecture.PATH:
        for name in re.findall(r"\w+/\w+\.py", files):
            assert (package / name).is_file(), name
