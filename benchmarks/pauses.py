"""Does AdaStride gain where there are pauses? From records and published alignments.

    python benchmarks/pauses.py --textgrids librispeech_alignments

Utterances of dev_2spk are divided into three equal parts, by the share of pauses, by
words per second of speech (pauses left out) and by words per second. For each part: WER
of two methods and their difference, paired, with 95 % intervals by bootstrap over the
utterances (two speakers are too few to draw from). At the end, a regression of the
difference on the share of pauses and the words per second of speech together, in points
for one standard deviation.
"""

import argparse
from pathlib import Path

import numpy as np

from espnet_adastride.errors import UserError, one_line_errors
from espnet_adastride.evaluation.statistics import Bootstrap
from espnet_adastride.experiments.records import read_records
from espnet_adastride.report.tables import markdown_table
from espnet_adastride.timing.transcripts import read_textgrid

ROOT = Path(__file__).resolve().parents[1]


def get_parser() -> argparse.ArgumentParser:
    """Build the command's argument parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--textgrids", required=True, help="folder of word alignments")
    parser.add_argument(
        "--records", default=str(ROOT / "results/records/whisper_strides")
    )
    parser.add_argument("--set", default="dev_2spk")
    parser.add_argument("--rate", type=float, default=8)
    parser.add_argument("--method", default="adastride")
    parser.add_argument("--baseline", default="strided_conv")
    return parser


def seconds_of_speech(path: Path) -> float:
    """Return the summed duration of the words of a TextGrid."""
    return sum(word.end - word.start for word in read_textgrid(path) if word.text)


def difference(errors, base, words):
    """Return the difference in points with its interval over the utterances."""
    bootstrap = Bootstrap(list(range(len(words))))
    return bootstrap.difference(errors, base, words).percent()


def part_rows(name, values, errors, base, words):
    """Return a table row for each third of the utterances."""
    parts = np.digitize(values, np.quantile(values, [1 / 3, 2 / 3]))
    rows = []
    for part in range(3):
        chosen = parts == part
        n = words[chosen].sum()
        found = difference(errors[chosen], base[chosen], words[chosen])
        rows.append(
            [
                name,
                f"{values[chosen].min():.2f} to {values[chosen].max():.2f}",
                str(chosen.sum()),
                f"{100 * base[chosen].sum() / n:.1f}",
                f"{100 * errors[chosen].sum() / n:.1f}",
                f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]",
            ]
        )
    return rows


def regression(errors, base, words, *causes, resamples=2000):
    """Return points for one standard deviation of each cause: (value, low, high)."""
    columns = [(cause - cause.mean()) / cause.std() for cause in causes]
    causes = np.stack([np.ones_like(words), *columns], axis=1)
    weights = np.sqrt(words)
    gain = 100 * (errors - base) / words

    def fit(chosen):
        left = causes[chosen] * weights[chosen, None]
        return np.linalg.lstsq(left, gain[chosen] * weights[chosen], rcond=None)[0][1:]

    everything = np.arange(len(words))
    draw = np.random.default_rng(0)
    drawn = [fit(draw.choice(everything, len(words))) for _ in range(resamples)]
    return zip(fit(everything), *np.quantile(drawn, [0.025, 0.975], axis=0))


@one_line_errors
def main(cmd=None):
    """Run the benchmark."""
    args = get_parser().parse_args(cmd)
    records = [r for r in read_records(args.records) if r.rate == args.rate]
    runs = {
        name: [r.sets[args.set] for r in records if r.system == name]
        for name in (args.method, args.baseline)
    }
    for name, sets in runs.items():
        if not sets:
            raise UserError(f"{args.records}: no record of {name} at {args.rate:g}x")
    scores = runs[args.baseline][0]
    paths = [Path(args.textgrids) / f"{name}.TextGrid" for name in scores.utterances]
    kept = np.array([path.is_file() for path in paths])
    if not kept.any():
        raise UserError(f"{args.textgrids}: no TextGrid of an utterance of {args.set}")
    speech = np.array([seconds_of_speech(p) for p, ok in zip(paths, kept) if ok])
    words, seconds = scores.reference()[kept], np.array(scores.seconds)[kept]
    errors, base = (
        np.mean([s.errors()[kept] for s in runs[name]], axis=0)
        for name in (args.method, args.baseline)
    )
    pauses, pace = 1 - speech / seconds, words / speech
    rows = [
        *part_rows("share of pauses", pauses, errors, base, words),
        *part_rows("words per second of speech", pace, errors, base, words),
        *part_rows("words per second", words / seconds, errors, base, words),
    ]
    names = ["", "from, to", "utterances", args.baseline, args.method, "difference"]
    print(markdown_table(names, rows))
    seeds = ", ".join(f"{len(sets)} of {name}" for name, sets in runs.items())
    print(
        f"WER % on {args.set}, means over the runs: {seeds}. {len(words)} utterances."
    )
    for name, (value, low, high) in zip(
        ("share of pauses", "words per second of speech"),
        regression(errors, base, words, pauses, pace),
    ):
        print(f"{name}: {value:+.2f} points per s.d. [{low:+.2f}, {high:+.2f}]")


if __name__ == "__main__":
    main()
