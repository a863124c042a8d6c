"""Word error rate over rate over cost: one model at many rates beside others.

A point is a model at an overall rate: its word errors on a set of utterances, decoded
greedily one by one, and its computing time per second of audio (real-time factor).
:func:`measure` makes points. Those of one name and rate, such as seeds, are pooled
(:func:`pool`); :func:`format_table` and :func:`plot_rates` show them.
:func:`compare_models` does all.
"""

import json
import math
import re
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure

from espnet_adastride.corpora.datadir import read_table
from espnet_adastride.corpora.kaldi import read_recordings
from espnet_adastride.corpora.recordings import read_audio
from espnet_adastride.errors import AudioError, UserError, located
from espnet_adastride.evaluation.scoring import speaker_of, utterance_errors, words
from espnet_adastride.evaluation.statistics import Bootstrap, resampling_units
from espnet_adastride.experiments.records import provenance, write_record
from espnet_adastride.files import PathLike, write_text
from espnet_adastride.quiet import quiet_imports
from espnet_adastride.recipe.stamps import (
    LATER,
    fingerprint,
    first_difference,
    hash_listing,
)
from espnet_adastride.report.style import drawing, mark_style, save_figure
from espnet_adastride.report.tables import format_interval, markdown_table
from espnet_adastride.timing.ctc import path_spans


class Point(NamedTuple):
    """A model at a rate.

    Attributes:
        model: its name.
        stride: overall rate, input frames per output frame.
        own: whether it is the rate of the model's configuration.
        errors: (U,) word errors by utterance.
        words: (U,) reference words by utterance.
        seconds: computing time of all utterances.
        audio: their duration in seconds.
    """

    model: str
    stride: float
    own: bool
    errors: Sequence[float]
    words: Sequence[float]
    seconds: float
    audio: float

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return 100.0 * sum(self.errors) / sum(self.words)

    @property
    def rtf(self) -> float:
        """Seconds of computing per second of audio."""
        return self.seconds / self.audio


def own_stride(model) -> float:
    """Return the overall rate that a TrainedModel was configured with or has learned.

    Raises:
        UserError: the input layer does not downsample.
    """
    if model.layer is not None:
        return float(math.prod(model.layer.current_strides()))
    word = model.args.encoder_conf.get("input_layer", "conv2d")
    found = re.fullmatch(r"conv[12]d(\d?)", str(word))
    if not found:
        raise UserError(f"input_layer {word} does not downsample; remove this model")
    return float(found[1] or 4)


def decode(model, audio: Dict[str, str], name: str):
    """Return ({utterance: hypothesis}, seconds of computing, seconds of audio)."""
    hypotheses, spent, samples = {}, 0.0, 0
    for key, path in audio.items():
        wave = read_audio(path, model.rate)
        samples += len(wave)
        start = time.process_time()
        try:
            log_probs = model.encode(wave, key).log_probs
        except AudioError:  # too short at this rate: recognise nothing
            hypotheses[key] = ""
            continue
        if log_probs is None:
            raise UserError(
                f"{name}: no CTC branch (ctc_weight 0), which greedy decoding needs; "
                "remove this model"
            )
        best = log_probs.argmax(dim=1).tolist()
        ids = [span.token for span in path_spans(best, model.model.blank_id)]
        spent += time.process_time() - start
        hypotheses[key] = model.to_text(model.converter.ids2tokens(ids))
    return hypotheses, spent, samples / model.rate


