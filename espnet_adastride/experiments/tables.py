"""Every page of an experiment, from its records alone; ``pictures.py`` draws.

Intervals and tests (bootstrap and exact test over speakers, Holm, Welch) are those of
espnet_adastride/evaluation/statistics.py.
"""

from collections import Counter
from pathlib import Path
from statistics import mean
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure

from espnet_adastride.corpora.kaldi import shorten
from espnet_adastride.errors import counted, located
from espnet_adastride.evaluation.statistics import NARROW_BELOW, Bootstrap
from espnet_adastride.experiments.cells import Cell, make_cells
from espnet_adastride.experiments.comparison import (
    across_rates_table,
    common_seeds,
    equal_compute_table,
    format_comparison,
    minus,
    pair_table,
)
from espnet_adastride.experiments.definition import Experiment, read_experiment
from espnet_adastride.experiments.pictures import plot_compute, plot_methods
from espnet_adastride.experiments.records import (
    ERRORS,
    Record,
    matching_records,
    same_data,
    same_training_set,
)
from espnet_adastride.experiments.runs import missing_runs
from espnet_adastride.files import PathLike, write_text
from espnet_adastride.report.style import save_figure
from espnet_adastride.report.tables import format_interval, format_known, markdown_table

CAPTIONS = {
    "asr": "WER over multiply-accumulates",
    "one rate": "WER of each method",
    "classification": "Accuracy, points to the baseline",
    "vqvae": "Error over bits per second",
}
#: what bars and marks of a picture are
LEGENDS = {
    "asr": "Bars: 95 % intervals of each WER by itself, over speakers or groups; small "
    "dots: seeds; blue circles: the baseline. Bars of methods that differ may overlap, "
    "as all are tested on the same utterances: the tables have the paired differences.",
    "classification": "Bars: 95 % intervals of the difference, over the groups; filled "
    "marks: different from the baseline after Holm's correction.",
    "vqvae": "Bars: the lowest and the highest seed; dotted: the tokens alone, without "
    "the side bits.",
}
LEGENDS["one rate"] = LEGENDS["asr"] + " Vertical line: the WER of the baseline."
LEGENDS["asr"] += " Numbers: frames per second of the baseline at its points."
TERCILES = ("slow", "middle", "fast")


# ------------------------------------------------------------ speech recognition
def decoding_table(experiment: Experiment, cells: Dict[str, List[Cell]], bootstrap):
    """Return WER of the first test set by decoding.

    Behind those of further decodings is the difference to the first, of the same models
    (the seeds decoded in all ways) and utterances, with its interval over the speakers.

    Args:
        cells: of each decoding, in the same order.
    """
    names = ["rate", "method", "seeds", *(f"{name}, WER %" for name in cells)]
    rows = []
    first_cells, *further = cells.values()
    for first in first_cells:
        place = (first.rate, first.system)
        others = [c for part in further for c in part if (c.rate, c.system) == place]
        seeds = common_seeds(first, *others)
        if len(others) < len(further) or not seeds:
            continue  # not decoded in all ways yet
        row = first.head(experiment.feature_rate)
        row += [str(len(seeds)), f"{first.rate_of(seeds=seeds):.2f}"]
        words, base = first.reference(), first.errors(seeds=seeds)
        for cell in others:
            found = minus(cell.errors(seeds=seeds), base, words, bootstrap)
            row.append(f"{cell.rate_of(seeds=seeds):.2f} ({' '.join(found)})")
        rows.append(row)
    return markdown_table(names, rows)


def error_table(experiment: Experiment, cells: Sequence[Cell], bootstrap) -> str:
    """Return WER with intervals over the speakers, and what the errors are."""
    further = experiment.set_names(cells[0].decoding)[1:]
    names = ["rate", "method", "seeds", "WER %", "95 % interval", "sub", "del", "ins"]
    names += ["CER %", *(f"WER % of {name}" for name in experiment.test_sets[1:])]
    rows = []
    for cell in cells:
        wer, low, high = cell.interval(bootstrap)
        row = cell.head(experiment.feature_rate)
        row += [str(len(cell.records)), f"{wer:.2f}", format_interval(low, high, ".1f")]
        row += [f"{cell.share(kind):.2f}" for kind in ERRORS]
        row.append(f"{cell.rate_of('characters'):.2f}")
        for name in further:
            tested = all(name in record.sets for record in cell.records)
            row.append(f"{cell.rate_of('words', name):.2f}" if tested else "not tested")
        rows.append(row)
    return markdown_table(names, rows)


