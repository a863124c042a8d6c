"""The tables of several systems and seeds, on known answers."""

import numpy as np
import pytest

from espnet_adastride.errors import UserError
from espnet_adastride.evaluation.statistics import Bootstrap
from espnet_adastride.experiments.cells import Cell
from espnet_adastride.experiments.comparison import format_comparison, pair_table
from espnet_adastride.experiments.records import FORMAT, Record
from tests.evaluation.test_statistics import TOKENS, U, draw

GROUPS = [f"g{i // 20}" for i in range(U)]


def scores(errors):
    """Return the scores of a set whose errors are substitutions, in words as in
    characters."""
    none = [0] * U
    kinds = {"substitutions": errors.tolist(), "deletions": none, "insertions": none}
    return {
        "utterances": list(map(str, range(U))),
        "groups": GROUPS,
        "seconds": [1.0] * U,
        "words": {"reference": TOKENS.tolist(), **kinds},
        "characters": {"reference": (4 * TOKENS).tolist(), **kinds},
        "frames": [],
        "emitting": [],
        "data_sha256": "",
    }


def cell(system, rate, errors, seeds=(0, 1, 2), minutes=0.0, **stats):
    contents = [
        {
            "format": FORMAT,
            "system": system,
            "rate": rate,
            "seed": seed,
            "sets": {"test": scores(own)},
            "learning": {"train": {name: [value] for name, value in stats.items()}},
            "timing": {"training_seconds": 60 * minutes},
        }
        for seed, own in zip(seeds, errors)
    ]
    return Cell([Record(content) for content in contents], "test")


def rows(text, system):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if f"| `{system}` |" in line
    ]


def test_table():
    text = format_comparison(
        [
            cell("strided_conv", 8, draw(0.2, 1)),
            cell("diff_stride", 8, draw(0.1, 2), stride=7.5, minutes=3.25),
            cell("twin", 8, draw(0.2, 1)),
            cell("diff_stride", 12, draw(0.1, 2)),
        ],
        "strided_conv",
        500,
    )
    (base,) = rows(text, "strided_conv")
    assert base[0] == "8x" and "±" in base[2] and len(base[4].split()) == 3
    error_rate, at_12, difference = rows(text, "diff_stride")
    assert error_rate[5] == "7.50" and error_rate[8] == "3.2"
    assert float(base[2].split()[0]) == pytest.approx(20, abs=1)
    assert at_12[0] == "12x"  # without baseline: no difference
    assert float(difference[3]) == pytest.approx(-10, abs=1.5)
    assert difference[-1] == "better"
    twin = rows(text, "twin")[1]
    assert twin[3] == "+0.00" and twin[-1] == "no difference shown"
    assert "20 groups" in text and "the 2 comparisons" in text
    assert difference[2] == "0, 1, 2"
    assert "exact test over the groups" in text and difference[6] == "< 0.001"


def test_only_seeds_that_both_have_are_compared():
    errors = draw(0.2, 1)
    other = np.concatenate([draw(0.9, 3)[:2], errors[:1]])
    text = format_comparison(
        [cell("base", 4, errors[:1], seeds=[2]), cell("other", 4, other)],
        "base",
        50,
    )
    difference = rows(text, "other")[1]
    assert difference[2] == "2" and difference[3] == "+0.00"


def test_a_table_of_nothing_is_refused():
    with pytest.raises(UserError, match="no run is finished"):
        format_comparison([], "base")
    text = format_comparison([cell("base", 4, draw(0.2, 1))], "base", 50)
    assert "No rate has both `base` and another" in text


def test_pairs_of_methods_at_every_rate_over_their_common_seeds():
    errors = draw(0.2, 1)
    cells = [
        cell("base", 8, draw(0.3, 5)),
        cell("good", 8, draw(0.1, 2)),
        cell("other", 8, errors),
        cell("good", 4, draw(0.1, 2)[:1], seeds=[0]),
        cell("other", 4, draw(0.1, 2)[:1], seeds=[0]),
        cell("good", 2, errors[:1], seeds=[0]),
        cell("other", 2, errors[:1], seeds=[1]),
    ]
    bootstrap = Bootstrap(GROUPS, 500)
    pairs = [("good", "other"), ("other", "good"), ("good", "absent")]
    text, number = pair_table(cells, pairs, bootstrap)
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()[2:]
    ]
    assert [row[:3] for row in table] == [
        ["8x", "`good` minus `other`", "0, 1, 2"],
        ["8x", "`other` minus `good`", "0, 1, 2"],
        ["4x", "`good` minus `other`", "0"],
        ["4x", "`other` minus `good`", "0"],
    ]
    assert number == 4
    first, mirrored, alone, _ = table
    assert float(first[3]) == pytest.approx(-10, abs=1.5)
    assert float(mirrored[3]) == -float(first[3]) and first[7] == "better"
    # the exact test of 20 groups, times the four comparisons at most
    assert first[5] in ("< 0.001", "0.008", "0.016") and first[6].startswith("[-")
    assert alone[3:] == ["+0.00", "[+0.00, +0.00]", "1.000", "", "no difference shown"]
    assert pair_table(cells[:1], pairs, bootstrap) == ("", 0)