def measure(
    name: str,
    path: str,
    model,
    strides: Optional[Sequence[float]],
    audio: Dict[str, str],
    texts: Dict[str, str],
    data_dir: PathLike,
    prefix: PathLike,
) -> List[Point]:
    """Return a model's points; finished ones are read from their files.

    Args:
        name, path, model: name and path of the model, and the TrainedModel.
        strides: strides in addition to the model's own; None: only its own.
        audio, texts: audio and transcript by utterance, of ``data_dir``.
        prefix: prefix of the points' files.
    """
    layers = [] if model.layer is None or strides is None else model.layer.stages()
    own, free = own_stride(model), any(stage.takes_any_stride() for stage in layers)
    parameters = sum(
        float(value.double().abs().sum()) for value in model.model.state_dict().values()
    )
    points = []
    for stride in sorted({own, *strides} if free else {own}):
        options = {"model": path, "parameters": parameters, "stride": stride}
        options[f"{LATER}{data_dir}"] = hash_listing(audio.values())
        work = fingerprint([Path(data_dir) / "text"], options=options)
        file = Path(f"{prefix}_{stride:g}x.json")
        try:
            saved = json.loads(file.read_text(encoding="utf-8"))
            if first_difference(saved["work"], work) is None:
                points.append(Point(**saved["point"]))
                continue
        except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError):
            pass  # not there, or damaged: measure it
        if free:
            with located(name):
                model.set_stride(stride)
        hypotheses, *spent = decode(model, audio, name)
        counts = (one.tolist() for one in utterance_errors(texts, hypotheses, words))
        point = Point(name, stride, stride == own, *counts, *spent)
        saved = {"work": work, "point": point._asdict(), "hypotheses": hypotheses}
        write_record(file, {**saved, **provenance()})
        print(
            f"{name} at {stride:g}x: WER {point.wer:.1f} %, RTF {point.rtf:.4f}",
            flush=True,
        )
        points.append(point)
    return points


class Cell(NamedTuple):
    """The points of one model name at one rate.

    Attributes:
        point: their mean: errors of every utterance, and seconds, averaged.
        wers: word error rate of each in percent.
    """

    point: Point
    wers: List[float]


def pool(points: Sequence[Point]) -> List[Cell]:
    """Return the cells: names in their order, rates rising.

    Args:
        points: over the same utterances.
    """
    names = list(dict.fromkeys(point.model for point in points))
    groups: Dict[tuple, List[Point]] = {}
    for point in points:
        groups.setdefault((names.index(point.model), point.stride), []).append(point)
    return [
        Cell(
            own[0]._replace(
                own=all(point.own for point in own),
                errors=np.mean([point.errors for point in own], axis=0),
                seconds=float(np.mean([point.seconds for point in own])),
            ),
            [point.wer for point in own],
        )
        for _, own in sorted(groups.items())
    ]


def intervals(points: Sequence[Point], units: Sequence[str]) -> List[Sequence[float]]:
    """Return (low, high) of every point's WER: 95 %, bootstrap over ``units``.

    Args:
        points: over the same utterances.
        units: (U,) what an utterance is drawn with, such as itself; of one unit there
            is no interval (not-a-number).
    """
    bootstrap = Bootstrap(units)
    found = [bootstrap.ratio(point.errors, point.words).percent() for point in points]
    return [(estimate.low, estimate.high) for estimate in found]


def format_table(points: Sequence[Point], units: Sequence[str]) -> str:
    """Return the Markdown table of the cells, with each run's WER if there are several.

    Args:
        points: over the same utterances.
        units: as of :func:`intervals`.
    """
    cells = pool(points)
    ends = intervals([cell.point for cell in cells], units)
    several = any(len(cell.wers) > 1 for cell in cells)
    names = ["model", "rate", "WER, %", *["of each"] * several]
    names += ["95 % interval", "RTF", "to the first row"]
    rows = []
    first = cells[0].point.rtf
    for (point, wers), (low, high) in zip(cells, ends):
        rate = f"{point.stride:g}x" + (", its own" if point.own else "")
        row = [f"`{point.model}`", rate, f"{point.wer:.1f}"]
        row += [" ".join(f"{wer:.1f}" for wer in wers)] * several
        row += [format_interval(low, high, ".1f")]
        row += [f"{point.rtf:.4f}", f"{point.rtf / first:.2f}"]
        rows.append(row)
    return markdown_table(names, rows)


