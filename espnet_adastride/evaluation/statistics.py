"""Intervals and tests: bootstrap, sign-flip test, Welch, Holm.

An interval has the unit of its values: errors divided by words are a rate, errors in dB
divided by frames are dB; :meth:`Estimate.percent` converts to percent or points.

**The paired test.** The values of a system in an utterance are averaged over its seeds,
so that an utterance carries all seeds with it; the difference of two systems is
``sum(d) / sum(weights)`` over the utterances. Its 95 % interval comes from a bootstrap:
utterances (or groups of them, where utterances share recordings and are not
independent) are drawn with replacement. Its p value comes from an exact test: the sign
of each unit's difference is flipped in all ways (:func:`sign_flip_test`). Both answer
whether *these trained models* differ on further utterances of this kind. Whether
further *seeds* would differ is another question, with three numbers on either side:
Welch's interval over the seeds.

**Why p is not the bootstrap's.** With few units that would be too small, as tests over
few clusters are (Cameron, Gelbach and Miller 2008): of five utterances that all point
one way it finds p < 0.001, although chance alone does that once in 16 times. Nor can it
be below 2 / (number of test sets drawn), however clear the difference.

**Few units.** Below :data:`NARROW_BELOW` units the interval is too narrow, which
:func:`few_units_note` says; of a single unit there is none.

**Many comparisons.** With 15 differences that are none, one of them will be significant
at 5 % more often than not: p values are adjusted by Holm's method.

Welch's interval is scipy's. The rest is ours: the AUC needs the test sets themselves,
which scipy's bootstrap (the same intervals) keeps to itself; its permutation test
enumerates 2^n signs where whole numbers need a Fourier transform, and it has no Holm.
"""

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

LEVEL = 0.05

#: below so many units (utterances, or groups of them) the bootstrap's interval is too
#: narrow, and all 2^n signs of a sum can be listed
NARROW_BELOW = 20
#: steps of the sum of all sizes on which the sign-flip test rounds: so many, or so
#: many for each unit if that is more
GRID, GRID_OF_A_UNIT = 100_000, 30
#: it rounds whole numbers if their sum times the number of different sizes exceeds this
MOST_WORK = 100_000_000
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
        system, baseline = np.atleast_2d(system), np.atleast_2d(baseline)
        # the means over seeds times a number: whole numbers stay whole, without
        # rounding errors, which the test would take for differences
        number = math.lcm(len(system), len(baseline))
        values = system.sum(axis=0) * (number // len(system))
        values = values - baseline.sum(axis=0) * (number // len(baseline))
        drawn, sums = self._drawn(values, number * np.asarray(weights))
        value = float(values.sum() / (number * np.sum(weights)))
        # of a failed system: no comparison is a verdict
        p = sign_flip_test(sums) if math.isfinite(value) else 1.0
        return Estimate(value, *self.interval(drawn), p)


def sum_by(values: np.ndarray, units: Sequence) -> np.ndarray:
    """Return the sum of the values (U,) of every unit, in the order of their names."""
    return np.bincount(np.unique(units, return_inverse=True)[1], weights=values)


def sign_flip_test(sums: np.ndarray) -> float:
    """Return the exact two-sided p of a sum of differences, all signs flipped.

    Under the null hypothesis the two systems are exchangeable within a unit, so that
    its difference has either sign with probability 1/2. p is the share of the 2^n ways
    to choose the signs whose sum is at least as far from 0. Where every unit is -1, 0
    or 1, that is McNemar's exact test.

    Args:
        sums: (n,) the units' differences, finite. Of n >= NARROW_BELOW units, fractions
            are rounded to 1 / GRID of the sum of their sizes, and so are whole numbers
            that would take longer than seconds (MOST_WORK).
    """
    sums = np.asarray(sums, dtype=float)
    sums = sums[sums != 0]
    total = float(np.abs(sums).sum())
    if not total:
        return 1.0
    if len(sums) < NARROW_BELOW:
        flipped = np.zeros(1)
        for size in np.abs(sums):
            flipped = np.concatenate([flipped + size, flipped - size])
        return float(np.mean(np.abs(flipped) >= abs(sums.sum()) - 1e-9 * total))
    fractions = np.abs(sums - sums.round()).max() > 1e-9 * total
    if fractions or total * len(np.unique(np.abs(sums))) > MOST_WORK:
        sums = sums * (max(GRID, GRID_OF_A_UNIT * len(sums)) / total)
    sums = sums.round().astype(int)
    sizes, counts = np.unique(np.abs(sums), return_counts=True)
    # The distribution of the sum, negative sums from the end backwards: its Fourier
    # transform is the product of those of the units, which are cosines.
    length = 1 << int(2 * np.abs(sums).sum()).bit_length()
    cosine = np.cos(2 * np.pi / length * np.arange(length))
    frequencies = np.arange(length // 2 + 1)
    product = np.ones(len(frequencies))
    for size, count in zip(sizes, counts):
        product *= cosine[size * frequencies % length] ** count
    probability = np.fft.irfft(product, length)
    least = abs(int(sums.sum()))
    p = float(probability[least : length - least + 1].sum())
    p = round(p, 12) or p  # rounding errors of the transform: 1/16 is shown as 0.062
    return min(1.0, max(2.0 ** (1 - len(sums)), p))


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
    if number >= NARROW_BELOW:
        return ""
    note = f"Only {number} {kind}: the interval of so few is too narrow."
    if number < FEWEST_FOR_A_VERDICT:
        note += (
            f" No difference over fewer than {FEWEST_FOR_A_VERDICT} {kind} can have a "
            f"p below {LEVEL:g}."
        )
    return note


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


def paired_verdict(difference: float, p: float) -> str:
    """Say in words what a paired test shows, where less is better.

    Args:
        difference: system minus baseline.
        p: its p value, adjusted for the number of comparisons.
    """
    if p >= LEVEL:
        return "no difference shown"
    return "better" if difference < 0 else "worse"


def verdict(
    difference: float, p: float, over_seeds: Optional[Tuple[float, float]]
) -> str:
    """Return the paired verdict, and what the seeds say of a difference.

    Args:
        difference, p: of :func:`paired_verdict`.
        over_seeds: what :func:`welch_interval` returned.
    """
    word = paired_verdict(difference, p)
    if p >= LEVEL:
        return word
    if over_seeds is None:
        return f"{word}, too few seeds"
    if over_seeds[0] <= 0.0 <= over_seeds[1]:
        return f"{word}, seeds differ as much"
    return word
