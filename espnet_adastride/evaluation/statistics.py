"""Intervals and tests: bootstrap, exact test, Welch, Holm.

An interval has the unit of its values: errors divided by words are a rate, errors in dB
divided by frames are dB; :meth:`Estimate.percent` converts to percent or points.

**The paired test.** The values of a system in an utterance are averaged over its seeds,
so that an utterance carries all seeds with it; the difference of two systems is
``sum(d) / sum(weights)`` over the utterances. Its 95 % interval and p value come from a
bootstrap: utterances (or groups of them, where utterances share recordings and are not
independent) are drawn with replacement. That answers whether *these trained models*
differ on further utterances of this kind. Whether further *seeds* would differ is
another question, with three numbers on either side: Welch's interval over the seeds.

**Few units.** A bootstrap of five utterances finds p < 0.001 where all five point the
same way, although chance alone does that once in 16 times. Below :data:`EXACT_BELOW`
units p is therefore exact (:func:`exact_test`). The interval is then too narrow, which
:func:`few_units_note` says; of a single unit there is none.

**Many comparisons.** With 15 differences that are none, one of them will be significant
at 5 % more often than not: p values are adjusted by Holm's method.

Welch's interval is scipy's. The rest is ours: the p values and the AUC need the test
sets themselves, which scipy's bootstrap (the same intervals) keeps to itself; its
permutation test enumerates 2^n signs where whole numbers need a convolution, and it has
no Holm.
"""

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from espnet_adastride.errors import UserError

LEVEL = 0.05

#: below so many units (utterances, or groups of them) p is that of the exact test
EXACT_BELOW = 20
#: with fewer units no exact p can be below LEVEL: 2 / 2^5 is 0.06
FEWEST_FOR_A_VERDICT = 6
#: from so many speakers on, the utterances of a speaker are drawn together
FEWEST_SPEAKERS = 8


class Estimate(NamedTuple):
    """A figure with its 95 % interval.

    Attributes:
        value: the figure; of a difference: system minus baseline.
        low, high: ends of the interval; not-a-number where there is only one unit.
        p: two-sided p value for "no difference"; not-a-number where none was asked for.
    """

    value: float
    low: float
    high: float
    p: float = math.nan

    def percent(self) -> "Estimate":
        """Return figure and interval times 100: a rate in percent, or points."""
        return Estimate(100 * self.value, 100 * self.low, 100 * self.high, self.p)


class Bootstrap:
    """Draws test sets with replacement, the same ones for every comparison.

    Args:
        units: (U,) what an utterance belongs to and is drawn with; a unit of its own
            for every utterance if they are independent.
        resamples: how many test sets are drawn.
        seed: of the drawing.
        multinomial: draw how often a unit is taken rather than the units one by one:
            the same in law. The tables of classification were made so, and keep their
            digits.

    Attributes:
        number: of units.
        counts: (resamples, number) how often every unit is in every test set.
    """

    def __init__(
        self,
        units: Sequence,
        resamples: int = 10000,
        seed: int = 0,
        multinomial: bool = False,
    ):
        names, self.unit = np.unique(np.asarray(units), return_inverse=True)
        self.number = number = len(names)
        rng = np.random.default_rng(seed)
        if multinomial:
            even = np.full(number, 1 / number)
            self.counts = rng.multinomial(number, even, resamples).astype(np.float32)
            return
        self.counts = np.empty((resamples, number), dtype=np.float32)
        for row in self.counts:
            drawn = rng.integers(number, size=number)
            row[:] = np.bincount(drawn, minlength=number)

    def interval(self, drawn: Sequence[float]) -> Tuple[float, float]:
        """Return the 95 % percentile interval of a figure of the test sets."""
        if self.number < 2 or not len(drawn):
            return math.nan, math.nan
        low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
        return float(low), float(high)

    def _drawn(self, values, weights) -> Tuple[np.ndarray, np.ndarray]:
        """Return the ratio of every test set, and the sum of every unit's values.

        Test sets without weight (all of their references are empty) are left out.
        """
        sums = np.bincount(self.unit, values, self.number)
        lengths = np.bincount(self.unit, weights, self.number)
        drawn, weight = self.counts @ sums, self.counts @ lengths
        return drawn[weight > 0] / weight[weight > 0], sums

    def ratio(self, values: np.ndarray, weights: np.ndarray) -> Estimate:
        """Return the sum of values by the sum of weights, such as an error rate.

        Args:
            values: (U,), or (S, U) by seed and utterance: their mean is taken.
            weights: (U,) such as reference words.
        """
        values = np.atleast_2d(values).mean(axis=0)
        drawn, _ = self._drawn(values, weights)
        value = float(values.sum() / np.sum(weights))
        return Estimate(value, *self.interval(drawn))

    def difference(
        self, system: np.ndarray, baseline: np.ndarray, weights: np.ndarray
    ) -> Estimate:
        """Compare two systems on the same utterances: :meth:`ratio` of the difference.

        Args:
            system: (U,), or (S, U) by seed and utterance.
            baseline: (U,) or (S', U).
            weights: (U,).
        """
        values = np.atleast_2d(system).mean(axis=0)
        values = values - np.atleast_2d(baseline).mean(axis=0)
        drawn, sums = self._drawn(values, weights)
        value = float(values.sum() / np.sum(weights))
        if math.isnan(value):
            p = 1.0  # of a failed system: no comparison is a verdict
        elif self.number < EXACT_BELOW:
            p = exact_test(sums)
        else:
            # rounding must not turn "no difference" into a tiny one
            tiny = 1e-9 * np.abs(values).sum() / np.sum(weights)
            fewer = min(np.sum(drawn <= tiny), np.sum(drawn >= -tiny))
            p = min(1.0, 2.0 * (fewer + 1) / (len(drawn) + 1))
        return Estimate(value, *self.interval(drawn), float(p))