def tercile_table(experiment: Experiment, cells: Sequence[Cell]) -> str:
    """Return WER by speaking rate: terciles of the utterances' words a second.

    Behind it the difference to the baseline at the same rate over their common seeds,
    with its interval over the speakers.
    """
    scores = cells[0].scores()[0]
    speed = scores.reference() / np.array(scores.seconds)
    bounds = np.quantile(speed, [1 / 3, 2 / 3])
    parts = np.digitize(speed, bounds)
    groups = np.array(scores.groups)
    bases = {c.rate: c for c in cells if c.system == experiment.baseline}
    names = ["rate", "method"]
    limits = (f"< {bounds[0]:.2f}", f"to {bounds[1]:.2f}", f"> {bounds[1]:.2f}")
    names += [f"{name} ({limit} words/s)" for name, limit in zip(TERCILES, limits)]
    rows = []
    draws = [Bootstrap(groups[parts == part]) for part in range(3)]
    for cell in cells:
        row = cell.head(experiment.feature_rate)
        base = bases.get(cell.rate)
        common = [] if base in (None, cell) else common_seeds(cell, base)
        for part in range(3):
            chosen = parts == part
            words = scores.reference()[chosen]
            if not words.sum():  # all utterances are equally fast
                row.append("")
                continue
            errors = cell.errors()[:, chosen]
            text = f"{100 * errors.mean(axis=0).sum() / words.sum():.2f}"
            if common:
                pair = [c.errors(seeds=common)[:, chosen] for c in (cell, base)]
                text += f" ({' '.join(minus(*pair, words, draws[part]))})"
            row.append(text)
        rows.append(row)
    return markdown_table(names, rows)


def cost_table(experiment: Experiment, cells: Sequence[Cell]) -> str:
    """Return frames, what CTC cannot align, parameters, operations and seconds."""
    sets = list(dict.fromkeys([experiment.train_set, *experiment.test_sets]))
    names = ["rate", "method", "frames that emit a token, %"]
    names += [f"CTC cannot align, % of {name}" for name in sets]
    names += ["parameters, M", "MAC/s, M", "of them input layer", "CPU ms/s"]
    rows = []
    for cell in cells:
        row = cell.head(experiment.feature_rate)
        row.append(format_known(100 * cell.emitting(), 1))
        counts = cell.records[0].measured("unalignable", {})
        for name in sets:
            bad, total = counts.get(name, (0, 0))
            row.append(f"{100 * bad / total:.1f}" if total else "")
        for name in ("parameters", "macs_per_second", "layer_macs_per_second"):
            row.append(format_known(cell.measured(name) / 1e6))
        row.append(cell.span("seconds_per_second", 1000))
        rows.append(row)
    return markdown_table(names, rows)


def setup_lines(experiment: Experiment, records: Sequence[Record]) -> List[str]:
    """Return what the records were made with, a line each."""
    lines = [
        f"- recipe `{experiment.recipe}/{experiment.script}`, configuration "
        f"`conf/{experiment.asr_config}`"
        + (f", `{experiment.asr_args}`" if experiment.asr_args else "")
        + "".join(f", {k} {v}" for k, v in experiment.options.items())
    ]
    made = {record.system for record in records}
    for variant in experiment.variants:
        name, _, words = variant.partition("=")
        if name in made:
            lines.append(f"- `{name}`: `{words}`")
    lines += [
        f"- decoding `{name}`: `conf/{words['inference_config']}`"
        + (f", `conf/{experiment.lm_config}`" if words.get("use_lm") else "")
        for name, words in experiment.decodings.items()
    ]
    upstreams = Counter(
        f"{r.content['upstream']['upstream']} ({r.content['upstream']['model']}, "
        f"SHA-256 {r.content['upstream']['sha256'][:12]}...)"
        for r in records
        if r.content.get("upstream")
    )
    lines += [f"- features: {words}" for words in upstreams]
    spent = [r.measured("upstream_seconds_per_second") for r in records]
    spent = [value for value in spent if value is not None]
    if spent:
        lines.append(
            f"- the upstream itself takes {1000 * mean(spent):.0f} CPU ms per second "
            "of audio; it is not in the columns below"
        )
    lines += origin_lines(records)
    for name in ("batch_bins", "max_epoch"):
        values = Counter(str(r.content["configuration"].get(name)) for r in records)
        lines.append(f"- {name}: {', '.join(values)}")
    return lines


