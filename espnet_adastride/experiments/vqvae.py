"""Tables and pictures of VQ-VAEs: methods compared, and error over bits per second.

The figures are defined in ``evaluation/vqvae.py``. No model is needed.
"""

import math
from pathlib import Path
from statistics import mean
from typing import Any, Dict, List, Sequence

import numpy as np
from matplotlib.figure import Figure

from espnet_adastride.errors import UserError
from espnet_adastride.evaluation.statistics import Bootstrap, few_units_note
from espnet_adastride.experiments.comparison import compare
from espnet_adastride.experiments.folders import read_results, run_name
from espnet_adastride.experiments.records import Record, checking, is_number
from espnet_adastride.files import PathLike, write_text
from espnet_adastride.options import name_seeds
from espnet_adastride.report.style import (
    drawing,
    label_points,
    line_style,
    save_figure,
)
from espnet_adastride.report.tables import format_known, markdown_table, spread

#: the numbers that the table needs of every run
FIGURES = (
    *("error", "rms_error", "error_exact", "perplexity", "tokens_per_second", "bits"),
    *("entropy_bits", "side_bits", "training_seconds", "seconds_of_speech"),
    "codebook_size",
)


def sort_runs(records: Sequence[Record]) -> List[Dict[str, Any]]:
    """Return the figures of some records, by rate, method and seed.

    Raises:
        UserError: they were tested on different recordings, or one has a wrong value.
    """
    runs = [record.figures for record in records]
    for record, run in zip(records, runs):
        with checking(record.path):
            _check_figures(run)
        if set(run["utterances"]) != set(runs[0]["utterances"]):
            raise UserError(
                f"{record.path}: tested on other recordings than {records[0].path}, so "
                "they cannot share a table: move one to another folder"
            )
    return sorted(runs, key=lambda r: (r["rate"], r["method"], r["seed"]))


def _check_figures(run: Dict[str, Any]) -> None:
    """Raise TypeError or KeyError unless all that the table needs is of its type."""
    for name in FIGURES:
        if not is_number(run[name]):
            raise TypeError(f"{name} is not a number")
    if not 0 < run["bits"] < math.inf:  # the table takes their logarithm
        raise TypeError("bits is not above zero")
    if not isinstance(run["utterances"], dict) or not run["utterances"]:
        raise TypeError("utterances is not a mapping")
    for name, one in run["utterances"].items():
        if not isinstance(one, dict):
            raise TypeError(f"utterances.{name} is not a mapping")
        if not is_number(one["frames"]) or not is_number(one["error"]):
            raise TypeError(f"utterances.{name} has no number of frames, or no error")
        if not isinstance(one["group"], str):
            raise TypeError(f"utterances.{name}.group is not a word")


def format_table(
    runs: List[Dict[str, Any]], reference: str, resamples: int = 10000
) -> str:
    """Return Markdown: figures of every method and rate, then paired differences.

    Args:
        runs: of :func:`sort_runs`.
        reference: method that others are compared with at the same rate.
        resamples: of the bootstrap.
    """
    cells: Dict[Any, List[Dict[str, Any]]] = {}
    for run in runs:
        cells.setdefault((run["rate"], run["method"]), []).append(run)
    order = sorted(cells, key=lambda k: (k[0], k[1] != reference, k[1]))
    names = ["rate", "method", "seeds", "error, dB", "RMS, dB"]
    names += ["with exact positions, dB", "perplexity", "tokens/s", "bit/s"]
    names += ["side bit/s", "together", "entropy-coded, together"]
    names += [f"`{reference}` at as many bits, dB", "minutes"]
    rows = []
    references = [own for (_, name), own in cells.items() if name == reference]
    for rate, method in order:
        own = cells[rate, method]

        def column(name, digits=2):
            return spread([run[name] for run in own], digits)

        together = [run["bits"] + run["side_bits"] for run in own]
        coded = [run["entropy_bits"] + run["side_bits"] for run in own]
        row = [f"{rate:g}x", f"`{method}`", ", ".join(str(r["seed"]) for r in own)]
        row += [column("error"), column("rms_error")]
        told = any(run["side_bits"] > 0 for run in own)
        row += [column("error_exact") if told else ""]
        row += [column("perplexity", 0), column("tokens_per_second", 1)]
        row += [column("bits", 0), column("side_bits", 0), spread(together, 0)]
        row += [spread(coded, 0)]
        at_equal_bits = _error_at(mean(together), references)
        row += ["" if method == reference else format_known(at_equal_bits)]
        row += [spread([r["training_seconds"] / 60 for r in own], 1)]
        rows.append(row)
    first = runs[0]
    groups = {u["group"] for u in first["utterances"].values()}
    return (
        markdown_table(names, rows)
        + f"\n{len(first['utterances'])} test recordings of {len(groups)} texts or "
        f"files, {first['seconds_of_speech'] / 60:.1f} minutes, none of whose texts is "
        f"in the training; codebook of {first['codebook_size']}. Mean ± standard "
        "deviation over seeds. Error: mean absolute difference of log-mels, by a "
        "decoder that knows tokens and, where strides adapt, the number of steps of "
        "every slot: the *side bits*, by their entropy. *With exact positions*: the "
        "encoder's real numbers, which cannot be sent. **Methods of one rate have "
        "equal token rates, not equal bits: where strides adapt, compare with "
        f"`{reference}` at as many bits**: between its rates, by the logarithm of the "
        "bits.\n\n" + _differences(cells, order, reference, resamples)
    )


