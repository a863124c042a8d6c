#!/usr/bin/env python3
"""Decode at many rates with one model, beside models of a fixed rate: table and curve.

    python -m espnet_adastride.bin.rate_curve --strides 4 6 8 10 12 \
        --model any=exp/asr_any --fixed each=exp/asr_4x --fixed each=exp/asr_8x \
        --data_dir dump/raw/test --output_dir exp/rates

A model that takes any stride (adastride, adastride_f) is decoded at its own and at each
of ``--strides``; any other, and those of ``--fixed``, at their own alone. Models of one
name make one line; those of one rate, too, such as seeds, are averaged.

Greedy CTC, one utterance after the other, on one thread: the same work for all, so that
the real-time factors can be compared; a rate that was timed beside other work is told
apart by decoding again (``--output_dir`` of its own). Finished points are kept: the
same command goes on.

Writes ``rates.md``, ``rates.png`` and a file of every point into ``--output_dir``.
"""

import json
import math
import re
import time
from pathlib import Path

import torch

from espnet_adastride.bin.parsers import DefaultsFormatter, Parser
from espnet_adastride.corpora.datadir import read_table
from espnet_adastride.corpora.recordings import read_audio
from espnet_adastride.errors import AudioError, RecipeError, one_line_errors
from espnet_adastride.evaluation.scoring import utterance_errors, words
from espnet_adastride.experiments.rate_curves import Point, format_table, plot_rates
from espnet_adastride.files import write_text
from espnet_adastride.recipe.quiet import quiet_imports
from espnet_adastride.recipe.stamps import fingerprint
from espnet_adastride.report.utterance import save_figure
from espnet_adastride.timing.ctc import path_spans


def get_parser():
    """Return the command's parser."""
    parser = Parser(
        description="WER over rate over cost",
        formatter_class=DefaultsFormatter,
    )
    parser.add_argument(
        "--model", action="append", default=[], help="[NAME=]FOLDER OR PACKAGE"
    )
    parser.add_argument(
        "--fixed", action="append", default=[], help="The same, at its own rate alone"
    )
    parser.add_argument("--strides", type=float, nargs="+", default=[4, 6, 8, 10, 12])
    parser.add_argument(
        "--data_dir", required=True, help="Folder with wav.scp and text"
    )
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--asr_model_file", help="Parameters in the models' folders")
    return parser


def named_models(given):
    """Return (name, path) of each of the words NAME=PATH or PATH.

    Raises:
        RecipeError: no model, one twice, or two of a name that was not given.
    """
    models = []
    for word in given:
        name, equals, path = word.partition("=")
        if not equals:
            name, path = Path(word).name.removeprefix("asr_"), word
            if name in [other for other, _ in models]:
                raise RecipeError(f"--model {word}: a second {name}; write NAME=PATH")
        if (name, path) in models:
            raise RecipeError(f"--model {word} is given twice")
        models.append((name, path))
    if not models:
        raise RecipeError("give --model or --fixed")
    return models


def own_stride(model) -> float:
    """Return the overall rate that the model was configured with, or learned.

    Raises:
        RecipeError: an input layer that does not downsample.
    """
    if model.layer is not None:
        return float(math.prod(model.layer.current_strides()))
    word = model.args.encoder_conf.get("input_layer", "conv2d")
    found = re.fullmatch(r"conv[12]d(\d?)", str(word))
    if not found:
        raise RecipeError(f"input_layer {word} does not downsample: no rate to compare")
    return float(found[1] or 4)


def takes_any_stride(model) -> bool:
    """Return whether a stage of its input layer takes every real stride."""
    stages = [] if model.layer is None else model.layer.stages()
    return any(
        not isinstance(stage, torch.nn.Identity) and stage.takes_any_stride()
        for stage in stages
    )


