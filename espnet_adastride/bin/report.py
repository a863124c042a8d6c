"""Write one self-contained HTML page about one or more experiments.

    adastride report exp/asr_train_...                       # EXPERIMENT/report.html
    adastride report exp/asr_a exp/asr_b --output report.html

The page has word error rates with intervals, paired differences between the
experiments, learning curves, pictures of adaptive strides, and the worst utterances
with their errors and recordings. It is one file that works offline. Experiments are
folders of this recipe or of ESPnet's, with or without adaptive strides.
"""

import argparse
import datetime
from functools import partial
from pathlib import Path

from espnet_adastride.bin.model_options import load_adaptive
from espnet_adastride.bin.parsers import Parser, command, say
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
        type=whole(0),
        default=10,
        help="worst utterances shown per set (default: 10)",
    )
    parser.add_argument(
        "--pictures",
        type=whole(0),
        default=2,
        help="pictures of strides per experiment; 0: none, which is faster "
        "(default: 2)",
    )
    parser.add_argument("--asr_model_file", help="parameter file for the pictures")
    parser.add_argument(
        "--audio_seconds",
        type=real(0),
        default=20.0,
        help="seconds of a recording kept in the page; 0: none (default: 20)",
    )
    parser.add_argument(
        "--resamples",
        type=whole(100),
        default=2000,
        help="bootstrap resamples (default: 2000)",
    )
    return parser


@command(get_parser)
def main(args) -> None:
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
    from espnet_adastride.report.experiments import (
        draw_pictures,
        make_report,
        named_folders,
        read_experiment,
    )

    folders = named_folders(args.experiments)
    experiments = [read_experiment(*item) for item in folders.items()]
    check_file(output, "--output")

    def load(folder: Path):
        model = {"model": str(folder), "ngpu": 0, "stride": None}
        options = {**vars(args), **model, "upstream_model": None}
        return load_adaptive(argparse.Namespace(**options))

    page = make_report(
        experiments,
        f"espnet_adastride {__version__}, {datetime.date.today()}",
        args.worst,
        args.resamples,
        args.data_dir,
        args.audio_seconds,
        (
            partial(draw_pictures, load, args.pictures, args.audio_seconds, say)
            if args.pictures
            else None
        ),
    )
    write_text(output, page)
    for experiment in experiments:
        if not experiment.decoded:
            print(
                f"{experiment.name}: no scored set yet (adastride score scores a "
                "decoded one); only learning curves"
            )
    size = output.stat().st_size / 1e6
    print(f"{output} ({size:.1f} MB): open it in a browser")


if __name__ == "__main__":
    main()