def _error_at(bits: float, rates: List[List[Dict[str, Any]]]) -> float:
    """Return a method's error at some bits a second, between its rates; NaN beyond.

    Args:
        rates: the method's runs, a list for each rate.
    """
    points = sorted(
        (
            mean(math.log2(run["bits"] + run["side_bits"]) for run in own),
            mean(run["error"] for run in own),
        )
        for own in rates
    )
    if not points:
        return math.nan
    place = math.log2(bits)
    return float(np.interp(place, *zip(*points), left=math.nan, right=math.nan))


def _differences(cells, order, reference, resamples) -> str:
    utterances = next(iter(cells.values()))[0]["utterances"]
    ids = sorted(utterances)
    frames = np.array([utterances[i]["frames"] for i in ids], dtype=float)

    def errors(runs, seeds):
        own = {run["seed"]: run["utterances"] for run in runs}
        return frames * [[own[seed][i]["error"] for i in ids] for seed in seeds]

    found, pairs = [], []
    for rate, method in order:
        sides = cells[rate, method], cells.get((rate, reference), [])
        seeds = sorted(set.intersection(*({r["seed"] for r in own} for own in sides)))
        if method != reference and seeds:
            names = name_seeds(seeds)
            found.append([f"{rate:g}x", f"`{method}`", names])
            pairs.append([errors(own, seeds) for own in sides])
    if not found:
        return f"No rate has both `{reference}` and another method yet.\n"
    groups = Bootstrap([utterances[i]["group"] for i in ids], resamples)
    rows = [
        [*head, *difference.columns()]
        for head, difference in zip(found, compare(pairs, frames, groups, scale=1.0))
    ]
    names = ["rate", f"method minus `{reference}`", "seeds", "error, dB", "over texts"]
    names += ["p, Holm", "over seeds", "verdict, bits aside"]
    note = few_units_note(groups.number, "texts or files")
    return (
        markdown_table(names, rows)
        + f"\nPaired bootstrap over texts ({resamples} test sets; the readings of a "
        "text and the seeds of a recording kept together), over the seeds that both "
        "have, negative is better; p by an exact test, corrected for "
        f"{len(rows)} comparisons, the intervals are not; over seeds: Welch's 95 % "
        "interval.\n" + (f"\n{note}\n" if note else "")
    )


def plot_bits(runs: List[Dict[str, Any]], reference: str) -> Figure:
    """Draw error over bits a second, a line for each method.

    Marks are means over seeds, bars the lowest and the highest seed, numbers the rates.
    Where the decoder must be told durations, these bits count, and a dotted line shows
    what the tokens alone would be.

    Args:
        runs: figures of all runs.
        reference: the method that is drawn first, and in the first style.

    Returns:
        A figure for ``style.save_figure``.
    """
    cells: Dict[str, Dict[float, List[Dict[str, Any]]]] = {}
    for run in runs:
        cells.setdefault(run["method"], {}).setdefault(run["rate"], []).append(run)
    with drawing(6.6, 4.4, layout="constrained") as figure:
        axes, labels = figure.add_subplot(), []
        # False comes first: the reference
        methods = sorted(cells, key=lambda method: (method != reference, method))
        for number, method in enumerate(methods):
            style = line_style(number)
            rates = cells[method]
            errors = [[run["error"] for run in own] for own in rates.values()]
            centre = np.array([mean(own) for own in errors])
            reach = np.abs(np.array([[min(e), max(e)] for e in errors]).T - centre)
            tokens = [mean(run["bits"] for run in own) for own in rates.values()]
            side = [mean(run["side_bits"] for run in own) for own in rates.values()]
            together = np.add(tokens, side)
            axes.errorbar(together, centre, reach, capsize=3, label=method, **style)
            if max(side) > 0:
                alone = {**style, "marker": "", "linestyle": ":", "lw": 1.2}
                axes.plot(tokens, centre, **alone)
            labels += [
                (f"{rate:g}x", (x, y), {"size": 8, "color": style["color"]})
                for rate, x, y in zip(rates, together, centre)
            ]
        axes.set_xscale("log")
        low, high = np.log2(np.array(axes.get_xlim()) / 25)
        ticks = [25 * 2.0**n for n in range(math.floor(low), math.ceil(high) + 1)]
        axes.set_xlim(ticks[0], ticks[-1])
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("bits per second; dotted: tokens without durations")
        axes.set_ylabel("error of log-mels, dB")
        axes.grid()
        figure.legend(loc="outside upper center", ncols=min(len(cells), 4))
        sides = [(right, up) for up in (9, -9, 18, -18) for right in (5, -5)]
        label_points(axes, labels, sides)
    return figure


def report(exp: PathLike, reference: str) -> None:
    """Write the table, the picture and the listening page (lowest seeds)."""
    from espnet_adastride.report.listening import page  # needs torch

    exp = Path(exp).resolve()
    runs = sort_runs(read_results(exp, task="vqvae"))
    table = format_table(runs, reference)
    write_text(exp / "RESULTS.md", table)
    first: Dict[Any, Dict[str, Any]] = {}
    for run in sorted(runs, key=lambda r: r["seed"]):
        first.setdefault((run["rate"], run["method"]), run)
    shown = sorted(first.values(), key=lambda r: (r["rate"], r["method"]))
    names = [
        run_name(run["method"], f"{run['rate']:g}x", f"seed{run['seed']}")
        for run in shown
    ]
    folders = [exp / name / "listen" for name in names]
    write_text(exp / "listen.html", page(shown, folders))
    save_figure(plot_bits(runs, reference), exp / "bits.png")
    print(f"\n{table}\nListening page: {exp / 'listen.html'}")
    print(f"Error over bits per second: {exp / 'bits.png'}")
