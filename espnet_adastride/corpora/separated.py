"""CSV and TSV files with a header, as spreadsheets and corpora write them."""

import csv
import io
import re
from pathlib import Path
from typing import Iterator, List, Tuple

from espnet_adastride.corpora.kaldi import read_lines
from espnet_adastride.errors import UserError


def read_separated(
    path: Path, literal: bool = False
) -> Tuple[List[str], str, Iterator[Tuple[int, List[str]]]]:
    """Return header, separator, and (line number, values) of every row of a table.

    Args:
        path: fields of a ``.tsv`` are separated by tabs, those of others by the sign
            that its first line has most.
        literal: quotation marks belong to the text.

    Returns:
        Values without white space around them, without blank rows.

    Raises:
        UserError: it is empty, not UTF-8, or no CSV (of the rows: when they are read);
            names the line.
    """
    lines, first = read_lines(path), 1
    told = re.fullmatch("sep=(.)", lines[0], re.IGNORECASE) if lines else None
    if told:  # Excel's own line
        lines, first = lines[1:], 2
    if not lines:
        raise UserError(f"{path}: the file is empty; write a header and rows")
    if told:
        separator = told[1]
    elif path.suffix.lower() == ".tsv":
        separator = "\t"
    else:  # spreadsheets write semicolons if the decimal sign is a comma
        separator = max(",;\t|", key=lambda s: lines[0].count(s))
    try:
        header = [name.strip() for name in next(_reader(lines[:1], separator))]
    except csv.Error as error:
        raise _not_csv(path, first, error) from None
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise UserError(
            f"{path}:{first}: two columns are called {twice[0]!r}; rename one"
        )
    if separator == "\t":
        # Common Voice does not quote: a quotation mark belongs to the sentence
        rows = _tab_rows(lines, first, literal or "client_id" in header)
    else:
        rows = _quoted_rows(path, lines, first, separator)
    return header, separator, rows


def _tab_rows(lines: List[str], first: int, literal: bool):
    # fields of a TSV have no line breaks, so an unpaired quotation mark must not
    # swallow the following lines
    for number, line in enumerate(lines[1:], first + 1):
        if line.strip():
            words = [word.strip() for word in line.split("\t")]
            yield number, words if literal else list(map(_bare, words))


def _quoted_rows(path: Path, lines: List[str], first: int, separator: str):
    """Yield the rows of a CSV file; a quoted field may span several lines."""
    text = io.StringIO("\n".join(lines) + "\n", newline="")
    reader = _reader(text, separator, strict=True)
    number = first
    try:
        for values in reader:
            if number > first and any(value.strip() for value in values):
                yield number, [value.strip() for value in values]
            number = first + reader.line_num
    except csv.Error as error:
        raise _not_csv(path, number, error) from None


def _reader(lines, separator: str, strict: bool = False):
    # a quotation mark after ", " opens a quoted field, too
    return csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=strict)


def _not_csv(path: Path, number: int, error: csv.Error) -> UserError:
    return UserError(
        f"{path}:{number}: not CSV ({error}): write a quotation mark within a text as "
        '"" and put the text in quotation marks'
    )


def _bare(word: str) -> str:
    """Return ``say "yes"`` of ``"say ""yes""``"."""
    if len(word) > 1 and word[0] == word[-1] == '"':
        inner = word[1:-1].replace('""', "\0")
        if '"' not in inner:
            return inner.replace("\0", '"')
    return word
