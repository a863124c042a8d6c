"""Comparing systems that were trained with several seeds, on the same test utterances.

    reference, hypothesis -> errors of every utterance (:func:`utterance_errors`)
        -> error rate of every seed: mean, standard deviation
        -> difference to the baseline at the same rate, paired by utterance
        -> Markdown

**The paired test.** The errors of a system in an utterance are averaged over its seeds,
so that an utterance carries all seeds with it; the difference of two systems is
``100 sum(d) / sum(words)`` over the utterances. Its 95 % interval and p value come from
a bootstrap: utterances (or groups of them, where utterances share recordings and are
not independent) are drawn with replacement. That answers whether *these trained models*
differ on further utterances of this kind. Whether further *seeds* would differ is
another question, with three numbers on either side: Welch's interval over the seeds'
error rates.

**Few utterances.** A bootstrap of five utterances finds p < 0.001 where all five point
the same way, although chance alone does that once in 16 times. Below
:data:`EXACT_BELOW` units p is therefore exact: the sign of every unit's difference is
flipped in all 2^n ways. Its interval is then too narrow, which :func:`few_units_note`
says; of a single unit there is none.

**Many comparisons.** With 15 differences that are none, one of them will be significant
at 5 % more often than not: p values are adjusted by Holm's method over all rows of the
table.
"""

import math
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from espnet_adastride.errors import DataError
from espnet_adastride.evaluation.scoring import Tokenizer, align

LEVEL = 0.05

#: below so many units (utterances, or groups of them) p is that of the exact test
EXACT_BELOW = 20
#: with fewer units no exact p can be below LEVEL: 2 / 2^5 is 0.06
FEWEST_FOR_A_VERDICT = 6


@dataclass(frozen=True)
class Difference:
    """A difference of error rates, in percent points of the reference tokens.

    Attributes:
        value: System minus baseline: negative is better.
        low, high: 95 % interval; not-a-number where there is only one unit.
        p: Two-sided p value for "no difference".
    """

    value: float
    low: float
    high: float
    p: float


def utterance_errors(
    ref: Dict[str, str], hyp: Dict[str, str], tokenize: Tokenizer
) -> Tuple[np.ndarray, np.ndarray]:
    """Count the errors of every utterance.

    Returns:
        Errors and reference tokens, (U,) each, in the order of ``ref``.
    """
    counts = [a.counts for a in align(ref, hyp, tokenize)]
    return (
        np.array([c.errors for c in counts], dtype=float),
        np.array([c.words for c in counts], dtype=float),
    )


class Bootstrap:
    """Draws test sets with replacement, the same ones for every comparison.

    Args:
        units: (U,) what an utterance belongs to and is drawn with; a unit of its own
            for every utterance if they are independent.
        resamples: How many test sets are drawn.
        seed: Of the drawing.
    """

    def __init__(self, units: Sequence, resamples: int = 10000, seed: int = 0):
        names, self.unit = np.unique(np.asarray(units), return_inverse=True)
        self.number = len(names)
        rng = np.random.default_rng(seed)
        # how often every unit is in every test set
        self.counts = np.empty((resamples, self.number), dtype=np.float32)
        for row in self.counts:
            drawn = rng.integers(self.number, size=self.number)
            row[:] = np.bincount(drawn, minlength=self.number)

    def difference(
        self, system: np.ndarray, baseline: np.ndarray, tokens: np.ndarray
    ) -> Difference:
        """Compare two systems on the same utterances.

        Args:
            system: (S, U) errors by seed and utterance.
            baseline: (S', U) those of the baseline.
            tokens: (U,) reference tokens.
        """
        by_utterance = system.mean(axis=0) - baseline.mean(axis=0)
        sums = np.bincount(self.unit, by_utterance, self.number)
        lengths = np.bincount(self.unit, tokens, self.number)
        drawn = 100.0 * (self.counts @ sums) / (self.counts @ lengths)
        low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
        if self.number < 2:
            low = high = math.nan
        if self.number < EXACT_BELOW:
            p = sign_flip_test(sums)
        else:
            # rounding must not turn "no difference" into a tiny one
            fewer = min(np.sum(drawn <= 1e-9), np.sum(drawn >= -1e-9))
            p = min(1.0, 2.0 * (fewer + 1) / (len(drawn) + 1))
        value = 100.0 * by_utterance.sum() / tokens.sum()
        return Difference(float(value), float(low), float(high), float(p))


