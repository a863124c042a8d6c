"""Methods side by side: what a folder of classification runs says, and what it cannot.

* **accuracy**: mean over the seeds of a method, and their standard deviation, which
  holds the chance of the training and, where seeds are tested by different speakers
  (``split: rotating``), that of the speakers;
* **95 % interval**: bootstrap over the test *speakers*, a clip that several seeds were
  tested on counting once, with their mean;
* **paired test** against a reference method: for every test clip, in how many seeds
  each of the two was right; the sign test over the clips in which they differ, exact
  and two-sided. Where every clip belongs to one seed that is McNemar's exact test.
  Answers of several seeds to one clip are pooled first: they are not several clips;
* **Holm's correction** of its p for as many methods as are compared.

What the intervals and the test speak of is these trained networks on further speakers.
The clips of a speaker resemble each other, which the sign test does not know and the
intervals do: where the two disagree, believe the wider one.
"""

import json
import math
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from espnet_adastride.comparison import holm
from espnet_adastride.downsampling.registry import unknown_word
from espnet_adastride.recipe.errors import RecipeError

LEVEL = 0.05
DRAWS = 10000


class Row(NamedTuple):
    """One method of the table; see the file's top.

    Attributes:
        method: its word.
        seeds: of its runs.
        accuracies: percent, one a seed.
        interval: (low, high) percent.
        parameters: trained numbers of the network.
        rate: input frames by output frames, mean over the seeds.
        cpu_seconds: of a training, mean over the seeds.
        comparison: None for the reference, or without one.
    """

    method: str
    seeds: Tuple[int, ...]
    accuracies: Tuple[float, ...]
    interval: Tuple[float, float]
    parameters: int
    rate: float
    cpu_seconds: float
    comparison: Optional["Comparison"]


class Comparison(NamedTuple):
    """A method against the reference, over the seeds that both have.

    Attributes:
        difference: of the accuracies, in percentage points.
        interval: (low, high) of it.
        better: clips that the method got right in more seeds than the reference.
        worse: in fewer.
        p: of the sign test.
        p_holm: the same, corrected for all methods of the table.
    """

    difference: float
    interval: Tuple[float, float]
    better: int
    worse: int
    p: float
    p_holm: float = float("nan")


#: the finished runs of a method, {seed: content of result.json}
Runs = Dict[int, Dict[str, Any]]


