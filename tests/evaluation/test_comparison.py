"""Statistics of comparisons, on known answers."""

import math

import numpy as np
import pytest

from espnet_adastride.errors import DataError
from espnet_adastride.evaluation.comparison import (
    Bootstrap,
    Difference,
    Reference,
    Result,
    few_units_note,
    format_comparison,
    format_interval,
    holm,
    seed_interval,
    sign_flip_test,
    utterance_errors,
    verdict,
)
from espnet_adastride.evaluation.scoring import characters, words

U = 400
TOKENS = np.full(U, 5.0)


def draw(rate, seed, seeds=3, utterances=U):
    """Errors of utterances of 5 words, (seeds, utterances)."""
    rng = np.random.default_rng(seed)
    return rng.binomial(5, rate, size=(seeds, utterances)).astype(float)


def test_errors_of_utterances():
    ref = {"a": "ONE TWO THREE", "b": "FOUR", "c": "FIVE"}
    hyp = {"a": "ONE THREE THREE FOUR", "b": "FOUR", "c": ""}
    errors, tokens = utterance_errors(ref, hyp, words)
    assert errors.tolist() == [2, 0, 1] and tokens.tolist() == [3, 1, 1]
    errors, tokens = utterance_errors(ref, hyp, characters)
    assert errors[1:].tolist() == [0, 4] and tokens.tolist() == [13, 4, 4]


# -------------------------------------------------------------------------- differences


def test_identical_systems_differ_by_nothing():
    errors = draw(0.2, 1)
    result = Bootstrap(range(U), 500).difference(errors, errors, TOKENS)
    assert (result.value, result.low, result.high, result.p) == (0, 0, 0, 1)


def test_few_utterances_get_the_exact_test():
    """Five that all point one way: chance does that once in 16 times, both signs."""
    one, other = np.ones((1, 5)), np.zeros((1, 5))
    result = Bootstrap(range(5), 500).difference(one, other, np.full(5, 10.0))
    assert result.value == pytest.approx(10.0)
    assert result.p == pytest.approx(2 / 32)
    assert verdict(result, result.p, None) == "no difference shown"
    # signs of 3, 2, 1: sums of at least 4 on either side are 6 and 4
    assert sign_flip_test(np.array([3.0, 2.0, -1.0])) == pytest.approx(4 / 8)
    assert sign_flip_test(np.array([0.1, 0.2, -0.3])) == 1.0  # a sum of 0, rounded
    # one unit has no interval, and is told of
    alone = Bootstrap([0, 0, 0], 50).difference(*np.ones((2, 1, 3)), np.ones(3))
    assert math.isnan(alone.low) and math.isnan(alone.high)
    assert format_interval(alone.low, alone.high) == "none"
    assert few_units_note(20, "utterances") == ""
    assert "exact" in few_units_note(19, "utterances")
    assert "fewer than 6 groups" in few_units_note(5, "groups")


def test_seeds_are_averaged_and_stay_with_their_utterance():
    errors = draw(0.2, 1)
    # the same errors, at other seeds in every utterance
    shuffled = np.random.default_rng(0).permuted(errors, axis=0)
    result = Bootstrap(range(U), 500).difference(shuffled, errors, TOKENS)
    assert result.low == pytest.approx(0, abs=1e-9) and result.p == 1


def test_a_clear_difference_leaves_out_zero():
    boot = Bootstrap(range(U), 2000)
    worse = boot.difference(draw(0.3, 1), draw(0.1, 2), TOKENS)
    assert 18 < worse.low < worse.value < worse.high < 22 and worse.p <= 0.002
    better = boot.difference(draw(0.1, 2), draw(0.3, 1), TOKENS)
    assert better.value == -worse.value and better.high < 0


