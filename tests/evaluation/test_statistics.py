"""Intervals and tests, on known answers."""

import math

import numpy as np
import pytest

from espnet_adastride.evaluation import statistics
from espnet_adastride.evaluation.statistics import (
    LEVEL,
    Bootstrap,
    few_units_note,
    holm,
    sign_flip_test,
    sum_by,
    verdict,
    welch_interval,
)

U = 400
TOKENS = np.full(U, 5.0)


def draw(rate, seed, seeds=3, utterances=U):
    """Errors of utterances of 5 words, (seeds, utterances)."""
    rng = np.random.default_rng(seed)
    return rng.binomial(5, rate, size=(seeds, utterances)).astype(float)


# -------------------------------------------------------------------------- differences


def test_identical_systems_differ_by_nothing():
    errors = draw(0.2, 1)
    result = Bootstrap(range(U), 500).difference(errors, errors, TOKENS)
    assert result == (0, 0, 0, 1)


@pytest.mark.filterwarnings("ignore:invalid value")  # inf times 0
@pytest.mark.parametrize("failure", [np.nan, np.inf])
@pytest.mark.parametrize("utterances", [5, 50])
def test_a_failed_system_is_not_significantly_worse(utterances, failure):
    errors = np.ones(utterances)
    broken = np.where(np.arange(utterances) == 3, failure, errors)
    found = Bootstrap(range(utterances), 200).difference(broken, errors, errors)
    assert not np.isfinite(found.value) and found.p == 1.0
    assert verdict(found.value, found.p, None) == "no difference shown"


@pytest.mark.filterwarnings("error")
def test_test_sets_without_a_reference_word_are_left_out():
    """Half of the utterances have no words: drawn alone, they have no error rate."""
    bootstrap = Bootstrap(range(2), 200)
    found = bootstrap.ratio(np.array([1.0, 1.0]), np.array([0.0, 4.0]))
    assert found[:3] == (0.5, 0.25, 0.5)
    found = bootstrap.difference(np.ones(2), np.zeros(2), np.array([0.0, 4.0]))
    assert found[:3] == (0.5, 0.25, 0.5) and found.p == 0.5


def test_few_utterances_get_the_sign_flip_test():
    """Five that all point one way: chance does that once in 16 times, both signs."""
    one, other = np.ones((1, 5)), np.zeros((1, 5))
    result = Bootstrap(range(5), 500).difference(one, other, np.full(5, 10.0))
    assert result.value == pytest.approx(0.1)
    assert result.p == pytest.approx(2 / 32)
    assert verdict(result.value, result.p, None) == "no difference shown"
    # signs of 3, 2, 1: sums of at least 4 on either side are 6 and 4
    assert sign_flip_test(np.array([3.0, 2.0, -1.0])) == pytest.approx(4 / 8)
    assert sign_flip_test(np.array([0.1, 0.2, -0.3])) == 1.0  # a sum of 0, rounded
    # whole numbers, by the Fourier transform: 2, 1 and -1 by group, 6 of the 8 choices
    assert sign_flip_test(sum_by(np.array([1, 1, 1, -1]), list("aabc"))) == 6 / 8
    # McNemar, 1 against 6: 2 (C(7,0) + C(7,1)) / 2^7
    assert sign_flip_test(np.array([1, -1, -1, -1, -1, -1, -1, 0, 0])) == 0.125
    assert sign_flip_test(np.zeros(4)) == 1.0
    # many clips of two speakers show as little as two do
    assert sign_flip_test(sum_by(np.ones(2000), ["a", "b"] * 1000)) == 0.5
    # one unit has no interval, and is told of
    alone = Bootstrap([0, 0, 0], 50).difference(*np.ones((2, 1, 3)), np.ones(3))
    assert math.isnan(alone.low) and math.isnan(alone.high)
    assert few_units_note(20, "utterances") == ""
    assert "too narrow" in few_units_note(19, "utterances")
    assert "fewer than 6 groups" in few_units_note(5, "groups")
    assert "fewer than" not in few_units_note(6, "groups")


@pytest.mark.parametrize("units", [20, 40, 2620])
def test_however_few_test_sets_are_drawn_p_is_exact(units):
    """All point one way: 2 of the 2^n ways to choose the signs are as far from 0."""
    clear = Bootstrap(range(units), 10).difference(
        np.ones(units), np.zeros(units), np.ones(units)
    )
    assert clear.p == pytest.approx(2.0 ** (1 - units))
    assert holm([clear.p] * 100)[0] < LEVEL