def read_runs(folder) -> Dict[str, Runs]:
    """Read the finished runs of an experiment: {method: {seed: result}}.

    Raises:
        RecipeError: there is none, or runs of one seed were tested on different clips.
    """
    runs: Dict[str, Runs] = {}
    clips: Dict[int, set] = {}
    for path in sorted(Path(folder).glob("*/result.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        seed = run["seed"]
        if clips.setdefault(seed, set(run["predictions"])) != set(run["predictions"]):
            raise RecipeError(f"{path}: tested on other clips than the runs beside it")
        runs.setdefault(run["method"], {})[seed] = run
    if not runs:
        raise RecipeError(f"{folder}: no finished run (*/result.json) in it")
    return runs


def right_answers(run: Dict[str, Any]) -> Dict[str, int]:
    """Return {clip: 1 if the word before the slash was recognised, else 0}."""
    answers = run["predictions"].items()
    return {clip: int(clip.split("/")[0] == word) for clip, word in answers}


def pool(values: List[Dict[str, int]]) -> Tuple[List[str], np.ndarray, np.ndarray]:
    """Return the clips, sorted, and over the seeds that have each its sum and mean."""
    pooled: Dict[str, List[int]] = {}
    for one in values:
        for clip, value in one.items():
            pooled.setdefault(clip, []).append(value)
    clips = sorted(pooled)
    sums = np.array([sum(pooled[clip]) for clip in clips])
    return clips, sums, sums / [len(pooled[clip]) for clip in clips]


def speakers_of(clips: Sequence[str]) -> List[str]:
    """Return who spoke each clip, WORD/SPEAKER_nohash_N."""
    return [clip.split("/")[1].split("_")[0] for clip in clips]


def speaker_interval(
    values: np.ndarray, speakers: Sequence[str], draws: int = DRAWS
) -> Tuple[float, float]:
    """Return the 95 % percentile interval of the mean, speakers drawn with replacement.

    Args:
        values: (clips,).
        speakers: (clips,) who spoke each.
        draws: of the bootstrap; its random numbers are always the same.
    """
    names, who = np.unique(speakers, return_inverse=True)
    sums = np.bincount(who, weights=values)
    counts = np.bincount(who)
    generator = np.random.default_rng(0)
    even = np.full(len(names), 1 / len(names))
    times = generator.multinomial(len(names), even, size=draws)
    means = (times @ sums) / (times @ counts)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def sign_test(differences: np.ndarray) -> Tuple[int, int, float]:
    """Return how many are above 0, how many below, and the exact two-sided p.

    Args:
        differences: (clips,) seeds in which one was right less those of the other.
    """
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    number = better + worse
    tail = sum(math.comb(number, k) for k in range(min(better, worse) + 1))
    return better, worse, min(1.0, 2 * tail / 2**number)


def compare(runs: Dict[str, Runs], reference: str) -> List[Row]:
    """Return the table's rows, the reference first, then by falling accuracy.

    Args:
        runs: of :func:`read_runs`.
        reference: the method to compare with; not among the runs: no comparison.
    """
    rows = []
    for method, own in runs.items():
        right = {seed: right_answers(run) for seed, run in sorted(own.items())}
        clips, _, means = pool(list(right.values()))
        comparison = None
        if method != reference and set(own) & set(runs.get(reference, {})):
            comparison = _compare_two(own, runs[reference])
        rows.append(
            Row(
                method,
                tuple(right),
                tuple(100.0 * np.mean(list(r.values())) for r in right.values()),
                speaker_interval(100.0 * means, speakers_of(clips)),
                max(run["parameters"] for run in own.values()),
                float(np.mean([run["rate"] for run in own.values()])),
                float(np.mean([run["cpu_seconds"] for run in own.values()])),
                comparison,
            )
        )
    compared = [index for index, row in enumerate(rows) if row.comparison is not None]
    corrected = holm([rows[index].comparison.p for index in compared])
    for index, p in zip(compared, corrected):
        comparison = rows[index].comparison._replace(p_holm=p)
        rows[index] = rows[index]._replace(comparison=comparison)
    return sorted(rows, key=lambda r: (r.method != reference, -np.mean(r.accuracies)))


def _compare_two(ours: Runs, theirs: Runs) -> Comparison:
    """Compare over the seeds that both have."""
    differences = []
    for seed in sorted(set(ours) & set(theirs)):
        mine, other = right_answers(ours[seed]), right_answers(theirs[seed])
        differences.append({clip: mine[clip] - other[clip] for clip in mine})
    clips, sums, means = pool(differences)
    interval = speaker_interval(100.0 * means, speakers_of(clips))
    return Comparison(100.0 * float(means.mean()), interval, *sign_test(sums))


def format_table(rows: List[Row], runs: Dict[str, Runs], reference: str) -> str:
    """Return the Markdown table of :func:`compare`, and how to read it."""
    head = ["method", "parameters", "rate", "accuracy, %", "95 % interval"]
    with_reference = any(row.comparison for row in rows)
    if with_reference:
        head += [f"to {reference}, points", "clips better / worse", "p", "p (Holm)"]
    head.append("CPU s")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        spread = np.std(row.accuracies, ddof=1) if len(row.seeds) > 1 else None
        accuracy = f"{np.mean(row.accuracies):.1f}"
        accuracy += "" if spread is None else f" +- {spread:.1f}"
        cells = [f"`{row.method}`", f"{row.parameters:,}", f"{row.rate:.1f}", accuracy]
        cells.append("{:.1f} to {:.1f}".format(*row.interval))
        if with_reference:
            cells += _comparison_cells(row.comparison)
        lines.append("| " + " | ".join([*cells, f"{row.cpu_seconds:.0f}"]) + " |")
    return "\n".join([*lines, "", *_notes(rows, runs, reference)]) + "\n"


def _comparison_cells(comparison: Optional[Comparison]) -> List[str]:
    if comparison is None:
        return ["", "", "", ""]
    low, high = comparison.interval
    return [
        f"{comparison.difference:+.1f} ({low:+.1f} to {high:+.1f})",
        f"{comparison.better} / {comparison.worse}",
        _format_p(comparison.p),
        _format_p(comparison.p_holm),
    ]


def _format_p(p: float) -> str:
    return f"{p:.1e}" if p < 0.001 else f"{p:.3f}"


def _notes(rows, runs, reference) -> List[str]:
    clips = {
        c for own in runs.values() for run in own.values() for c in run["predictions"]
    }
    seeds = sorted({row.seeds for row in rows})
    named = "; or ".join(", ".join(map(str, one)) for one in seeds)
    lines = [
        f"{len(clips)} test clips of {len(set(speakers_of(clips)))} speakers; seeds "
        f"{named}. Accuracy: mean +- standard deviation over the seeds; intervals: "
        "bootstrap over the speakers."
    ]
    compared = [row for row in rows if row.comparison]
    if compared:
        apart = [f"`{r.method}`" for r in compared if r.comparison.p_holm < LEVEL]
        lines += [
            f"p: sign test over clips, a clip's seeds pooled; Holm: corrected for "
            f"{len(compared)} comparisons (without it, one in 20 methods that are no "
            f"different has p < {LEVEL}). Different from `{reference}` at "
            f"{LEVEL} after the correction: {', '.join(apart) or 'none'}. Methods are "
            "not compared with one another.",
        ]
    return lines


def confusion(runs: Runs) -> Tuple[List[str], np.ndarray]:
    """Return the words, and counts (words, words): spoken by recognised, all seeds."""
    words = sorted(
        {clip.split("/")[0] for r in runs.values() for clip in r["predictions"]}
    )
    words = sorted(
        {*words, *(w for r in runs.values() for w in r["predictions"].values())}
    )
    place = {word: index for index, word in enumerate(words)}
    counts = np.zeros((len(words), len(words)), dtype=int)
    for run in runs.values():
        for clip, answer in run["predictions"].items():
            counts[place[clip.split("/")[0]], place[answer]] += 1
    return words, counts


def option_curve(rows: Sequence[Row], option: str) -> Dict[str, List]:
    """Return the rows in which one option was varied: {method: [(value, row), ...]}.

    A row belongs to it whose word is ``METHOD:OPTION=VALUE`` with a number and nothing
    else; a method is kept if there are two values at least.
    """
    curves: Dict[str, List] = {}
    for row in rows:
        method, _, rest = row.method.partition(":")
        word, _, value = rest.partition("=")
        if word != option:
            continue
        try:
            curves.setdefault(method, []).append((float(value), row))
        except ValueError:  # several options, or a word
            continue
    return {m: sorted(c, key=lambda p: p[0]) for m, c in curves.items() if len(c) > 1}


def plot_option(rows: Sequence[Row], option: str, reference: str) -> Figure:
    """Draw accuracy over the values of an option, with the reference's as a band.

    Lines are means over the seeds, dots are the seeds, bars the bootstrap intervals.

    Args:
        rows: of :func:`compare`.
        option: a word of the method, such as ``sigma_square``; its axis is logarithmic
            where all values are above 0.
        reference: the method of the band; not among the rows: no band.

    Returns:
        A figure for ``plotting.save_figure``.

    Raises:
        RecipeError: no method has two values of it.
    """
    curves = option_curve(rows, option)
    if not curves:
        raise RecipeError(
            f"{option}: no method has finished runs with two values of it; train "
            f"METHOD:{option}=VALUE for some"
        )
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(6.4, 4.0), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for row in rows:
            if row.method == reference:
                axes.axhspan(*row.interval, color="0.92", lw=0)
                label = f"{reference}, 95 % interval"
                axes.axhline(np.mean(row.accuracies), color="0.55", lw=1.2, label=label)
        for index, (method, points) in enumerate(curves.items()):
            colour = f"C{index}"
            values = [value for value, _ in points]
            means = np.array([np.mean(row.accuracies) for _, row in points])
            ends = np.array([row.interval for _, row in points])
            reach = np.abs(ends.T - means)
            axes.errorbar(
                values,
                means,
                reach,
                color=colour,
                marker="o",
                capsize=3,
                label=f"{method}, mean and 95 % interval",
            )
            for value, row in points:
                one = [value] * len(row.accuracies)
                axes.plot(one, row.accuracies, ".", color=colour, alpha=0.45)
        if min(value for points in curves.values() for value, _ in points) > 0:
            axes.set_xscale("log")
        ticks = sorted({value for points in curves.values() for value, _ in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.set_xlabel(option)
        axes.set_ylabel("accuracy, %")
        axes.legend(frameon=False, loc="lower center", ncols=1)
    return figure


def plot_confusion(runs: Dict[str, Runs], method: str) -> Figure:
    """Draw what a method takes for what, in percent of a word's clips, all seeds.

    Returns:
        A figure for ``plotting.save_figure``.

    Raises:
        RecipeError: the method has no finished run.
    """
    if method not in runs:
        raise RecipeError(unknown_word("method", method, runs))
    words, counts = confusion(runs[method])
    share = 100.0 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    size = 1.6 + 0.5 * len(words)
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(size, size), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
        places = range(len(words))
        axes.set_xticks(places, words, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, words)
        axes.set_xlabel("recognised")
        axes.set_ylabel("spoken")
        for row, column in np.argwhere(counts > 0):
            value = share[row, column]
            axes.text(
                column,
                row,
                f"{value:.0f}" if value >= 0.95 else f"{value:.1f}",
                ha="center",
                va="center",
                size=9,
                color="white" if value > 55 else "black",
            )
        seeds = len(runs[method])
        right = 100.0 * np.trace(counts) / counts.sum()
        axes.set_title(
            f"{method}: {right:.1f} % right, {seeds} seed{'s' if seeds > 1 else ''}\n"
            "percent of a word's test clips",
            size=10,
        )
    return figure