def sign_flip_test(sums: np.ndarray) -> float:
    """Return the exact two-sided p of a sum of differences, all signs flipped.

    Under the null hypothesis the two systems are exchangeable within a unit, so that
    its difference has either sign with probability 1/2. p is the share of the 2^n ways
    to choose the signs whose sum is at least as far from 0.

    Args:
        sums: (n,) the units' differences; n < EXACT_BELOW, for 2^n of them are formed.
    """
    flipped = np.zeros(1)
    for size in sums:
        flipped = np.concatenate([flipped + size, flipped - size])
    far = abs(float(np.sum(sums))) - 1e-9 * max(1.0, float(np.abs(sums).sum()))
    return float(np.mean(np.abs(flipped) >= far))


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


def seed_interval(
    system: Sequence[float], baseline: Sequence[float]
) -> Optional[Tuple[float, float]]:
    """Return Welch's 95 % interval of the difference of two means.

    None if either side has fewer than two seeds.
    """
    from scipy import stats

    if min(len(system), len(baseline)) < 2:
        return None
    difference = mean(system) - mean(baseline)
    parts = [stdev(x) ** 2 / len(x) for x in (system, baseline)]
    error = math.sqrt(sum(parts))
    if error == 0.0:
        return difference, difference
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(x) - 1) for part, x in zip(parts, (system, baseline))
    )
    half = error * stats.t.ppf(1 - LEVEL / 2, freedom)
    return difference - half, difference + half


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


# -------------------------------------------------------------------------- the systems