def origin_lines(records: Sequence[Record]) -> List[str]:
    """Return the code, machines and versions of some records, a line each."""
    lines = []
    for what in ("commit", "machine"):
        counts = Counter(r.content.get(what) or "unknown" for r in records)
        each = ", ".join(f"{name} ({n})" for name, n in counts.items())
        lines.append(f"- {what}: {each}")
    counts = Counter(
        ", ".join(f"{k} {v}" for k, v in sorted(r.content["versions"].items()))
        for r in records
    )
    return lines + [f"- versions: {words} ({n})" for words, n in counts.items()]


def _section(title: str, body: str, note: str = "") -> str:
    return f"## {title}\n\n{body}" + (f"\n{note}\n" if note else "")


def _decoded_by(cells: Sequence[Cell]) -> str:
    """Return what headings say about the decoding; "" if all models have only one."""
    return f", `{cells[0].decoding}`" if cells[0].decoding else ""


def _error_sections(experiment, cells, bootstrap, note, units) -> List[str]:
    """Return the sections on the errors of one decoding."""
    decoding = _decoded_by(cells)
    where = f"{experiment.test_sets[0]}{decoding}"
    baseline, resamples = experiment.baseline, len(bootstrap.counts)
    sections = [
        _section(
            f"Errors on {where}",
            error_table(experiment, cells, bootstrap),
            f"{note} Substitutions, deletions and insertions are in percent of the "
            "words; means over the seeds.",
        ),
        _section(
            f"Differences{decoding}", format_comparison(cells, baseline, resamples)
        ),
    ]
    pairs, number = pair_table(cells, experiment.pairs, bootstrap)
    if pairs:
        note = (
            f"Points of WER on {where} over the seeds that both have, negative: the "
            "first is better. *Over groups*: 95 % intervals by bootstrap over the "
            f"{units}, not adjusted; p by an exact test, adjusted by Holm's method for "
            f"the {number} comparisons of this table; *over seeds*: Welch's."
        )
        sections.append(_section(f"Method against method{decoding}", pairs, note))
    rate = experiment.feature_rate
    across, number = across_rates_table(cells, baseline, rate, bootstrap)
    if across:
        note = (
            f"Points of WER on {where}, negative is better; 95 % intervals over the "
            f"{units}, not adjusted; p by an exact test, adjusted by Holm's method for "
            f"the {number} comparisons of this table; *seeds*: those that both have, "
            "and Welch's 95 % interval over them."
        )
        sections.append(_section(f"Against more frames{decoding}", across, note))
    return sections


