"""The tables of several systems and seeds, on known answers."""

import numpy as np
import pytest

from espnet_adastride.errors import UserError
from espnet_adastride.evaluation.statistics import Bootstrap
from espnet_adastride.experiments.comparison import (
    Reference,
    Result,
    format_comparison,
    pair_table,
)
from tests.evaluation.test_statistics import TOKENS, U, draw


def result(system, rate, errors, seeds=(0, 1, 2), **stats):
    return Result(
        system, rate, list(seeds), list(errors), list(errors), [stats] * len(seeds)
    )


REFERENCE = Reference(TOKENS, 4 * TOKENS, [f"g{i // 20}" for i in range(U)])


def rows(text, system):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if f"| `{system}` |" in line
    ]


def test_table():
    text = format_comparison(
        [
            result("strided_conv", 8, draw(0.2, 1)),
            result("diff_stride", 8, draw(0.1, 2), stride=7.5, minutes=3.25),
            result("twin", 8, draw(0.2, 1)),
            result("diff_stride", 12, draw(0.1, 2)),
        ],
        REFERENCE,
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


def test_only_seeds_that_both_have_are_compared():
    errors = draw(0.2, 1)
    other = np.concatenate([errors[:1], draw(0.9, 3)[:2]])
    text = format_comparison(
        [result("base", 4, errors[:1], seeds=[0]), result("other", 4, other)],
        REFERENCE,
        "base",
        50,
    )
    difference = rows(text, "other")[1]
    assert difference[2] == "1" and difference[3] == "+0.00"


def test_a_table_of_nothing_is_refused():
    with pytest.raises(UserError, match="no run is finished"):
        format_comparison([], REFERENCE, "base")
    text = format_comparison([result("base", 4, draw(0.2, 1))], REFERENCE, "base", 50)
    assert "No rate has both `base` and another" in text


def test_pairs_of_methods_at_every_rate_over_their_common_seeds():
    errors = draw(0.2, 1)
    results = [
        result("base", 8, draw(0.3, 5)),
        result("good", 8, draw(0.1, 2)),
        result("other", 8, errors),
        result("good", 4, draw(0.1, 2)[:1], seeds=[0]),
        result("other", 4, draw(0.1, 2)[:1], seeds=[0]),
        result("good", 2, errors[:1], seeds=[0]),
        result("other", 2, errors[:1], seeds=[1]),
    ]
    bootstrap = Bootstrap(REFERENCE.groups, 500)
    pairs = [("good", "other"), ("other", "good"), ("good", "absent")]
    text = pair_table(results, REFERENCE, pairs, bootstrap)
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
    first, mirrored, alone, _ = table
    assert float(first[3]) == pytest.approx(-10, abs=1.5)
    assert float(mirrored[3]) == -float(first[3]) and first[7] == "better"
    # the exact test of 20 groups, times the four comparisons at most
    assert first[5] in ("< 0.001", "0.008", "0.016") and first[6].startswith("[-")
    assert alone[3:] == ["+0.00", "[+0.00, +0.00]", "1.000", "", "no difference shown"]
    assert pair_table(results[:1], REFERENCE, pairs, bootstrap) == ""
