"""Measure a trained model for its record: cost, and utterances CTC cannot align.

    python -m espnet_adastride.bin.run -m espnet_adastride.bin.measure_run \
        --exp exp/asr_x --output exp/asr_x/measured.json --set test dump/raw/test
"""

import json
import os
from pathlib import Path

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.errors import located
from espnet_adastride.files import write_text


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument("--exp", required=True, help="folder of the experiment")
    parser.add_argument("--output", required=True, help="JSON file to write")
    parser.add_argument(
        "--work_dir",
        help="working directory of the training, to which paths in config.yaml are "
        "relative",
    )
    parser.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "FOLDER"),
        help="a data folder whose utterances that CTC cannot align are counted",
    )
    return parser


@command(get_parser)
def main(args):
    exp, output = Path(args.exp).absolute(), Path(args.output).absolute()
    sets = {name: str(Path(folder).absolute()) for name, folder in args.set}
    if args.work_dir:
        os.chdir(args.work_dir)
    import espnet_adastride.plugin  # noqa: F401  (registers the words of input_layer)
    from espnet_adastride.experiments.measure import measure
    from espnet_adastride.plugin.model_files import find_files

    with located(args.exp):
        files = find_files(exp, None, Path())
        figures = measure(files.config, files.parameters, sets)
    write_text(output, json.dumps(figures, indent=1) + "\n")
    print(args.output)


if __name__ == "__main__":
    main()