def _recognition_page(
    experiment: Experiment, records: Dict[tuple, Record], resamples: int
) -> str:
    """Return the sections on speech recognition."""
    by_decoding = {
        name: make_cells(experiment, records, sets[0])
        for name, sets in experiment.scored_sets().items()
    }
    cells = next(iter(by_decoding.values()))  # that are reported
    used = [record for cell in cells for record in cell.records]
    fit = list(records.values())
    for name in experiment.all_sets:
        same_data(fit, name)
    same_training_set(fit, experiment.train_set)
    scores = cells[0].scores()[0]
    bootstrap = Bootstrap(scores.groups, resamples)
    # LibriSpeech's speakers are numbers; egs/digits has groups of one speaker's takes
    units = "speakers" if all(g.isdigit() for g in scores.groups) else "groups"
    baseline, rate = experiment.baseline, experiment.feature_rate
    narrow = f" With so few {units} they are too narrow."
    narrow = narrow if bootstrap.number < NARROW_BELOW else ""
    note = (
        f"{bootstrap.number} {units}, {counted(len(scores.utterances), 'utterance')}, "
        f"{int(scores.reference().sum())} words. Intervals: bootstrap over the {units}."
        f"{narrow}"
    )
    sections = ["\n".join(setup_lines(experiment, used)) + "\n"]
    if len(by_decoding) > 1:
        table = decoding_table(experiment, by_decoding, bootstrap)
        brackets = (
            f"{note} In brackets: minus `{next(iter(by_decoding))}` of the same "
            "models, 95 % interval, not adjusted."
        )
        title = f"Decodings, {experiment.test_sets[0]}"
        sections.append(_section(title, table, brackets))
    for decoded in filter(None, by_decoding.values()):  # not all may be finished
        sections += _error_sections(experiment, decoded, bootstrap, note, units)
    decoding = _decoded_by(cells)
    sections += [
        _section(
            f"WER by speaking rate, {experiment.test_sets[0]}{decoding}",
            tercile_table(experiment, cells),
            f"In brackets: minus `{baseline}` at the same rate over the "
            f"seeds of both, 95 % interval over the {units}, not adjusted.{narrow}",
        ),
        _section(
            "Frames and cost",
            cost_table(experiment, cells),
            "Multiply-accumulates and processor time (one thread) are of encoder and "
            "CTC for one utterance of 12.8 s, per second of audio. Processor time is "
            "given as the lowest and highest of the seeds, whose work is the same: it "
            "depends on what else the machine was doing; compare "
            "multiply-accumulates."
            " A frame emits a token if its best token is not blank; repeats count."
            + (" Decoder and language model are left out." if decoding else ""),
        ),
    ]
    # decoders are not in the compute
    table = "" if decoding else equal_compute_table(cells, baseline, rate, bootstrap)
    if table:
        note = (
            f"Points of WER on {experiment.test_sets[0]}, negative is better: minus "
            f"the line between the two points of `{baseline}` at as many "
            "multiply-accumulates, over the seeds that all three have; 95 % intervals "
            f"over the {units}, and Welch's over the seeds, not adjusted. On a convex "
            f"curve this line is an upper bound of the error of `{baseline}`, so gains "
            "are upper bounds, too."
        )
        sections.append(_section("At equal compute", table, note))
    return "\n".join(sections)


# ---------------------------------------------------------- classifiers, VQ-VAEs
def _task_page(
    experiment: Experiment, records: Sequence[Record], resamples: int = 10000
) -> Tuple[str, Optional[Figure]]:
    """Return table and picture of classifiers or VQ-VAEs; imports PyTorch."""
    baseline = experiment.baseline
    origin = "\n".join(origin_lines(records))
    if experiment.task == "vqvae":
        from espnet_adastride.experiments import vqvae

        found = vqvae.sort_runs(records)
        table = vqvae.format_table(found, baseline, resamples)
        return f"{origin}\n\n{table}", vqvae.plot_bits(found, baseline)
    from espnet_adastride.experiments.classification import pictures, results, tables

    runs = results.sort_runs(records)
    rows, figure = results.compare(runs, baseline), None
    if any(row.comparison for row in rows):
        figure = pictures.plot_data_sets({experiment.name: rows}, baseline)
    return f"{origin}\n\n{tables.format_table(rows, runs, baseline)}", figure