def check_resamples(bootstrap: Bootstrap, comparisons: int) -> None:
    """Reject a bootstrap that cannot show a difference after Holm's correction.

    Raises:
        UserError: says how many resamples are needed.
    """
    resamples, needed = len(bootstrap.counts), round(2 * comparisons / LEVEL)
    if bootstrap.number >= EXACT_BELOW and resamples < needed:
        raise UserError(
            f"--resamples {resamples}: too few for {comparisons} comparisons, as no p "
            f"could be below {LEVEL:g}; give at least {needed}"
        )


def sum_by(values: np.ndarray, units: Sequence) -> np.ndarray:
    """Return the sum of the values (U,) of every unit, in the order of their names."""
    return np.bincount(np.unique(units, return_inverse=True)[1], weights=values)


def exact_test(sums: np.ndarray) -> float:
    """Return the exact two-sided p of a sum of differences, all signs flipped.

    Under the null hypothesis the two systems are exchangeable within a unit, so that
    its difference has either sign with probability 1/2. p is the share of the 2^n ways
    to choose the signs whose sum is at least as far from 0. Where every unit is -1, 0
    or 1, that is McNemar's exact test.

    Args:
        sums: (n,) the units' differences. Whole numbers may be many; of others
            (n < EXACT_BELOW) all 2^n sums are formed.
    """
    sizes = np.abs(np.asarray(sums, dtype=float))
    sizes, total = sizes[sizes > 0], float(sizes.sum())
    far = abs(float(np.sum(sums))) - 1e-9 * total
    if (sizes == sizes.round()).all():
        # the probability of every sum from -total to total, unit by unit
        probability = np.zeros(2 * int(total) + 1)
        probability[int(total)] = 1.0
        for size in sizes.astype(int):
            flipped = np.zeros_like(probability)
            flipped[size:] += probability[:-size] / 2
            flipped[:-size] += probability[size:] / 2
            probability = flipped
        places = np.abs(np.arange(-int(total), int(total) + 1))
        return min(1.0, float(probability[places >= far].sum()))
    flipped = np.zeros(1)
    for size in sizes:
        flipped = np.concatenate([flipped + size, flipped - size])
    return float(np.mean(np.abs(flipped) >= far))


def resampling_units(speakers: Sequence[str]) -> Tuple[Sequence, str]:
    """Return (unit of each utterance, their name): the speakers, if there are enough.

    Otherwise each utterance is a unit, and intervals hold for no other speakers.

    Args:
        speakers: (U,) of each utterance.
    """
    if FEWEST_SPEAKERS <= len(set(speakers)) < len(speakers):
        return speakers, "speakers"
    return range(len(speakers)), "utterances"


def few_units_note(number: int, kind: str) -> str:
    """Return what to say of a comparison over few units; nothing where there are many.

    Args:
        number: of units.
        kind: their name, e.g. ``utterances``.
    """
    if number >= EXACT_BELOW:
        return ""
    note = (
        f"Only {number} {kind}: p is that of the exact test (all signs flipped), and "
        "the interval of so few is too narrow."
    )
    if number < FEWEST_FOR_A_VERDICT:
        note += (
            f" No difference over fewer than {FEWEST_FOR_A_VERDICT} {kind} can have a "
            f"p below {LEVEL:g}."
        )
    return note


def smallest_p_note(bootstrap: Bootstrap, comparisons: int) -> str:
    """Return what to say of the smallest p that a table can have after Holm's method.

    That is the p of a difference with the same sign in every test set drawn, however
    large it is. Nothing where p is exact, or the smallest is below what tables show.
    """
    least = 2.0 * comparisons / (len(bootstrap.counts) + 1)
    if bootstrap.number < EXACT_BELOW or least < 0.001:
        return ""
    return (
        f"With {comparisons} comparisons p cannot be below {least:.3f}, that of a "
        "difference with the same sign in all of the test sets drawn: p does not order "
        "the rows that share it."
    )


def welch_interval(
    system: Sequence[float], baseline: Sequence[float]
) -> Optional[Tuple[float, float]]:
    """Return Welch's 95 % interval of the difference of two means, e.g. over seeds.

    None if either side has fewer than two values.
    """
    from scipy import stats

    if min(len(system), len(baseline)) < 2:
        return None
    if np.ptp(system) == np.ptp(baseline) == 0:  # scipy has no interval then
        return (float(np.mean(system) - np.mean(baseline)),) * 2
    found = stats.ttest_ind(system, baseline, equal_var=False)
    low, high = found.confidence_interval(1 - LEVEL)
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> List[float]:
    """Adjust p values for their number (Holm 1979), in their order."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(
        sorted(range(len(p_values)), key=p_values.__getitem__)
    ):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(
    difference: float, p: float, over_seeds: Optional[Tuple[float, float]]
) -> str:
    """Say in words what a comparison shows, where less is better.

    Args:
        difference: system minus baseline.
        p: its p value, adjusted for the number of comparisons.
        over_seeds: what :func:`welch_interval` returned.
    """
    if p >= LEVEL:
        return "no difference shown"
    word = "better" if difference < 0 else "worse"
    if over_seeds is None:
        return f"{word}, too few seeds"
    if over_seeds[0] <= 0.0 <= over_seeds[1]:
        return f"{word}, seeds differ as much"
    return word