def test_means_over_seeds_are_tested_as_whole_numbers():
    """Thirds and halves, by 30 units: six times as much, by the transform."""
    rng = np.random.default_rng(0)
    system, baseline = rng.integers(0, 5, (3, 30)), rng.integers(1, 5, (2, 30))
    found = Bootstrap(range(30), 10).difference(system, baseline, np.ones(30))
    whole = 2 * system.sum(axis=0) - 3 * baseline.sum(axis=0)
    assert found.p == sign_flip_test(whole)
    # by hand: the share of 200,000 random choices of the signs
    signs = rng.choice([-1, 1], (200000, 30))
    share = np.mean(np.abs(signs @ whole) >= abs(whole.sum()))
    assert 0.001 < share < 0.5 and found.p == pytest.approx(share, abs=0.005)


def test_many_fractions_are_rounded_little():
    """Decibels of 30 texts: p is that of random choices of the signs."""
    rng = np.random.default_rng(1)
    sums = rng.normal(0.3, 1.0, 30)
    signs = rng.choice([-1, 1], (200000, 30))
    share = np.mean(np.abs(signs @ sums) >= abs(sums.sum()))
    assert 0.001 < share < 0.5
    assert sign_flip_test(sums) == pytest.approx(share, abs=0.005)
    assert sign_flip_test(sums / 1e6) == pytest.approx(sign_flip_test(sums), abs=1e-4)
    alike = np.full(30, 0.1)
    assert sign_flip_test(alike) == pytest.approx(2.0**-29)


def test_many_large_differences_take_neither_minutes_nor_gigabytes(monkeypatch):
    """3,000 whole numbers of up to six digits: rounded, and p as of a normal sum."""
    sums = np.random.default_rng(4).normal(2000, 1e5, 3000).round()
    ratio = abs(sums.sum()) / math.sqrt((sums**2).sum())
    normal = math.erfc(ratio / math.sqrt(2))
    assert 0.01 < normal < 0.9
    assert sign_flip_test(sums) == pytest.approx(normal, rel=0.03)
    few = np.array([3.0, 2.0, -1.0])
    # all signs are formed: with 1e7 the transform would take gigabytes
    monkeypatch.setattr(np, "cos", lambda values: pytest.fail("it is transformed"))
    for size in (1e8, 1e7):
        assert sign_flip_test(size * few) == pytest.approx(4 / 8)


def test_the_sign_flip_test_is_scipys():
    from scipy import stats

    options = {"permutation_type": "samples", "vectorized": True}
    for seed in range(3):
        sums = np.random.default_rng(seed).integers(-4, 6, size=9)
        found = stats.permutation_test((sums,), np.sum, n_resamples=np.inf, **options)
        assert sign_flip_test(sums) == pytest.approx(found.pvalue)


def test_both_ways_of_the_exact_test_agree(monkeypatch):
    draws = [np.random.default_rng(n).integers(-9, 10, size=11) for n in range(20)]
    listed = [sign_flip_test(sums) for sums in draws]
    assert [sign_flip_test(sums / 3) for sums in draws] == listed
    monkeypatch.setattr(statistics, "NARROW_BELOW", 0)  # by the transform
    found = [sign_flip_test(sums) for sums in draws]
    assert found == pytest.approx(listed, abs=1e-12)


def test_a_ratio_has_the_unit_of_what_is_given():
    values, weights = np.array([3.0, 0.0, 5.0, 2.0]), np.array([10.0, 10, 20, 10])
    for bootstrap in (
        Bootstrap(range(4), 4000),
        Bootstrap(range(4), 4000, multinomial=True),
    ):
        assert bootstrap.counts.sum(axis=1).tolist() == [4.0] * 4000
        assert bootstrap.counts.mean(axis=0) == pytest.approx([1.0] * 4, abs=0.06)
        rate = bootstrap.ratio(values, weights)
        assert rate.value == pytest.approx(0.2) and 0.0 < rate.low < 0.1
        assert 0.25 < rate.high <= 0.3 and math.isnan(rate.p)
        nothing = bootstrap.difference(values, np.zeros(4), weights)
        assert nothing[:3] == pytest.approx(rate[:3])
        scaled = bootstrap.ratio(7 * values, weights)
        assert scaled[:3] == pytest.approx([7 * x for x in rate[:3]])
        assert rate.percent()[:3] == pytest.approx([100 * x for x in rate[:3]])
        two_seeds = bootstrap.ratio(np.stack([values + 1, values - 1]), weights)
        assert two_seeds[:3] == pytest.approx(rate[:3])