def decode(model, audio, name: str):
    """Return ({utterance: hypothesis}, seconds of computing, seconds of audio)."""
    hypotheses, spent, samples = {}, 0.0, 0
    for key, path in audio.items():
        wave = read_audio(path, model.rate)
        samples += len(wave)
        start = time.process_time()
        try:
            log_probs = model.encode(wave, key).log_probs
        except AudioError:  # too short at this rate: nothing recognised
            hypotheses[key] = ""
            continue
        if log_probs is None:
            raise RecipeError(f"{name}: no CTC branch; greedy decoding needs one")
        best = log_probs.argmax(dim=1).tolist()
        ids = [span.token for span in path_spans(best, model.model.blank_id)]
        spent += time.process_time() - start
        hypotheses[key] = model.to_text(model.converter.ids2tokens(ids))
    return hypotheses, spent, samples / model.rate


def measure(name, path, strides, audio, texts, args, prefix):
    """Return a model's points; those that are in the folder are read from it.

    Args:
        name, path: of the model.
        strides: to decode at, beside its own; None: at its own alone.
        audio, texts: by utterance.
        args: of the command.
        prefix: of the points' files.
    """
    with quiet_imports():
        from espnet_adastride.errors import PluginError
        from espnet_adastride.plugin.trained import TrainedModel

    try:
        model = TrainedModel(path, args.asr_model_file)
    except PluginError as error:
        raise RecipeError(str(error)) from None
    own, free = own_stride(model), strides is not None and takes_any_stride(model)
    parameters = sum(
        float(value.double().abs().sum()) for value in model.model.state_dict().values()
    )
    points = []
    for stride in sorted({own, *strides} if free else {own}):
        options = {"model": path, "parameters": parameters, "stride": stride}
        work = fingerprint([Path(args.data_dir) / "text"], options=options)
        file = Path(args.output_dir) / f"{prefix}_{stride:g}x.json"
        if file.is_file():
            saved = json.loads(file.read_text(encoding="utf-8"))
            if saved["work"] == work:
                points.append(Point(**saved["point"]))
                continue
        if free:
            try:
                model.set_stride(stride)
            except PluginError as error:
                raise RecipeError(f"{name}: {error}") from None
        hypotheses, seconds, length = decode(model, audio, name)
        errors, counts = utterance_errors(texts, hypotheses, words)
        point = Point(
            name,
            stride,
            stride == own,
            errors.tolist(),
            counts.tolist(),
            seconds,
            length,
        )
        saved = {"work": work, "point": point._asdict(), "hypotheses": hypotheses}
        write_text(file, json.dumps(saved) + "\n")
        print(
            f"{name} at {stride:g}x: WER {point.wer:.1f} %, RTF {point.rtf:.4f}",
            flush=True,
        )
        points.append(point)
    return points


@one_line_errors
def main(cmd=None):
    """Run the command; bad input ends in one line."""
    args = get_parser().parse_args(cmd)
    torch.set_num_threads(1)
    models = named_models(args.model + args.fixed)
    for _, path in models:
        if not Path(path).exists():
            raise RecipeError(f"--model {path}: no such file or folder")
    for stride in args.strides:
        if not (math.isfinite(stride) and stride >= 1):
            raise RecipeError(f"--strides {stride:g}: give numbers of at least 1")
    audio = read_table(Path(args.data_dir) / "wav.scp")
    texts = read_table(Path(args.data_dir) / "text")
    texts = {key: text for key, text in texts.items() if key in audio}
    audio = {key: audio[key] for key in texts}
    if not any(text for text in texts.values()):
        raise RecipeError(f"{args.data_dir}: no utterance with audio and text")
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    points = []
    try:
        for number, (name, path) in enumerate(models):
            strides = args.strides if number < len(args.model) else None
            before = [other for other, _ in models[:number]].count(name)
            prefix = f"{name}_{before + 1}" if before else name
            points += measure(name, path, strides, audio, texts, args, prefix)
    except AudioError as error:
        raise RecipeError(str(error)) from None
    table = format_table(points, list(texts))
    write_text(Path(args.output_dir) / "rates.md", table)
    picture = Path(args.output_dir) / "rates.png"
    save_figure(plot_rates(points, list(texts)), picture)
    print(f"\n{table}\nWER over rate and cost: {picture}")


if __name__ == "__main__":
    main()
