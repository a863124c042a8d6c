"""Every table and picture of an experiment, from its records alone.

The tests (paired bootstrap over speakers, Holm, Welch) are those of
espnet_adastride/evaluation/statistics.py.
"""

from collections import Counter
from statistics import mean
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure

from espnet_adastride.corpora.kaldi import shorten
from espnet_adastride.evaluation.statistics import Bootstrap, holm
from espnet_adastride.experiments.comparison import (
    Reference,
    Result,
    format_comparison,
    pair_table,
)
from espnet_adastride.experiments.definition import Experiment, decoding_and_set
from espnet_adastride.experiments.records import (
    Record,
    SetScores,
    same_data,
    split_records,
)
from espnet_adastride.experiments.runs import missing_runs
from espnet_adastride.report.style import COLOURS, drawing, line_style
from espnet_adastride.report.tables import format_interval, format_p, markdown_table

STATS = ("stride", "largest_jump", "empty_slots")
TERCILES = ("slow", "middle", "fast")


class Cell:
    """The records of a system at a rate: a seed each.

    Args:
        records: at least one.
        test_set: the set that is reported, by its name in records.
    """

    def __init__(self, records: Sequence[Record], test_set: str):
        self.records = sorted(records, key=lambda r: r.seed)
        self.system, self.rate = self.records[0].system, self.records[0].rate
        self.test_set = test_set
        self.decoding, self.set = decoding_and_set(test_set)

    def scores(self, name: str = "") -> List[SetScores]:
        """Return the scores of every seed."""
        return [r.sets[name or self.test_set] for r in self.records]

    def mean_errors(self, kind: str = "words", name: str = "") -> np.ndarray:
        """Return (U,) errors, averaged over the seeds."""
        return np.mean([s.errors(kind) for s in self.scores(name)], axis=0)

    def percent_of(self, errors: np.ndarray, kind: str = "words", name: str = ""):
        """Return errors in percent of the reference."""
        reference = self.scores(name)[0].reference(kind)
        return float(100.0 * np.sum(errors) / reference.sum())

    def share(self, what: str) -> float:
        """Return substitutions, deletions or insertions in percent of the words."""
        errors = np.mean([s.words[what] for s in self.scores()], axis=0)
        return self.percent_of(errors)

    def measured(self, name: str) -> float:
        """Return the mean of a measured figure; NaN where no record has it."""
        values = [r.measured(name) for r in self.records]
        values = [v for v in values if v is not None]
        return mean(values) if values else float("nan")

    def reference(self) -> Reference:
        """Return the test set, as comparison.py takes it."""
        scores = self.scores()[0]
        chars = scores.reference("characters")
        return Reference(scores.reference(), chars, scores.groups)

    def emitting(self) -> float:
        """Return the share of frames whose best token is not blank; NaN: unknown."""
        pairs = [
            (sum(scores.emitting), sum(scores.frames))
            for record in self.records
            for name, scores in record.sets.items()
            # written by greedy CTC, whichever decoding is reported
            if decoding_and_set(name)[1] == self.set and scores.frames
        ]
        if not pairs:
            return float("nan")
        return sum(a for a, _ in pairs) / sum(b for _, b in pairs)

    def result(self) -> Result:
        """Return what comparison.py takes."""
        result = Result(self.system, self.rate)
        for record, scores in zip(self.records, self.scores()):
            result.seeds.append(record.seed)
            result.word_errors.append(scores.errors())
            result.char_errors.append(scores.errors("characters"))
            stats = {}
            for phase in ("train", "valid"):
                for name in STATS:
                    values = record.content["learning"].get(phase, {}).get(name)
                    if values:
                        stats[name] = values[-1]
            seconds = record.content["timing"]["training_seconds"]
            result.stats.append({**stats, "minutes": seconds / 60})
        return result


def make_cells(
    experiment: Experiment, records: Dict[tuple, Record], test_set: str = ""
) -> List[Cell]:
    """Return the cells in the order of the grid's rates and systems.

    Args:
        test_set: name in records; default: the one that is reported.
    """
    test_set = test_set or experiment.reported
    groups: Dict[Tuple[float, str], List[Record]] = {}
    for run in experiment.runs():
        record = records.get(run.key)
        group = groups.setdefault((run.rate, run.system), [])
        if record is not None and test_set in record.sets:
            group.append(record)
    order = {rate: n for n, rate in enumerate(dict.fromkeys(r for r, _ in groups))}
    cells = [Cell(group, test_set) for group in groups.values() if group]
    return sorted(cells, key=lambda cell: order[cell.rate])


# ---------------------------------------------------------------- tables
def _interval(cell: Cell, bootstrap: Bootstrap) -> Tuple[float, float, float]:
    """Return WER and its 95 % interval over the groups."""
    errors = np.stack([s.errors() for s in cell.scores()])
    return bootstrap.ratio(errors, cell.scores()[0].reference()).percent()[:3]