def test_the_interval_is_that_of_the_normal_distribution():
    one, other = draw(0.2, 1), draw(0.2, 2)
    d = one.mean(axis=0) - other.mean(axis=0)
    half = 1.96 * 100 * d.std() / math.sqrt(U) / 5
    result = Bootstrap(range(U), 5000).difference(one, other, TOKENS)
    assert result.value == pytest.approx(100 * d.sum() / TOKENS.sum())
    assert result.high - result.value == pytest.approx(half, rel=0.08)
    assert result.value - result.low == pytest.approx(half, rel=0.08)


def test_long_utterances_weigh_more():
    tokens = np.array([1.0, 9.0])
    result = Bootstrap(range(2), 50).difference(
        np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), tokens
    )
    assert result.value == 0
    result = Bootstrap(range(2), 50).difference(
        np.array([[0.0, 1.0]]), np.array([[0.0, 0.0]]), tokens
    )
    assert result.value == pytest.approx(10)


def test_utterances_of_a_group_are_drawn_together():
    # ten utterances that are copies of each other tell no more than one of them
    one, other = draw(0.2, 1, utterances=40), draw(0.2, 2, utterances=40)
    alone = Bootstrap(range(40), 3000).difference(one, other, np.full(40, 5.0))
    copies = [np.repeat(x, 10, axis=1) for x in (one, other)]
    groups = np.repeat([f"speaker-{i}" for i in range(40)], 10)
    grouped = Bootstrap(groups, 3000).difference(*copies, TOKENS)
    naive = Bootstrap(range(U), 3000).difference(*copies, TOKENS)
    width = grouped.high - grouped.low
    assert width == pytest.approx(alone.high - alone.low, rel=0.1)
    assert width == pytest.approx(math.sqrt(10) * (naive.high - naive.low), rel=0.15)


def test_one_in_twenty_is_significant_where_there_is_nothing():
    boot = Bootstrap(range(U), 400)
    found = [
        boot.difference(draw(0.2, 2 * n), draw(0.2, 2 * n + 1), TOKENS).p < 0.05
        for n in range(300)
    ]
    assert 0.02 < np.mean(found) < 0.09


def test_the_same_seed_draws_the_same_test_sets():
    one, other = draw(0.2, 1), draw(0.25, 2)
    results = [Bootstrap(range(U), 300).difference(one, other, TOKENS) for _ in "ab"]
    assert results[0] == results[1]


# ----------------------------------------------------------------- seeds, many of them


def test_welch():
    # se = sqrt(1/3 + 1/3), 4 degrees of freedom, t = 2.776
    low, high = seed_interval([1, 2, 3], [4, 5, 6])
    assert low == pytest.approx(-3 - 2.2667, abs=1e-3)
    assert high == pytest.approx(-3 + 2.2667, abs=1e-3)
    # unequal variances: 3.41 degrees of freedom by scipy's ttest_ind(equal_var=False)
    from scipy import stats

    sides = [4.0, 5.0, 9.0], [1.0, 1.5, 1.7]
    expected = stats.ttest_ind(*sides, equal_var=False).confidence_interval()
    assert seed_interval(*sides) == pytest.approx((expected.low, expected.high))
    assert seed_interval([1, 1], [2, 2]) == (-1, -1)
    assert seed_interval([1], [2, 3]) is None


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    "value, p, seeds, words",
    [
        (-1.0, 0.2, (-2.0, -0.5), "no difference shown"),
        (-1.0, 0.01, (-2.0, -0.5), "better"),
        (1.0, 0.01, (0.5, 2.0), "worse"),
        (-1.0, 0.01, (-2.0, 0.5), "better, seeds differ as much"),
        (-1.0, 0.01, None, "better, too few seeds"),
    ],
)
def test_verdict(value, p, seeds, words):
    assert verdict(Difference(value, value, value, p), p, seeds) == words


# ---------------------------------------------------------------------------- the table


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
    with pytest.raises(DataError, match="no run is finished"):
        format_comparison([], REFERENCE, "base")
    text = format_comparison([result("base", 4, draw(0.2, 1))], REFERENCE, "base", 50)
    assert "No rate has both `base` and another" in text
