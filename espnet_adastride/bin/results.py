"""Make every page and picture of the results from the records in git.

    python -m espnet_adastride.bin.results

The records in ``results/records/NAME/`` of each ``conf/experiments/NAME.yaml`` become
``results/NAME.md`` and ``results/NAME.png``, of every task. The command needs no audio,
no ESPnet and no trained model, and lists missing runs.
"""

import argparse
from pathlib import Path

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.kaldi import shorten
from espnet_adastride.errors import UserError, located
from espnet_adastride.experiments.definition import ROOT, read_experiment
from espnet_adastride.experiments.records import read_records, split_records
from espnet_adastride.files import PathLike, write_text
from espnet_adastride.options import whole

RECORDS = ROOT / "results" / "records"
DEFINITIONS = ROOT / "conf" / "experiments"
CAPTIONS = {
    "asr": "WER over multiply-accumulates",
    "classification": "Accuracy, points to the baseline",
    "vqvae": "Error over bits per second",
}


def add_record_options(parser: argparse.ArgumentParser) -> None:
    """Add the folders of records and pages."""
    pages = str(RECORDS.parent)
    parser.add_argument("--records", default=str(RECORDS), help="folder of records")
    parser.add_argument("--results", default=pages, help="folder of the pages")


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument(
        "definitions", nargs="*", help="YAML files; default: conf/experiments/*.yaml"
    )
    add_record_options(parser)
    parser.add_argument(
        "--resamples", type=whole(1), default=10000, help="bootstrap resamples"
    )
    return parser


def write_results(
    definition: PathLike, records: PathLike, results: PathLike, resamples: int = 10000
) -> str:
    """Write page and picture of an experiment; return a line on them.

    Raises:
        UserError: the definition or a record cannot be used.
    """
    from espnet_adastride.experiments.runs import missing_runs
    from espnet_adastride.experiments.tables import plot_page, write_page
    from espnet_adastride.report.style import save_figure

    experiment = read_experiment(definition)
    folder = Path(records) / experiment.name
    found = read_records(folder)
    page = Path(results) / f"{experiment.name}.md"
    if not found:  # a wrong --records must not empty a page
        return f"{page}: not written, there is no record in {folder}"
    with located(definition):
        text = write_page(experiment, found, resamples)
        figure = plot_page(experiment, found)
    if figure is not None:
        picture = page.with_suffix(".png")
        page.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, picture)
        text += f"\n![{CAPTIONS[experiment.task]}]({picture.name})\n"
    write_text(page, text)
    fit, others = split_records(experiment, found)
    runs = experiment.runs()
    missing = missing_runs(runs, fit, experiment.all_sets)
    line = f"{page}: {len(runs) - len(missing)} of {len(runs)} runs"
    if missing:
        line += f"; missing: {shorten(missing)}"
    if others:
        line += f"; {len(others)} records do not belong to it and are left out"
    return line


@command(get_parser)
def main(args):
    definitions = args.definitions or sorted(map(str, DEFINITIONS.glob("*.yaml")))
    if not definitions:
        raise UserError(
            f"{DEFINITIONS}: no experiment definition in it; give YAML files"
        )
    for definition in definitions:
        print(write_results(definition, args.records, args.results, args.resamples))


if __name__ == "__main__":
    main()
