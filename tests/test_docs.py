"""The pages of documentation: links resolve, the index is complete, results keep
their form."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    + [*ROOT.glob("egs/*/README.md"), *ROOT.glob("examples/**/README.md")]
)
RESULTS = sorted(DOCS.glob("results/*.md"))
TOPICS = [page for page in RESULTS if page.stem != "history"]  # superseded numbers
TEMPLATE = ["Setup", "Command", "Table", "Reading", "Limitations"]


def prose(page):
    """A page without its blocks of code, whose lines are neither links nor headings."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def links(page):
    found = re.findall(r"\]\(([^()\s]+)\)", prose(page))
    return [link for link in found if not re.match(r"\w+:", link)]


def anchors(page):
    """Names of a page's headings as GitHub makes them; a second one ends in -1."""
    names = []
    for heading in re.findall(r"^#+ (.*)", prose(page), flags=re.MULTILINE):
        heading = re.sub(r"\]\([^()]*\)", "", heading).lower()
        name = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        count = sum(
            re.fullmatch(rf"{name}(-\d+)?", other) is not None for other in names
        )
        names.append(f"{name}-{count}" if count else name)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page}: {link}: no such file"
        if anchor:
            assert anchor in anchors(target), f"{page}: {link}: no such heading"


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# The `x_y` layer, 8x\n\n```\n# no heading\n```\n## A\n### A\n## A\n"
    )
    assert anchors(page) == ["the-x_y-layer-8x", "a", "a-1", "a-2"]


def test_the_index_has_every_page_and_picture_has_a_page():
    index = DOCS / "README.md"
    listed = {(DOCS / link.partition("#")[0]).resolve() for link in links(index)}
    assert set(DOCS.rglob("*.md")) - {index} - listed == set()
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert set(DOCS.rglob("*.png")) - shown == set()


def test_every_page_of_results_is_linked_from_the_one_page():
    listed = {
        (ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "RESULTS.md")
    }
    assert set(RESULTS) - listed == set()


@pytest.mark.parametrize("page", TOPICS, ids=lambda page: page.stem)
def test_results_have_one_template(page):
    headings = re.findall(r"^## (.*)", prose(page), flags=re.MULTILINE)
    assert headings == TEMPLATE
    command = page.read_text(encoding="utf-8").split("\n## Command\n")[1]
    command = command.split("\n## Table\n")[0]
    assert "```" in command or "were not kept" in command
