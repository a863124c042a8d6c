"""Stage 6: join the text files of a language model, skipping lines without words.

Files are UTF-8; a byte order mark, CR LF and a tab after the id are accepted.
"""

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.kaldi import read_lines, split_line
from espnet_adastride.errors import UserError
from espnet_adastride.files import write_text


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument("--output", required=True, help="file to write")
    parser.add_argument("text", nargs="+", help="text files")
    return parser


@command(get_parser)
def main(args):
    lines = []
    for path in args.text:
        for line in read_lines(path):
            key, text, _ = split_line(line)
            if key and text.strip():
                lines.append(f"{key} {text}\n")
    if not lines:
        raise UserError(f"{', '.join(args.text)}: no line of the form 'id text' in it")
    write_text(args.output, "".join(lines))


if __name__ == "__main__":
    main()