def plot_rates(points: Sequence[Point], units: Sequence[str]) -> Figure:
    """Draw WER over rate, and WER over real-time factor.

    A name with several rates is a line, a model's own rate a filled mark; bars are the
    intervals over ``units``, small dots the runs where several were pooled.

    Returns:
        A figure for ``style.save_figure``.
    """
    cells = pool(points)
    ends = intervals([cell.point for cell in cells], units)
    curves: Dict[str, List[Tuple[Cell, Sequence[float]]]] = {}
    for cell, end in zip(cells, ends):
        curves.setdefault(cell.point.model, []).append((cell, end))
    with drawing(8.0, 3.8, layout="constrained") as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for number, (name, line) in enumerate(curves.items()):
            style = mark_style(number)
            own = [cell.point for cell, _ in line]
            wer = np.array([point.wer for point in own])
            reach = np.abs(np.array([end for _, end in line]).T - wer)
            for axes, x in (
                (left, [point.stride for point in own]),
                (right, [1000 * point.rtf for point in own]),
            ):
                label = name if axes is left else None
                axes.errorbar(
                    x, wer, reach, capsize=3, fillstyle="none", label=label, **style
                )
                filled = [(a, b) for a, b, p in zip(x, wer, own) if p.own]
                if filled:
                    axes.plot(*zip(*filled), ls="", **style)
                for place, (cell, _) in zip(x, line):
                    if len(cell.wers) > 1:
                        dots = {"color": style["color"], "alpha": 0.45}
                        axes.plot([place] * len(cell.wers), cell.wers, ".", **dots)
        strides = sorted({p.stride for p in points})
        left.set_xscale("log")
        left.set_xticks(strides, [f"{s:g}x" for s in strides], minor=False)
        left.minorticks_off()
        left.set_xlabel("rate, input frames per output frame")
        left.set_ylabel("word error rate, %")
        left.set_ylim(bottom=0)
        right.set_xlabel("computing, ms per second of audio")
        right.set_xlim(left=0)
        for axes in (left, right):
            axes.grid()
        figure.legend(loc="outside upper center", ncols=3)
    return figure


class Compared(NamedTuple):
    """A model to measure.

    Attributes:
        name: in the table; models of one name form one line of the picture.
        path: an experiment's folder, or a package.
        strides: overall strides to decode at, besides its own; None: its own alone.
    """

    name: str
    path: str
    strides: Optional[Sequence[float]] = None


def compare_models(
    models: Sequence[Compared],
    data_dir: PathLike,
    output_dir: PathLike,
    asr_model_file: Optional[str] = None,
) -> None:
    """Measure models, then write and print their table and draw their curves.

    Args:
        models: in the order of the table.
        data_dir: folder with ``wav.scp`` and ``text``; of ``utt2spk``, speakers are
            what intervals are over, if there are enough.
        output_dir: output folder.
        asr_model_file: parameter file in the models' folders; None: the averaged one.

    Raises:
        UserError: no utterance has both audio and text.
    """
    audio = read_recordings(data_dir)
    texts = read_table(Path(data_dir) / "text")
    texts = {key: text for key, text in texts.items() if key in audio}
    audio = {key: audio[key] for key in texts}
    if not any(text for text in texts.values()):
        raise UserError(
            f"{data_dir}: no utterance has both audio and text; give wav.scp and "
            "text the same ids"
        )
    with quiet_imports():
        from espnet_adastride.plugin.trained import TrainedModel
    output, points = Path(output_dir), []
    output.mkdir(parents=True, exist_ok=True)
    for number, (name, path, strides) in enumerate(models):
        before = [other.name for other in models[:number]].count(name)
        prefix = output / (f"{name}_{before + 1}" if before else name)
        model = TrainedModel(path, asr_model_file)
        points += measure(name, path, model, strides, audio, texts, data_dir, prefix)
    given = Path(data_dir) / "utt2spk"
    known = read_table(given) if given.is_file() else {}
    units, kind = resampling_units([speaker_of(k, known.get(k, k)) for k in texts])
    table = format_table(points, units) + (
        f"\nWER: mean of the models of a row. Intervals: 95 %, bootstrap over the "
        f"{len(set(units))} {kind}, for these models"
    )
    if kind == "utterances":
        table += "; they are too narrow where utterances share speakers or recordings"
    table += ".\n"
    write_text(output / "rates.md", table)
    picture = output / "rates.png"
    save_figure(plot_rates(points, units), picture)
    print(f"\n{table}\nWER over rate and cost: {picture}")
