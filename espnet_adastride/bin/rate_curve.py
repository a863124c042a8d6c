"""Decode at many rates with one model and compare with fixed-rate models: table, curve.

    python -m espnet_adastride.bin.rate_curve --strides 4 6 8 10 12 \
        --model any=exp/asr_any --fixed each=exp/asr_4x --fixed each=exp/asr_8x \
        --data_dir dump/raw/test --output_dir exp/rates

A model that supports any stride (adastride, adastride_f) is decoded at its own stride
and at each of ``--strides``. Other models, and those of ``--fixed``, are decoded at
their own stride only. Models with the same name form one line; models with the same
name and rate, such as seeds, are averaged.

Decoding is greedy CTC, one utterance at a time, on one thread: the work is the same for
all, so that real-time factors are comparable. If other work ran during a measurement,
decode that rate again with a separate ``--output_dir``. Finished points are kept: the
same command resumes.

Writes ``rates.md``, ``rates.png`` and a file of every point into ``--output_dir``.
"""

import json
import math
import re
import time
from pathlib import Path

from espnet_adastride.bin.model_options import check_model_file
from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.datadir import read_table
from espnet_adastride.corpora.recordings import read_audio
from espnet_adastride.errors import AudioError, UserError, located
from espnet_adastride.evaluation.scoring import utterance_errors, words
from espnet_adastride.experiments.records import provenance, write_record
from espnet_adastride.files import write_text
from espnet_adastride.quiet import quiet_imports
from espnet_adastride.recipe.stamps import fingerprint


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="model: experiment folder or packed .zip",
    )
    parser.add_argument(
        "--fixed",
        action="append",
        default=[],
        help="the same, decoded only at its own rate",
    )
    parser.add_argument(
        "--strides",
        type=float,
        nargs="+",
        default=[4, 6, 8, 10, 12],
        help="overall strides at which the models of --model are decoded",
    )
    parser.add_argument(
        "--data_dir", required=True, help="folder with wav.scp and text"
    )
    parser.add_argument("--output_dir", required=True, help="output folder")
    parser.add_argument(
        "--asr_model_file", help="parameter file in the models' folders"
    )
    return parser


def named_models(given):
    """Return (name, path) for each word of the form NAME=PATH or PATH.

    Raises:
        UserError: no model, a model given twice, or two models with one default name.
    """
    models = []
    for word in given:
        name, equals, path = word.partition("=")
        if not equals:
            name, path = Path(word).name.removeprefix("asr_"), word
            if name in [other for other, _ in models]:
                raise UserError(
                    f"--model {word}: a second model is called {name}; write NAME=PATH"
                )
        if (name, path) in models:
            raise UserError(f"--model {word} is given twice")
        models.append((name, path))
    if not models:
        raise UserError("no model: give --model or --fixed")
    return models


def own_stride(model) -> float:
    """Return the overall rate that the model was configured with or has learned.

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


def takes_any_stride(model) -> bool:
    """Return whether a stage of the input layer supports any real stride."""
    import torch

    stages = [] if model.layer is None else model.layer.stages()
    return any(
        not isinstance(stage, torch.nn.Identity) and stage.takes_any_stride()
        for stage in stages
    )


def decode(model, audio, name: str):
    """Return ({utterance: hypothesis}, seconds of computing, seconds of audio)."""
    from espnet_adastride.timing.ctc import path_spans

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


def measure(name, path, strides, audio, texts, args, prefix):
    """Return a model's points; finished ones are read from the folder.

    Args:
        name, path: name and path of the model.
        strides: strides in addition to the model's own; None: only its own.
        audio, texts: audio and transcript by utterance.
        args: options of the command.
        prefix: prefix of the points' files.
    """
    from espnet_adastride.experiments.rate_curves import Point

    with quiet_imports():
        from espnet_adastride.plugin.trained import TrainedModel

    model = TrainedModel(path, args.asr_model_file)
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
            with located(name):
                model.set_stride(stride)
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
        write_record(file, {**saved, **provenance()})
        print(
            f"{name} at {stride:g}x: WER {point.wer:.1f} %, RTF {point.rtf:.4f}",
            flush=True,
        )
        points.append(point)
    return points


@command(get_parser)
def main(args):
    import torch

    from espnet_adastride.experiments.rate_curves import format_table, plot_rates
    from espnet_adastride.report.style import save_figure

    torch.set_num_threads(1)
    models = named_models(args.model + args.fixed)
    for _, path in models:
        check_model_file(path)
    for stride in args.strides:
        if not (math.isfinite(stride) and stride >= 1):
            raise UserError(f"--strides {stride:g}: give numbers of at least 1")
    audio = read_table(Path(args.data_dir) / "wav.scp")
    texts = read_table(Path(args.data_dir) / "text")
    texts = {key: text for key, text in texts.items() if key in audio}
    audio = {key: audio[key] for key in texts}
    if not any(text for text in texts.values()):
        raise UserError(
            f"{args.data_dir}: no utterance has both audio and text; give wav.scp and "
            "text the same ids"
        )
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    points = []
    for number, (name, path) in enumerate(models):
        strides = args.strides if number < len(args.model) else None
        before = [other for other, _ in models[:number]].count(name)
        prefix = f"{name}_{before + 1}" if before else name
        points += measure(name, path, strides, audio, texts, args, prefix)
    table = format_table(points, list(texts))
    write_text(Path(args.output_dir) / "rates.md", table)
    picture = Path(args.output_dir) / "rates.png"
    save_figure(plot_rates(points, list(texts)), picture)
    print(f"\n{table}\nWER over rate and cost: {picture}")


if __name__ == "__main__":
    main()
