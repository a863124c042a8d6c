"""The pages of documentation: the index is complete, pages of results keep one form,
and numbers that are quoted by hand are those of the page that they come from."""

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


# ------------------------------------------------------------------- quoted numbers
NUMBER = r"[+-]?\d+(?:\.\d+)?"
#: a value and its interval: 39.4 % [37.9, 40.9], -8.35 [-9.02, -7.68], p 0.003
WITH_INTERVAL = re.compile(
    rf"({NUMBER})\*?(?: ± {NUMBER})?(?: %| dB| points)?[\w` ]{{,25}}? "
    rf"\[({NUMBER}), ({NUMBER})\](?:, p ((?:< )?{NUMBER}))?"
)
INTERVAL = re.compile(rf"\[({NUMBER}), ({NUMBER})\]")
ALONE = re.compile(r"(?<![\w.])(\d+\.\d+)")
#: pages, or their sections, on experiments whose records are in git: what
#: `make results` has written for them
RECORDED = {
    "pretrained.md": ["whisper_strides"],
    "pretrained.md#setup": ["whisper_tuning"],
    "pretrained.md#a-better-tuned-training": ["whisper_tuned"],
    "attention_decoder.md": ["whisper_joint"],
    "restore.md": ["whisper_restore"],
    "connected_digits.md#methods-that-adapt": ["digits_adaptive"],
    "classification.md#methods-that-adapt": [
        "speech_commands_8x",
        "speech_commands_32x",
    ],
}
#: pages that quote others; a row with a link to one of RECORDED quotes its records
SUMMARIES = ("README.md", "RESULTS.md", "docs/choosing.md", "docs/generality.md")


def statements(text):
    """Split Markdown into rows of tables, list items and paragraphs, a line each."""
    parts = re.split(r"\n\s*(?=\||[-*] )|\n\s*\n", text)
    return [" ".join(part.split()) for part in parts]


def generated(names):
    texts = [(ROOT / "results" / f"{name}.md").read_text() for name in names]
    return [line for text in texts for line in statements(text)]


def quotations(text, forms=(WITH_INTERVAL, INTERVAL, ALONE)):
    """Return what is quoted: (value, low, high, p), (low, high) and (value,)."""
    found = []
    for form in forms:
        for quote in form.findall(text):
            found.append(quote if isinstance(quote, tuple) else (quote,))
        text = form.sub(" ", text)
    return found


def rounds_to(exact, quoted, sign=1):
    """Say whether a number, times the sign, may be quoted so; without a sign: its size.

    The exact one is rounded, too: 8.35 may be 8.3 or 8.4.
    """
    places, wanted = (len(number.partition(".")[2]) for number in (exact, quoted))
    spare = (10**-wanted + 10**-places) / 2 if places > wanted else 0
    a, b = sign * float(exact), float(quoted)
    gap = abs(a - b) if quoted[0] in "+-" else abs(abs(a) - b)
    return places >= wanted and gap <= spare + 1e-9


def occurs(quote, line):
    """Say whether a line has the number, or the value and after it the interval."""
    if len(quote) == 1:
        return any(rounds_to(number, *quote) for number in re.findall(NUMBER, line))
    if "], p " in line:  # several comparisons in a row, each with its p in its cell
        cells = re.sub(r"\], p ([^;|]*[^;| ])", r"] ¦ \1 ¦", line).split("|")
        return any(occurs(quote, cell.replace("¦", "|")) for cell in cells)
    value, low, high, p = quote if len(quote) > 2 else ("", *quote, "")
    if p and f"| {p} |" not in line:
        return False
    for found in re.finditer(rf"({NUMBER})(?:, | to )({NUMBER})", line):
        before = re.findall(NUMBER, line[: found.start()])
        # A minus B, as it is there; or B minus A
        for (a, b), sign in ((found.groups(), 1), (found.groups()[::-1], -1)):
            if rounds_to(a, low, sign) and rounds_to(b, high, sign):
                if not value or any(rounds_to(n, value, sign) for n in before):
                    return True
    return False


def missing(quoting, sources, forms=(WITH_INTERVAL, INTERVAL, ALONE)):
    return [
        f"{quote}: {statement}"
        for statement in quoting
        for quote in quotations(statement, forms)
        if not any(occurs(quote, line) for line in sources)
    ]


def section(text, heading):
    """Return the first section of this name that has a table."""
    titles = re.split(r"^#+ (.*)\n", text, flags=re.MULTILINE)
    return next(
        body
        for title, body in zip(titles[1::2], titles[2::2])
        if title.lower().replace(" ", "-") == heading and "\n|---" in body
    )


@pytest.mark.parametrize("place", RECORDED)
def test_tables_quote_the_records(place):
    """Of the topic page itself, and in the rows of other pages that link to it."""
    name, _, heading = place.partition("#")
    text = (DOCS / "results" / name).read_text(encoding="utf-8")
    if heading:
        text = section(text, heading)
    else:  # but sections on other experiments
        for other in RECORDED:
            if other.startswith(f"{name}#"):
                text = text.replace(section(text, other.partition("#")[2]), "")
    rows = [line for line in statements(text) if line.startswith("|")]
    if place == "pretrained.md":  # README's table of methods, whose rows have no links
        readme = statements((ROOT / "README.md").read_text(encoding="utf-8"))
        rows += [line for line in readme if re.match(r"\| `\w+`", line)]
    for page in SUMMARIES:
        lines = statements((ROOT / page).read_text(encoding="utf-8"))
        link = rf"\]\([\w/]*{re.escape(place)}\)"
        rows += [s for s in lines if s.startswith("|") and re.search(link, s)]
    quoting = [row for row in rows if "(no record)" not in row]
    assert sum(bool(quotations(row)) for row in quoting) > 4
    wrong = missing(quoting, generated(RECORDED[place]))
    assert not wrong, "not on the generated page:\n" + "\n".join(wrong)


@pytest.mark.parametrize("page", SUMMARIES)
def test_summaries_quote_the_pages_of_results(page):
    """A value with its interval is on a page of results/ or docs/results/."""
    quoting = statements((ROOT / page).read_text(encoding="utf-8"))
    pages = [text for text in TOPICS if text.stem != "history"]
    sources = [line for text in pages for line in statements(text.read_text())]
    sources += generated(path.stem for path in ROOT.glob("results/*.md"))
    assert any(quotations(statement, [WITH_INTERVAL]) for statement in quoting)
    wrong = missing(quoting, sources, [WITH_INTERVAL])
    assert not wrong, "on no page of results:\n" + "\n".join(wrong)


@pytest.mark.parametrize("page", ["RESULTS.md", "docs/results/pretrained.md"])
def test_missing_runs_are_as_many_as_the_generated_page_says(page):
    text = (ROOT / "results" / "whisper_strides.md").read_text(encoding="utf-8")
    counts = re.findall(r"^Not run yet, (\d+ of \d+)", text, re.MULTILINE)
    quoted = re.findall(r"(\d+ of \d+) runs", (ROOT / page).read_text("utf-8"))
    assert quoted == counts