def _rate_words(experiment: Experiment, cell: Cell) -> str:
    return f"{cell.rate:g}x, {experiment.feature_rate / cell.rate:.4g} Hz"


def decoding_table(experiment: Experiment, cells: Dict[str, List[Cell]], bootstrap):
    """Return WER of the first test set by decoding.

    Behind those of further decodings is the difference to the first, of the same models
    and utterances, with its interval over the speakers.

    Args:
        cells: of each decoding, in the same order.
    """
    names = ["rate", "method", "seeds", *(f"{name}, WER %" for name in cells)]
    rows = []
    first_cells, *further = cells.values()
    for first in first_cells:
        place = (first.rate, first.system)
        others = [c for part in further for c in part if (c.rate, c.system) == place]
        if len(others) < len(further):
            continue  # not decoded in all ways yet
        row = [_rate_words(experiment, first), f"`{first.system}`"]
        row += [str(len(first.records)), f"{first.percent_of(first.mean_errors()):.2f}"]
        for cell in others:
            errors = [np.stack([s.errors() for s in c.scores()]) for c in (cell, first)]
            words = first.scores()[0].reference()
            found = bootstrap.difference(*errors, words).percent()
            interval = format_interval(found.low, found.high)
            wer = cell.percent_of(cell.mean_errors())
            row.append(f"{wer:.2f} ({found.value:+.2f} {interval})")
        rows.append(row)
    return markdown_table(names, rows)


def error_table(experiment: Experiment, cells: Sequence[Cell], bootstrap) -> str:
    """Return WER with intervals over the speakers, and what the errors are."""
    further = experiment.set_names(cells[0].decoding)[1:]
    names = ["rate", "method", "seeds", "WER %", "95 % interval", "sub", "del", "ins"]
    names += ["CER %", *(f"WER % of {name}" for name in experiment.test_sets[1:])]
    rows = []
    for cell in cells:
        wer, low, high = _interval(cell, bootstrap)
        kinds = ("substitutions", "deletions", "insertions")
        row = [_rate_words(experiment, cell), f"`{cell.system}`"]
        row += [str(len(cell.records)), f"{wer:.2f}", format_interval(low, high, ".1f")]
        row += [f"{cell.share(kind):.2f}" for kind in kinds]
        row.append(
            f"{cell.percent_of(cell.mean_errors('characters'), 'characters'):.2f}"
        )
        for name in further:
            if any(name not in record.sets for record in cell.records):
                row.append("not tested")
                continue
            errors = cell.mean_errors("words", name)
            row.append(f"{cell.percent_of(errors, 'words', name):.2f}")
        rows.append(row)
    return markdown_table(names, rows)


