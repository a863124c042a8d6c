"""Make every page and picture of the results from the records in git.

    python -m espnet_adastride.bin.results

The records in ``results/records/NAME/`` of each ``conf/experiments/NAME.yaml`` become
``results/NAME.md`` and ``results/NAME.png``, of every task. The command needs no audio,
no ESPnet and no trained model, and lists missing runs.
"""

from espnet_adastride.bin.parsers import ROOT, Parser, add_record_options, command
from espnet_adastride.errors import UserError
from espnet_adastride.options import whole

DEFINITIONS = ROOT / "conf" / "experiments"


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument(
        "definitions", nargs="*", help="YAML files; default: conf/experiments/*.yaml"
    )
    add_record_options(parser)
    parser.add_argument(
        "--resamples", type=whole(100), default=10000, help="bootstrap resamples"
    )
    return parser


@command(get_parser)
def main(args):
    definitions = args.definitions or sorted(map(str, DEFINITIONS.glob("*.yaml")))
    if not definitions:
        raise UserError(
            f"{DEFINITIONS}: no experiment definition in it; give YAML files"
        )
    from espnet_adastride.experiments.tables import write_results

    for definition in definitions:
        print(write_results(definition, args.records, args.results, args.resamples))


if __name__ == "__main__":
    main()
