"""Stage 5: make the token list (and the SentencePiece model) from training text."""

from pathlib import Path

from espnet_adastride.bin.parsers import Parser, add_rerun_option, command
from espnet_adastride.bin.text_options import add_text_options, load_cleaner
from espnet_adastride.corpora.tokens import (
    make_token_list,
    read_symbols,
    unseen_characters,
)
from espnet_adastride.options import real, whole
from espnet_adastride.recipe.stamps import Stamp, fingerprint


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument(
        "--text", action="append", required=True, help="a Kaldi-style text file"
    )
    parser.add_argument("--output", required=True, help="output folder of tokens.txt")
    parser.add_argument(
        "--token_type", default="bpe", choices=["bpe", "char"], help="kind of tokens"
    )
    parser.add_argument("--nbpe", type=whole(1), default=30, help="number of pieces")
    parser.add_argument(
        "--bpemode",
        default="unigram",
        choices=["unigram", "bpe"],
        help="SentencePiece algorithm",
    )
    parser.add_argument(
        "--bpe_char_cover",
        type=real(0, 1, above=True),
        default=1.0,
        help="character coverage",
    )
    parser.add_argument(
        "--bpe_nlsyms", default="", help="user-defined symbols, comma-separated"
    )
    parser.add_argument(
        "--check_text",
        action="append",
        default=[],
        help="text of another set: report its characters that no token covers",
    )
    add_text_options(parser)
    add_rerun_option(parser)
    return parser


@command(get_parser)
def main(args):
    options = {"token_type": args.token_type}
    names = ["tokens.txt"]
    if args.token_type == "bpe":
        options.update(
            size=args.nbpe,
            mode=args.bpemode,
            coverage=args.bpe_char_cover,
            symbols=args.bpe_nlsyms,
        )
        names.append("bpe.model")
    stamp = Stamp(Path(args.output) / ".stage_done")
    clean, symbols = load_cleaner(args.cleaner), []
    if args.token_type == "char":  # ESPnet looks for them in no other text
        symbols = read_symbols(args.nlsyms_txt)
    told = dict(options)
    if args.cleaner != "none":
        told["cleaner"] = args.cleaner
    if symbols:
        told["nlsyms_txt"] = " ".join(symbols)
    work = fingerprint(args.text, options=told)
    if not stamp.is_done(work, args.rerun, args.output):
        more = {"clean": clean, "nonlinguistic": symbols}
        summary = make_token_list(args.text, args.output, **options, **more)
        stamp.write(work, [Path(args.output) / name for name in names], summary)
        print(summary)
    for text in args.check_text:
        tokens = Path(args.output) / "tokens.txt"
        line = unseen_characters(tokens, text, clean, symbols)
        if line:
            print(line)


if __name__ == "__main__":
    main()