# ---------------------------------------------------------------- page and picture
def write_page(
    experiment: Experiment,
    fit: Dict[tuple, Record],
    others: Sequence[Record],
    resamples: int = 10000,
) -> str:
    """Return the page of an experiment (Markdown).

    Args:
        fit, others: of :func:`~.records.matching_records`; the others, of other
            settings or outside the grid, are named and left out.

    Raises:
        UserError: they were tested on different data.
    """
    runs = experiment.runs()
    missing = missing_runs(experiment, fit)
    text = f"# {experiment.title}\n\n"
    if missing:
        text += f"Not run yet, {len(missing)} of {len(runs)}: {shorten(missing)}.\n\n"
    grid = {run.key for run in runs}
    for where, inside in (("of other settings", True), ("outside the grid", False)):
        left = [r for r in others if (r.key in grid) == inside]
        names = [f"{r.system} {r.rate:g}x seed {r.seed}" for r in left]
        if names:
            text += f"Records {where}, left out: {shorten(names)}.\n\n"
    cells = make_cells(experiment, fit)
    if not cells:
        return text + "No run is finished yet.\n"
    if experiment.task == "asr":
        return text + _recognition_page(experiment, fit, resamples)
    used = [record for cell in cells for record in cell.records]
    return text + _task_page(experiment, used, resamples)[0]


def _picture_kind(experiment: Experiment) -> str:
    """Return the key of CAPTIONS and LEGENDS: the task, or that it has one rate."""
    one = len({run.rate for run in experiment.runs()}) == 1
    return "one rate" if one and experiment.task == "asr" else experiment.task


def plot_page(
    experiment: Experiment, fit: Dict[tuple, Record], chosen: bool = False
) -> Figure:
    """Draw WER over multiply-accumulates, or a row a method if there is one rate.

    Classification: differences to the baseline; VQ-VAEs: error over bits a second.

    Args:
        fit: the matching records.
        chosen: only the experiment's ``lines``, which may join several methods.

    Returns:
        A figure for ``style.save_figure``; None if no record can be drawn.
    """
    cells = make_cells(experiment, fit)
    if cells and experiment.task != "asr":
        used = [record for cell in cells for record in cell.records]
        return _task_page(experiment, used)[1]
    cells = [c for c in cells if not np.isnan(c.measured("macs_per_second"))]
    if not cells:
        return None
    bootstrap = Bootstrap(cells[0].scores()[0].groups)
    decoding = _decoded_by(cells).replace("`", "")
    label = f"word error rate on {experiment.test_sets[0]}{decoding}, %"
    if _picture_kind(experiment) == "one rate" and not chosen:
        return plot_methods(cells, experiment.baseline, label, bootstrap)
    lines: Dict[str, List[Cell]] = {}
    for cell in cells:
        lines.setdefault(cell.system, []).append(cell)
    if chosen:
        lines = {
            label: [cell for name in line for cell in lines.get(name, [])]
            for label, line in experiment.lines.items()
        }
        lines = {label: line for label, line in lines.items() if line}
        if not lines:
            return None
    return plot_compute(
        lines, experiment.baseline, experiment.feature_rate, label, bootstrap, chosen
    )


def write_results(
    definition: PathLike, records: PathLike, results: PathLike, resamples: int = 10000
) -> str:
    """Write page and picture of an experiment; return a line on them.

    Raises:
        UserError: the definition or a record cannot be used.
    """
    experiment = read_experiment(definition)
    folder = Path(records) / experiment.name
    fit, others = matching_records(experiment, folder)
    page = Path(results) / f"{experiment.name}.md"
    if not fit and not others:  # a wrong --records must not empty a page
        return f"{page}: not written, there is no record in {folder}"
    with located(definition):
        text = write_page(experiment, fit, others, resamples)
        figures = {"": plot_page(experiment, fit)}
        if experiment.lines and experiment.task == "asr":
            figures = {"_lines": plot_page(experiment, fit, chosen=True), **figures}
    kind = _picture_kind(experiment)
    drawn = {end: figure for end, figure in figures.items() if figure is not None}
    for end, figure in drawn.items():
        picture = page.with_name(f"{page.stem}{end}.png")
        page.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, picture)
        text += f"\n![{CAPTIONS[kind]}]({picture.name})\n"
    if drawn:
        text += f"\n{LEGENDS[kind]}\n"
    write_text(page, text)
    runs = experiment.runs()
    missing = missing_runs(experiment, fit)
    line = f"{page}: {len(runs) - len(missing)} of {len(runs)} runs"
    if missing:
        line += f"; missing: {shorten(missing)}"
    if others:
        line += f"; {len(others)} records do not belong to it and are left out"
    return line
