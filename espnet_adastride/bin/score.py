"""Score a decoded set, or collect an experiment's scores (stage 13).

    python -m espnet_adastride.bin.score \
        --ref dump/raw/test/text --hyp DIR/text --output DIR \
        --token_type bpe --bpemodel data/en_token_list/bpe_unigram5000/bpe.model
    python -m espnet_adastride.bin.score --results exp/asr_train_...

The first form writes ``DIR/score_{wer,cer,ter}/result.txt``: sclite's columns and the
alignment of every utterance. The second writes ``RESULTS.md`` with ESPnet's tables.
"""

import argparse

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.bin.text_options import add_text_options, load_cleaner
from espnet_adastride.corpora.kaldi import shorten
from espnet_adastride.corpora.tokens import read_symbols
from espnet_adastride.errors import UserError
from espnet_adastride.evaluation.scoring import MARKER, score, write_results


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument("--ref", help="text file of the references")
    parser.add_argument("--hyp", help="text file of the hypotheses")
    parser.add_argument(
        "--output", help="output folder for score_wer, score_cer, score_ter"
    )
    parser.add_argument(
        "--token_type",
        default="word",
        choices=("bpe", "char", "word"),
        help="the model's tokens; TER is only scored for bpe",
    )
    parser.add_argument("--bpemodel", help="SentencePiece model of the tokens")
    parser.add_argument(
        "--utt2spk",
        help="utt2spk file, for one row per speaker (default: next to --ref)",
    )
    parser.add_argument(
        "--missing",
        default="refuse",
        choices=("refuse", "empty"),
        help="references without a hypothesis: an error, or all words count as deleted",
    )
    add_text_options(parser)
    parser.add_argument(
        "--results", metavar="EXPDIR", help="only write EXPDIR/RESULTS.md"
    )
    return parser


@command(get_parser)
def main(args) -> None:
    needed = {"--ref": args.ref, "--hyp": args.hyp, "--output": args.output}
    if args.results is not None:
        if any(needed.values()):
            raise UserError("--results cannot be combined with --ref, --hyp, ...")
        # without the line that marks the file as generated
        print(write_results(args.results).removeprefix(MARKER + "\n"), end="")
        return
    absent = [name for name, value in needed.items() if not value]
    if absent:
        raise UserError(f"give {', '.join(absent)} (or --results EXPDIR)")
    counts, missing = score(
        args.ref,
        args.hyp,
        args.output,
        token_type=args.token_type,
        bpemodel=args.bpemodel,
        utt2spk=args.utt2spk,
        missing=args.missing,
        clean=load_cleaner(args.cleaner),
        symbols=read_symbols(args.nlsyms_txt),
    )
    if missing:
        print(
            f"{len(missing)} references had no hypothesis and count as empty: "
            f"{shorten(missing)}"
        )
    head = ["Snt", "Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err"]
    print(f"{args.output}")
    print("     " + "".join(f"{name:>8}" for name in head))
    for metric, c in counts.items():
        print(f"{metric.upper():5}" + "".join(f"{v:>8}" for v in c.columns()))


if __name__ == "__main__":
    main()