@dataclass
class Result:
    """A system at one rate: what its runs, one a seed, did on the test set.

    Attributes:
        system: Name.
        rate: Downsampling that was asked for.
        seeds: Seeds of the runs, in the order of the rest.
        word_errors, char_errors: (U,) a seed.
        stats: By seed, what else the training reported: ``stride``, ``largest_jump``,
            ``empty_slots``, ``minutes``.
    """

    system: str
    rate: float
    seeds: List[int] = field(default_factory=list)
    word_errors: List[np.ndarray] = field(default_factory=list)
    char_errors: List[np.ndarray] = field(default_factory=list)
    stats: List[Dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """What the systems were tested on.

    Attributes:
        words, chars: (U,) reference tokens of every utterance.
        groups: (U,) what utterances share recordings with each other.
    """

    words: np.ndarray
    chars: np.ndarray
    groups: Sequence[str]


def _spread(values: Sequence[float], digits: int = 2) -> str:
    text = f"{mean(values):.{digits}f}"
    return text + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def format_interval(low: float, high: float) -> str:
    """Return e.g. ``[-1.25, +0.50]``; "none" for not-a-number."""
    if math.isnan(low) or math.isnan(high):
        return "none"
    return f"[{low:+.2f}, {high:+.2f}]"


def format_p(value: float) -> str:
    """Return three decimals, or that it is smaller."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _rates(errors: Sequence[np.ndarray], tokens: np.ndarray) -> List[float]:
    return [float(100.0 * e.sum() / tokens.sum()) for e in errors]


def _stat(result: Result, name: str, digits: int) -> str:
    values = [s[name] for s in result.stats if name in s]
    return f"{mean(values):.{digits}f}" if values else ""


def format_comparison(
    results: Sequence[Result],
    test: Reference,
    baseline: str,
    resamples: int = 10000,
) -> str:
    """Write the tables: error rates, then differences to the baseline.

    Args:
        results: Systems by rate, in the order of the rows.
        test: The test set.
        baseline: Name of the system that others are compared with, at the same rate
            and over the seeds that both have.
        resamples: Of the bootstrap.

    Raises:
        DataError: No result at all.
    """
    results = [r for r in results if r.seeds]
    if not results:
        raise DataError("no run is finished yet: there is nothing to compare")
    lines = [
        "| rate | method | WER % | CER % | WER of each seed | learned rate "
        "| largest jump | empty slots | minutes a run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        wer = _rates(r.word_errors, test.words)
        each = " ".join(f"{value:.2f}" for value in wer)
        cells = [
            f"{r.rate:g}x",
            f"`{r.system}`",
            _spread(wer),
            _spread(_rates(r.char_errors, test.chars)),
            each,
            _stat(r, "stride", 2),
            _stat(r, "largest_jump", 1),
            _stat(r, "empty_slots", 3),
            _stat(r, "minutes", 1),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_difference_table(results, test, baseline, resamples)]
    return "\n".join(lines) + "\n"


def _difference_table(
    results: Sequence[Result], test: Reference, baseline: str, resamples: int
) -> List[str]:
    by_utterance = Bootstrap(np.arange(len(test.words)), resamples)
    by_group = Bootstrap(test.groups, resamples)
    bases = {r.rate: r for r in results if r.system == baseline}
    rows, p_values = [], []
    for r in results:
        base = bases.get(r.rate)
        if base is None or r is base:
            continue
        seeds = [s for s in r.seeds if s in base.seeds]
        if not seeds:
            continue
        wer_pair, cer_pair = (
            [np.stack([errors(x)[x.seeds.index(s)] for s in seeds]) for x in (r, base)]
            for errors in (lambda x: x.word_errors, lambda x: x.char_errors)
        )
        plain = by_utterance.difference(*wer_pair, test.words)
        grouped = by_group.difference(*wer_pair, test.words)
        chars = by_group.difference(*cer_pair, test.chars)
        over_seeds = seed_interval(*(_rates(e, test.words) for e in wer_pair))
        rows.append((r, len(seeds), plain, grouped, chars, over_seeds))
        p_values.append(grouped.p)
    if not rows:
        return [f"No rate has both `{baseline}` and another method yet."]
    lines = [
        f"| rate | method minus `{baseline}` | seeds | WER | over utterances "
        "| over groups | p, Holm | over seeds | CER, over groups | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row, p in zip(rows, holm(p_values)):
        r, seeds, plain, grouped, chars, over_seeds = row
        cells = [
            f"{r.rate:g}x",
            f"`{r.system}`",
            str(seeds),
            f"{plain.value:+.2f}",
            format_interval(plain.low, plain.high),
            format_interval(grouped.low, grouped.high),
            format_p(p),
            format_interval(*over_seeds) if over_seeds else "",
            f"{chars.value:+.2f} {format_interval(chars.low, chars.high)}",
            verdict(grouped, p, over_seeds),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"{len(test.words)} utterances, {int(test.words.sum())} words, "
        f"{by_group.number} groups (utt2spk) of utterances that share speaker or "
        "recordings. WER and CER: mean ± standard deviation over seeds. Differences "
        "are in points, negative is better; in brackets 95 % intervals: *over "
        f"utterances* and *over groups* by bootstrap ({resamples} paired test sets, "
        "the seeds of an utterance kept together), *over seeds* by Welch. Utterances "
        "of a group are not independent: the interval over groups is the honest one, "
        "and p is its. *Learned rate*, *largest jump* and *empty slots* are those of "
        "the last epoch, means over seeds.",
        "",
        *[note + "\n" for note in [few_units_note(by_group.number, "groups")] if note],
        "*Verdict*: better or worse where p, adjusted by Holm's method for the "
        f"{len(rows)} comparisons of this table, is below {LEVEL:g}. The intervals are "
        "not adjusted: one in twenty misses. The paired tests speak of these trained "
        "models; *seeds differ as much* says that the interval over seeds holds 0, and "
        "other seeds may turn the sign.",
    ]
    return lines


def verdict(
    difference: Difference, p: float, over_seeds: Optional[Tuple[float, float]]
) -> str:
    """Say in words what a row shows.

    Args:
        difference: System minus baseline.
        p: Its p value, adjusted for the number of comparisons.
        over_seeds: What :func:`seed_interval` returned.
    """
    if p >= LEVEL:
        return "no difference shown"
    word = "better" if difference.value < 0 else "worse"
    if over_seeds is None:
        return f"{word}, too few seeds"
    if over_seeds[0] <= 0.0 <= over_seeds[1]:
        return f"{word}, seeds differ as much"
    return word