def tercile_table(experiment: Experiment, cells: Sequence[Cell]) -> str:
    """Return WER by speaking rate: terciles of the utterances' words a second.

    Behind it the difference to the baseline at the same rate, with its interval over
    the speakers.
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
        row = [_rate_words(experiment, cell), f"`{cell.system}`"]
        base = bases.get(cell.rate)
        for part in range(3):
            chosen = parts == part
            words = scores.reference()[chosen]
            errors = cell.mean_errors()[chosen]
            text = f"{100 * errors.sum() / words.sum():.2f}"
            if base is not None and base is not cell:
                other = base.mean_errors()[chosen]
                found = draws[part].difference(errors, other, words).percent()
                interval = format_interval(found.low, found.high)
                text += f" ({found.value:+.2f} {interval})"
            row.append(text)
        rows.append(row)
    return markdown_table(names, rows)


def across_rates_table(experiment: Experiment, cells: Sequence[Cell], bootstrap) -> str:
    """Return each method minus the baseline at every higher frame rate; "" if none.

    It answers whether a method needs fewer frames for the same errors.
    """
    pairs = [
        (cell, base)
        for cell in cells
        for base in cells
        if base.system == experiment.baseline and base.rate < cell.rate
    ]
    if not pairs:
        return ""
    found = []
    for cell, base in pairs:
        errors = [np.stack([s.errors() for s in c.scores()]) for c in (cell, base)]
        words = cell.scores()[0].reference()
        found.append(bootstrap.difference(*errors, words).percent())
    rows = [
        [
            f"`{cell.system}` at {_rate_words(experiment, cell)}",
            f"{experiment.feature_rate / base.rate:.4g} Hz",
            f"{len(cell.records)}, {len(base.records)}",
            f"{one.value:+.2f} {format_interval(one.low, one.high)}",
            format_p(p),
        ]
        for (cell, base), one, p in zip(pairs, found, holm([one.p for one in found]))
    ]
    names = ["method", f"minus `{experiment.baseline}` at", "seeds", "WER", "p, Holm"]
    return markdown_table(names, rows)


def _millions(value: float) -> str:
    return "" if np.isnan(value) else f"{value / 1e6:.2f}"


def cost_table(experiment: Experiment, cells: Sequence[Cell]) -> str:
    """Return frames, what CTC cannot align, parameters, operations and seconds."""
    sets = list(dict.fromkeys([experiment.train_set, *experiment.test_sets]))
    names = ["rate", "method", "frames that emit a token, %"]
    names += [f"CTC cannot align, % of {name}" for name in sets]
    names += ["parameters, M", "MAC/s, M", "of them input layer", "CPU ms/s"]
    rows = []
    for cell in cells:
        emitting = cell.emitting()
        row = [_rate_words(experiment, cell), f"`{cell.system}`"]
        row.append("" if np.isnan(emitting) else f"{100 * emitting:.1f}")
        counts = cell.records[0].measured("unalignable", {})
        for name in sets:
            bad, total = counts.get(name, (0, 0))
            row.append(f"{100 * bad / total:.1f}" if total else "")
        for name in ("parameters", "macs_per_second", "layer_macs_per_second"):
            row.append(_millions(cell.measured(name)))
        seconds = cell.measured("seconds_per_second")
        row.append("" if np.isnan(seconds) else f"{1000 * seconds:.2f}")
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


def _task_page(
    experiment: Experiment, records: Sequence[Record], resamples: int = 10000
) -> Tuple[str, Optional[Figure]]:
    """Return table and picture of classifiers or VQ-VAEs; imports PyTorch."""
    baseline = experiment.baseline
    if experiment.task == "vqvae":
        from espnet_adastride.experiments import vqvae

        found = vqvae.sort_runs(records)
        table = vqvae.format_table(found, baseline, resamples)
        return table, vqvae.plot_bits(found)
    from espnet_adastride.experiments.classification import pictures, results, tables

    runs = results.sort_runs(records)
    rows, figure = results.compare(runs, baseline), None
    if any(row.comparison for row in rows):
        figure = pictures.plot_data_sets({experiment.name: rows}, baseline)
    return tables.format_table(rows, runs, baseline), figure


def _decoded_by(cells: Sequence[Cell]) -> str:
    """Return what headings say about the decoding; "" if all models have only one."""
    return f", `{cells[0].decoding}`" if cells[0].decoding else ""


def _error_sections(experiment, cells, bootstrap, note, units) -> str:
    """Return the sections on the errors of one decoding."""
    decoding = _decoded_by(cells)
    where = f"{experiment.test_sets[0]}{decoding}"
    text = f"## Errors on {where}\n\n"
    text += error_table(experiment, cells, bootstrap)
    text += (
        f"\n{note} Substitutions, deletions and insertions are in percent of the "
        "words; means over the seeds.\n\n"
    )
    results, reference = [cell.result() for cell in cells], cells[0].reference()
    resamples = len(bootstrap.counts)
    text += f"## Differences{decoding}\n\n"
    text += format_comparison(results, reference, experiment.baseline, resamples)
    pairs = pair_table(results, reference, experiment.pairs, bootstrap)
    if pairs:
        text += (
            f"\n## Method against method{decoding}\n\n{pairs}\nPoints of WER on "
            f"{where} over the seeds that both have, negative: the first is better. "
            f"*Over groups*: 95 % intervals by bootstrap over the {units}; *over "
            "seeds*: Welch's.\n"
        )
    across = across_rates_table(experiment, cells, bootstrap)
    if across:
        text += (
            f"\n## Against more frames{decoding}\n\n{across}\nPoints of WER on "
            f"{where}, negative is better; 95 % intervals over the {units}, not "
            "adjusted.\n"
        )
    return text


def write_page(
    experiment: Experiment, records: Sequence[Record], resamples: int = 10000
) -> str:
    """Return the page of an experiment (Markdown).

    Args:
        records: all of its folder; those of other settings or outside the grid are
            named and left out.

    Raises:
        UserError: no record fits, or they were tested on different data.
    """
    fit, others = split_records(experiment, records)
    missing = missing_runs(experiment.runs(), fit, experiment.all_sets)
    text = f"# {experiment.title}\n\n"
    if missing:
        total = len(experiment.runs())
        text += f"Not run yet, {len(missing)} of {total}: {shorten(missing)}.\n\n"
    grid = {run.key for run in experiment.runs()}
    for where in ("of other settings", "outside the grid"):
        inside = where == "of other settings"
        left = [r for r in others if (r.key in grid) == inside]
        names = [f"{r.system} {r.rate:g}x seed {r.seed}" for r in left]
        if names:
            text += f"Records {where}, left out: {shorten(names)}.\n\n"
    cells = make_cells(experiment, fit)
    used = [record for cell in cells for record in cell.records]
    if not used:
        return text + "No run is finished yet.\n"
    if experiment.task != "asr":
        table, _ = _task_page(experiment, used, resamples)
        return text + "\n".join(origin_lines(used)) + f"\n\n{table}"
    decodings = experiment.scored_sets()
    for name in experiment.all_sets:
        same_data(used, name)
    scores = cells[0].scores()[0]
    bootstrap = Bootstrap(scores.groups, resamples)
    # LibriSpeech's speakers are numbers; egs/digits has groups of one speaker's takes
    units = "speakers" if all(g.isdigit() for g in scores.groups) else "groups"
    text += "\n".join(setup_lines(experiment, used)) + "\n\n"
    note = (
        f"{bootstrap.number} {units}, {len(scores.utterances)} utterances, "
        f"{int(scores.reference().sum())} words. Intervals: bootstrap over the {units}."
    )
    by_decoding = {
        name: make_cells(experiment, fit, names[0]) for name, names in decodings.items()
    }
    if len(decodings) > 1:
        text += f"## Decodings, {experiment.test_sets[0]}\n\n"
        text += decoding_table(experiment, by_decoding, bootstrap)
        text += (
            f"\n{note} In brackets: minus `{next(iter(decodings))}` of the same "
            "models, 95 % interval, not adjusted.\n\n"
        )
    text += "\n".join(
        _error_sections(experiment, cells, bootstrap, note, units)
        for cells in by_decoding.values()
    )
    decoding = _decoded_by(cells)
    text += f"\n## WER by speaking rate, {experiment.test_sets[0]}{decoding}\n\n"
    text += tercile_table(experiment, cells)
    text += (
        f"\nIn brackets: minus `{experiment.baseline}` at the same rate, 95 % interval "
        f"over the {units}, not adjusted.\n\n## Frames and cost\n\n"
    )
    text += cost_table(experiment, cells)
    text += (
        "\nMultiply-accumulates and processor time (one thread) are of encoder and CTC "
        "for one utterance of 12.8 s, per second of audio."
        + (" Decoder and language model are left out.\n" if decoding else "\n")
    )
    return text


def plot_page(experiment: Experiment, records: Sequence[Record]) -> Figure:
    """Draw WER over multiply-accumulates, a line a method; bars over the speakers.

    Classification: differences to the baseline; VQ-VAEs: error over bits a second.

    Returns:
        A figure for ``style.save_figure``; None if no record can be drawn.
    """
    fit, _ = split_records(experiment, records)
    cells = make_cells(experiment, fit)
    if cells and experiment.task != "asr":
        used = [record for cell in cells for record in cell.records]
        return _task_page(experiment, used)[1]
    cells = [c for c in cells if not np.isnan(c.measured("macs_per_second"))]
    if not cells:
        return None
    bootstrap = Bootstrap(cells[0].scores()[0].groups)
    lines: Dict[str, List[Cell]] = {}
    for cell in cells:
        lines.setdefault(cell.system, []).append(cell)
    with drawing(6.0, 4.0, layout="constrained") as figure:
        axes = figure.subplots()
        for number, (name, line) in enumerate(lines.items()):
            line = sorted(line, key=lambda cell: cell.measured("macs_per_second"))
            x = [cell.measured("macs_per_second") / 1e6 for cell in line]
            ends = np.array([_interval(cell, bootstrap) for cell in line])
            reach = np.abs(ends[:, 1:].T - ends[:, 0])
            style = line_style(number)
            if number >= len(COLOURS):  # they return: hollow marks tell the lines apart
                style["markerfacecolor"] = "white"
            axes.errorbar(x, ends[:, 0], reach, capsize=3, label=name, **style)
            for place, cell in zip(x, line):
                if len(cell.records) > 1:
                    wers = [cell.percent_of(s.errors()) for s in cell.scores()]
                    dots = {"color": style["color"], "alpha": 0.45}
                    axes.plot([place] * len(wers), wers, ".", **dots)
        for cell in lines.get(experiment.baseline, []):
            x = cell.measured("macs_per_second") / 1e6
            words = f"{experiment.feature_rate / cell.rate:.4g} Hz"
            wer = cell.percent_of(cell.mean_errors())
            axes.annotate(words, (x, wer), (6, 6), textcoords="offset points")
        axes.set_xlabel("million multiply-accumulates per second of audio")
        decoding = _decoded_by(cells).replace("`", "")
        axes.set_ylabel(f"word error rate on {experiment.test_sets[0]}{decoding}, %")
        axes.set_ylim(bottom=0)
        axes.grid()
        figure.legend(loc="outside upper center", ncols=4)
    return figure
