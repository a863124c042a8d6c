"""Write one self-contained HTML page about one or more experiments.

    adastride-report exp/asr_train_...                       # EXPERIMENT/report.html
    adastride-report exp/asr_a exp/asr_b --output report.html

The page has word error rates with intervals, paired differences between the
experiments, learning curves, pictures of adaptive strides, and the worst utterances
with their errors and recordings. It is one file that works offline. Experiments are
folders of this recipe or of ESPnet's, with or without adaptive strides.
"""

import argparse
import datetime
from functools import partial
from pathlib import Path
from typing import List, Tuple

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.errors import UserError
from espnet_adastride.files import check_file, write_text
from espnet_adastride.options import real, whole
from espnet_adastride.version import __version__


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument("experiments", nargs="+", help="folders exp/asr_...")
    parser.add_argument(
        "--output", help="output page (default: report.html in the first experiment)"
    )
    parser.add_argument(
        "--data_dir",
        nargs="+",
        default=[],
        help="folders with wav.scp to search for recordings (default: the "
        "recipe's dump/raw/SET)",
    )
    parser.add_argument(
        "--worst",
        type=int,
        default=10,
        help="worst utterances shown per set (default: 10)",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=2,
        help="pictures of strides per experiment; 0: none, which is faster "
        "(default: 2)",
    )
    parser.add_argument("--asr_model_file", help="parameter file for the pictures")
    parser.add_argument(
        "--audio_seconds",
        type=real(),
        default=20.0,
        help="seconds of a recording kept in the page; 0: none (default: 20)",
    )
    parser.add_argument(
        "--resamples",
        type=whole(1),
        default=2000,
        help="bootstrap resamples (default: 2000)",
    )
    return parser


def draw_pictures(
    number: int, asr_model_file, seconds: float, experiment, systems, find
) -> Tuple[List[dict], List[str]]:
    """Return pictures and notes, for ``report.experiments.make_report``.

    If the pictures of an experiment cannot be drawn, the reason becomes a note, because
    the rest of the report does not depend on them.

    Args:
        number: utterances drawn for each experiment.
        asr_model_file: parameter file in the experiment's folder, or None.
        seconds: seconds kept of a recording.
        experiment, systems, find: of ``make_report``.
    """
    if not systems:
        return [], []
    decoded, aligned = systems[0].decoded, systems[0].aligned
    waves = find(decoded)
    name = experiment.name
    if not waves:
        note = f"{name}: no pictures of strides: the recordings were not found."
        return [], [note]
    from espnet_adastride.bin import plot
    from espnet_adastride.report.experiments import worst_of

    try:
        config = (experiment.folder / "config.yaml").read_text(encoding="utf-8")
        if "adastride" not in config:  # found without loading the model
            return [], [f"{name}: strides are uniform; no pictures of them."]
        transcriber = plot.load(
            argparse.Namespace(
                model=str(experiment.folder),
                asr_model_file=asr_model_file,
                ngpu=0,
                stride=None,
                upstream_model=None,
            )
        )
        typical = plot.nearest(waves, plot.GOOD_LENGTH)
        chosen = {typical: f"{typical}, of typical length"}
        for a in worst_of(aligned, len(aligned)):
            if len(chosen) >= number:
                break
            if a.id in waves:
                why = f"{a.id}, among the worst ({a.counts.errors} errors)"
                chosen.setdefault(a.id, why)
        drawn = [
            {
                "experiment": name,
                "why": why,
                "decoding": decoded.decoding,
                "decoded": decoded.hyp.get(key),
                **_draw(
                    transcriber,
                    plot.Recording(key, waves[key], decoded.ref[key]),
                    seconds,
                ),
            }
            for key, why in list(chosen.items())[:number]
        ]
    except (UserError, OSError) as error:
        return [], [f"{name}: no pictures of strides: {error}."]
    return drawn, []


def _draw(transcriber, recording, seconds: float) -> dict:
    from espnet_adastride.bin.plot import analyse
    from espnet_adastride.report.pages import data_uri, encode_audio
    from espnet_adastride.report.style import to_png
    from espnet_adastride.report.utterance import (
        SPEECH_THRESHOLD_DB,
        plot_strides,
        summary,
    )

    picture = analyse(transcriber, recording, SPEECH_THRESHOLD_DB)
    image = to_png(plot_strides(picture), dpi=130)
    sound = picture.wave, picture.rate, seconds
    return {
        "utterance": recording.id,
        "hypothesis_of": picture.hypothesis is not None and picture.hypothesis_from,
        "lines": summary(picture),
        "uri": data_uri(image, "image/png"),
        "audio": encode_audio(*sound) if seconds > 0 else None,
    }


def report(args: argparse.Namespace) -> Path:
    """Write the page; return its path."""
    for name, least in (("worst", 0), ("pictures", 0), ("resamples", 100)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)}: give {least} or more")
    if not args.audio_seconds >= 0:
        raise UserError(f"--audio_seconds {args.audio_seconds:g}: give 0 or more")
    for folder in args.data_dir:
        if not (Path(folder) / "wav.scp").is_file():
            raise UserError(f"--data_dir {folder}: no wav.scp in it")
    if args.asr_model_file is not None and not any(
        (Path(e) / args.asr_model_file).is_file() for e in args.experiments
    ):
        raise UserError(
            f"--asr_model_file {args.asr_model_file}: not found in any of the "
            "experiments"
        )
    output = Path(args.output or Path(args.experiments[0]) / "report.html")
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {output}: the name must end in .html")
    from espnet_adastride.report.experiments import make_report, read_experiment

    paths = list(dict.fromkeys(Path(e).resolve() for e in args.experiments))
    shown = {Path(e).resolve(): e for e in args.experiments}
    experiments = [read_experiment(shown[path]) for path in paths]
    check_file(output, "--output")
    names = [e.name for e in experiments]
    for experiment in experiments:
        if names.count(experiment.name) > 1:
            parent = experiment.folder.resolve().parents[1].name
            experiment.name = f"{parent}: {experiment.name}"
    pictures = partial(
        draw_pictures, args.pictures, args.asr_model_file, args.audio_seconds
    )
    page = make_report(
        experiments,
        f"espnet_adastride {__version__}, {datetime.date.today()}",
        args.worst,
        args.resamples,
        args.data_dir,
        args.audio_seconds,
        pictures if args.pictures else None,
    )
    write_text(output, page)
    for experiment in experiments:
        if not experiment.decoded:
            print(f"{experiment.name}: no scored set yet; only learning curves")
    return output


@command(get_parser)
def main(args) -> None:
    output = report(args)
    size = output.stat().st_size / 1e6
    print(f"{output} ({size:.1f} MB): open it in a browser")


if __name__ == "__main__":
    main()
