"""The statistics of ASR systems: seeds and methods compared on the same utterances.

    errors of every utterance -> error rate of every seed: mean, standard deviation
        -> difference to the baseline at the same rate, paired by utterance
        -> Markdown

What the intervals and tests show, and what they do not: ``evaluation/statistics.py``.
"""

from dataclasses import dataclass, field
from statistics import mean
from typing import Dict, List, Sequence

import numpy as np

from espnet_adastride.errors import UserError
from espnet_adastride.evaluation.statistics import (
    LEVEL,
    Bootstrap,
    few_units_note,
    holm,
    verdict,
    welch_interval,
)
from espnet_adastride.report.tables import (
    format_interval,
    format_p,
    markdown_table,
    spread,
)


@dataclass
class Result:
    """Results of a system at one rate on the test set, one run for each seed.

    Attributes:
        system: Name.
        rate: Configured downsampling.
        seeds: Seeds of the runs, in the order of the other lists.
        word_errors, char_errors: (U,) for each seed.
        stats: For each seed, other figures of the training: ``stride``,
            ``largest_jump``, ``empty_slots``, ``minutes``.
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
        words, chars: (U,) number of reference tokens.
        groups: (U,) groups of utterances that share recordings or a speaker.
    """

    words: np.ndarray
    chars: np.ndarray
    groups: Sequence[str]


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
        baseline: Name of the system that the others are compared with, at the same rate
            and over the seeds that both have.
        resamples: Number of bootstrap resamples.

    Raises:
        UserError: No result at all.
    """
    results = [r for r in results if r.seeds]
    if not results:
        raise UserError("no run is finished yet: there is nothing to compare")
    names = ["rate", "method", "WER %", "CER %", "WER of each seed", "learned rate"]
    names += ["largest jump", "empty slots", "minutes a run"]
    rows = []
    for r in results:
        wer = _rates(r.word_errors, test.words)
        row = [f"{r.rate:g}x", f"`{r.system}`", spread(wer)]
        row.append(spread(_rates(r.char_errors, test.chars)))
        row.append(" ".join(f"{value:.2f}" for value in wer))
        row += [_stat(r, "stride", 2), _stat(r, "largest_jump", 1)]
        row += [_stat(r, "empty_slots", 3), _stat(r, "minutes", 1)]
        rows.append(row)
    text = markdown_table(names, rows) + "\n"
    return text + _difference_table(results, test, baseline, resamples)


def _pair(one: Result, other: Result):
    """Return the seeds that both have; word and character errors (S, U) of the two."""
    seeds = [s for s in one.seeds if s in other.seeds]

    def pick(errors, seeds_of):
        return np.array([errors[seeds_of.index(s)] for s in seeds])

    return (
        seeds,
        [pick(x.word_errors, x.seeds) for x in (one, other)],
        [pick(x.char_errors, x.seeds) for x in (one, other)],
    )


def pair_table(
    results: Sequence[Result],
    test: Reference,
    pairs: Sequence[Sequence[str]],
    bootstrap: Bootstrap,
) -> str:
    """Return the differences of pairs of systems at every rate that both have; or "".

    Args:
        results: systems by rate.
        test: the test set.
        pairs: (system, other): system minus other, over the seeds that both have.
        bootstrap: over the groups.
    """
    found = []
    for rate in dict.fromkeys(r.rate for r in results):
        at_rate = {r.system: r for r in results if r.rate == rate}
        for names in pairs:
            if not all(name in at_rate for name in names):
                continue
            seeds, errors, _ = _pair(*(at_rate[name] for name in names))
            if seeds:
                difference = bootstrap.difference(*errors, test.words).percent()
                welch = welch_interval(*(_rates(e, test.words) for e in errors))
                found.append((rate, names, seeds, difference, welch))
    if not found:
        return ""
    rows = []
    corrected = holm([difference.p for _, _, _, difference, _ in found])
    for (rate, (one, other), seeds, d, welch), p in zip(found, corrected):
        row = [f"{rate:g}x", f"`{one}` minus `{other}`", ", ".join(map(str, seeds))]
        row += [f"{d.value:+.2f}", format_interval(d.low, d.high), format_p(p)]
        row += [format_interval(*welch) if welch else "", verdict(d.value, p, welch)]
        rows.append(row)
    names = ["rate", "methods", "seeds", "WER", "over groups", "p, Holm", "over seeds"]
    return markdown_table([*names, "verdict"], rows)


def _difference_table(
    results: Sequence[Result], test: Reference, baseline: str, resamples: int
) -> str:
    by_utterance = Bootstrap(np.arange(len(test.words)), resamples)
    by_group = Bootstrap(test.groups, resamples)
    bases = {r.rate: r for r in results if r.system == baseline}
    found = []
    for r in results:
        base = bases.get(r.rate)
        if base is None or r is base:
            continue
        seeds, wer_pair, cer_pair = _pair(r, base)
        if not seeds:
            continue
        plain = by_utterance.difference(*wer_pair, test.words).percent()
        grouped = by_group.difference(*wer_pair, test.words).percent()
        chars = by_group.difference(*cer_pair, test.chars).percent()
        over_seeds = welch_interval(*(_rates(e, test.words) for e in wer_pair))
        found.append((r, len(seeds), plain, grouped, chars, over_seeds))
    if not found:
        return f"No rate has both `{baseline}` and another method yet.\n"
    names = ["rate", f"method minus `{baseline}`", "seeds", "WER", "over utterances"]
    names += ["over groups", "p, Holm", "over seeds", "CER, over groups", "verdict"]
    rows = []
    corrected = holm([grouped.p for _, _, _, grouped, _, _ in found])
    for (r, seeds, plain, grouped, chars, over_seeds), p in zip(found, corrected):
        row = [f"{r.rate:g}x", f"`{r.system}`", str(seeds), f"{plain.value:+.2f}"]
        row.append(format_interval(plain.low, plain.high))
        row += [format_interval(grouped.low, grouped.high), format_p(p)]
        row.append(format_interval(*over_seeds) if over_seeds else "")
        row.append(f"{chars.value:+.2f} {format_interval(chars.low, chars.high)}")
        row.append(verdict(grouped.value, p, over_seeds))
        rows.append(row)
    note = few_units_note(by_group.number, "groups")
    return (
        markdown_table(names, rows)
        + "\n"
        + f"{len(test.words)} utterances, {int(test.words.sum())} words, "
        f"{by_group.number} groups of utterances that share speaker or "
        "recordings. WER and CER: mean ± standard deviation over seeds. Differences "
        "are in points, negative is better; in brackets 95 % intervals: *over "
        f"utterances* and *over groups* by bootstrap ({resamples} paired test sets, "
        "the seeds of an utterance kept together), *over seeds* by Welch. Utterances "
        "of a group are not independent: use the interval over groups; p refers to "
        "it. *Learned rate*, *largest jump* and *empty slots* are those of "
        "the last epoch, means over seeds.\n\n"
        + (f"{note}\n\n" if note else "")
        + "*Verdict*: better or worse where p, adjusted by Holm's method for the "
        f"{len(rows)} comparisons of this table, is below {LEVEL:g}. The intervals are "
        "not adjusted: one in twenty misses. The paired tests are of these trained "
        "models only; *seeds differ as much*: the interval over seeds contains 0, and "
        "other seeds may reverse the sign.\n"
    )