def test_seeds_are_averaged_and_stay_with_their_utterance():
    errors = draw(0.2, 1)
    # the same errors, at other seeds in every utterance
    shuffled = np.random.default_rng(0).permuted(errors, axis=0)
    result = Bootstrap(range(U), 500).difference(shuffled, errors, TOKENS)
    assert result.low == pytest.approx(0, abs=1e-9) and result.p == 1


@pytest.mark.parametrize("units", [6, 30])
def test_equal_sums_of_other_seeds_are_no_difference(units):
    """2/3 - 1/3 and 4/3 - 5/3 are rounded, and their sum is not 0."""
    one = np.tile([[1.0, 1], [1, 1], [0, 2]], units)
    other = np.tile([[1.0, 1], [0, 2], [0, 2]], units)
    bootstrap = Bootstrap(np.repeat(np.arange(units), 2), 200)
    assert bootstrap.difference(one, other, np.ones(2 * units)) == (0, 0, 0, 1)


def test_a_clear_difference_leaves_out_zero():
    boot = Bootstrap(range(U), 2000)
    worse = boot.difference(draw(0.3, 1), draw(0.1, 2), TOKENS)
    assert 0.18 < worse.low < worse.value < worse.high < 0.22 and worse.p <= 0.002
    better = boot.difference(draw(0.1, 2), draw(0.3, 1), TOKENS)
    assert better.value == -worse.value and better.high < 0


def test_the_interval_is_that_of_the_normal_distribution():
    one, other = draw(0.2, 1), draw(0.2, 2)
    d = one.mean(axis=0) - other.mean(axis=0)
    half = 1.96 * d.std() / math.sqrt(U) / 5
    result = Bootstrap(range(U), 5000).difference(one, other, TOKENS)
    assert result.value == pytest.approx(d.sum() / TOKENS.sum())
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
    assert result.value == pytest.approx(0.1)


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


def test_intervals_by_group_are_those_of_scipy():
    from scipy import stats

    rng = np.random.default_rng(3)
    groups, weights = np.arange(90) // 3, rng.integers(5, 40, 90).astype(float)
    one, other = rng.binomial(weights.astype(int), [[0.1], [0.12]])
    ours = Bootstrap(groups, 500, seed=7).difference(one, other, weights)
    theirs = stats.bootstrap(
        (sum_by(one - other, groups), sum_by(weights, groups)),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        n_resamples=500,
        paired=True,
        method="percentile",
        random_state=np.random.default_rng(7),
    )
    assert (ours.low, ours.high) == pytest.approx(theirs.confidence_interval, rel=1e-9)


def test_welch():
    # se = sqrt(1/3 + 1/3), 4 degrees of freedom, t = 2.776
    low, high = welch_interval([1, 2, 3], [4, 5, 6])
    assert low == pytest.approx(-3 - 2.2667, abs=1e-3)
    assert high == pytest.approx(-3 + 2.2667, abs=1e-3)
    # unequal variances: by the formula
    from scipy import stats

    sides = [4.0, 5.0, 9.0], [1.0, 1.5, 1.7]
    parts = [np.var(x, ddof=1) / 3 for x in sides]
    freedom = sum(parts) ** 2 / sum(part**2 / 2 for part in parts)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    middle = np.mean(sides[0]) - np.mean(sides[1])
    assert welch_interval(*sides) == pytest.approx((middle - half, middle + half))
    assert welch_interval([1, 1], [2, 2]) == (-1, -1)
    assert welch_interval([1], [2, 3]) is None


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
        (-1.0, 0.05, (-2.0, -0.5), "no difference shown"),
        (1.0, 0.049, (0.0, 2.0), "worse, seeds differ as much"),
    ],
)
def test_verdict(value, p, seeds, words):
    assert verdict(value, p, seeds) == words
