"""Greedy decoding with the CTC branch alone: the best token of every frame.

It takes those options of ``espnet2.bin.asr_inference`` that apply without a beam, and
writes the same files (``OUTPUT_DIR/1best_recog/{text,token,token_int,score}``), plus
``frames``: the number of encoder frames, and how many of them are not blank. It is much
faster than beam search, and shows the quality of the encoder without a decoder.

Batches larger than 1 are faster on a GPU. The default is 1, because padding reaches
valid frames in the convolution module of ESPnet 202511's Conformer: results in a padded
batch differ slightly from those of single utterances. (202611 masks the padding there.
In both releases, only the longest utterance of a batch is reflected at its end by the
STFT.)

``--stride`` decodes at a rate other than the model's own, for methods with real strides
(all of them but diff_stride). It works best with a model trained with
``train_strides``.
"""

import argparse
import sys
from pathlib import Path

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.config import read_config
from espnet_adastride.errors import UserError, no_such
from espnet_adastride.options import str2bool, stride_number, whole


class ConfigParser(Parser):
    """A parser with ESPnet's option ``--config``: a YAML file of defaults."""

    def parse_known_args(self, args=None, namespace=None):
        """Parse the options; they override those of the file.

        Raises:
            UserError: for an unreadable file, or an unknown option in it.
        """
        words = list(sys.argv[1:] if args is None else args)
        path = None
        for word, following in zip(words, [*words[1:], None]):
            if word == "--config":
                path = following
            elif word.startswith("--config="):
                path = word.partition("=")[2]
        if path:
            config = read_config(path)
            known = {action.dest for action in self._actions}
            for name in config:
                if name not in known:
                    raise UserError(
                        f"{path}: unknown option {name!r}; run --help for the list"
                    )
            self.set_defaults(**config)
        return super().parse_known_args(args, namespace)


def triple(word: str):
    """Read ``PATH,NAME,TYPE``."""
    parts = [part.strip() for part in word.strip("()[]").split(",")]
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"{word!r}: give PATH,NAME,TYPE")
    return tuple(parts)


def str_or_none(word: str):
    """Read a word; ``none`` is None."""
    return None if word.strip().lower() in ("none", "null", "nil") else word


def get_parser():
    """Return the parser; ``--config`` reads options from YAML.

    The recipe checks decoding configurations by the calls of ``add_argument`` in this
    file (``recipe/known_options.py``).
    """
    parser = ConfigParser(__doc__)
    parser.add_argument("--config", help="YAML file with these options")
    parser.add_argument(
        "--log_level", type=lambda x: x.upper(), default="INFO", help="level of the log"
    )
    parser.add_argument("--output_dir", required=True, help="output folder")
    parser.add_argument("--ngpu", type=int, default=0, help="0: CPU, 1: one GPU")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed; greedy decoding needs none"
    )
    parser.add_argument(
        "--dtype", default="float32", choices=["float32"], help="type of numbers"
    )
    parser.add_argument(
        "--num_workers", type=whole(0), default=1, help="processes that read audio"
    )
    parser.add_argument(
        "--batch_size", type=whole(1), default=1, help="utterances per batch"
    )
    parser.add_argument(
        "--data_path_and_name_and_type",
        type=triple,
        required=True,
        action="append",
        metavar="PATH,NAME,TYPE",
        help="input, e.g. wav.scp,speech,sound",
    )
    parser.add_argument(
        "--key_file", type=str_or_none, help="file of the utterances to decode"
    )
    parser.add_argument(
        "--allow_variable_data_keys",
        type=str2bool,
        default=False,
        help="accept inputs that the model does not use",
    )
    parser.add_argument(
        "--asr_train_config", type=str_or_none, help="config.yaml of the model"
    )
    parser.add_argument(
        "--asr_model_file", type=str_or_none, help="parameter file of the model"
    )
    parser.add_argument(
        "--stride", type=stride_number, help="overall stride; default: the model's own"
    )
    return parser


@command(get_parser)
def main(args):
    paths = [args.asr_train_config, args.asr_model_file, args.key_file]
    paths += [path for path, _, _ in args.data_path_and_name_and_type]
    for path in paths:
        if path is not None and not Path(path).exists():
            raise UserError(no_such(path))
    from espnet_adastride.plugin.greedy import inference

    inference(args)


if __name__ == "__main__":
    main()
