"""Options shared by commands that run a trained model."""

import argparse
import sys
from pathlib import Path

from espnet_adastride.bin.parsers import say
from espnet_adastride.config import read_config
from espnet_adastride.errors import GIVE_MODEL, UserError, no_such, resumable
from espnet_adastride.networks.unpacking import check_archive
from espnet_adastride.options import real, stride_number
from espnet_adastride.quiet import quiet_imports

#: who reads an exported model, by its suffix
READERS = {
    ".onnx": "only adastride transcribe reads",
    ".pt2": "is for your own programs (docs/export.md)",
}


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which parameters of a model are used, and how."""
    parser.add_argument(
        "--asr_model_file",
        help="parameter file in the folder (default: valid.*.ave.pth)",
    )
    parser.add_argument(
        "--stride",
        type=stride_number,
        help="overall stride, for methods with real strides such as adastride "
        "(default: as trained)",
    )
    parser.add_argument(
        "--upstream_model",
        metavar="FOLDER",
        help="pretrained encoder of a model that reads extracted features, if it "
        "is no longer at the path used in training",
    )


def add_model_options(parser: argparse.ArgumentParser, also: str = "") -> None:
    """Add --model, --ngpu, --asr_model_file ...: the options of TrainedModel.

    Args:
        parser: gets the options.
        also: what else the command accepts as a model, for the help text.
    """
    parser.add_argument(
        "--model",
        required=True,
        help=f"experiment folder (exp/asr_...) or a .zip of espnet2.bin.pack{also}",
    )
    add_checkpoint_options(parser)
    device = "0: CPU (default), 1: one GPU"
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help=device)


def add_segment_option(parser: argparse.ArgumentParser) -> None:
    """Add --max_segment for commands that encode long recordings in pieces."""
    parser.add_argument(
        "--max_segment",
        type=real(1),
        help="seconds; longer recordings are encoded in pieces, cut at pauses "
        "(default: the length of the training utterances, at most 20; 20 if unknown)",
    )


def load_transcriber(args: argparse.Namespace, **options):
    """Return the Transcriber that these options name.

    Args:
        args: parsed with the options of :func:`add_model_options`.
        options: further arguments of ``transcribe.Transcriber``.

    Raises:
        UserError: if the model cannot be read or does not support the options.
    """
    check_model_options(args, options.get("inference_config"))
    if sys.stderr.isatty():
        print(f"loading the model {args.model} ...", file=sys.stderr, flush=True)
    with resumable():
        # importing ESPnet takes seconds: other mistakes have been reported by now
        with quiet_imports():
            from espnet_adastride.transcribe import Transcriber
        return Transcriber(
            args.model,
            args.asr_model_file,
            device="cuda" if args.ngpu else "cpu",
            stride=args.stride,
            upstream_model=args.upstream_model,
            **options,
        )


def load_adaptive(args: argparse.Namespace, **options):
    """Return the Transcriber of a model with adaptive strides.

    Raises:
        UserError: if it has none, and as :func:`load_transcriber` does.
    """
    transcriber = load_transcriber(args, say=say, **options)
    problem = transcriber.trained.why_uniform()
    if problem:
        fix = "choose a model with adastride, or another adaptive method"
        raise UserError(f"{args.model}: {problem}; {fix}")
    return transcriber


def check_model_exists(model: str, option: str = "--model") -> None:
    """Reject a model that is neither a file nor a folder.

    Raises:
        UserError: with the fix.
    """
    if not Path(model).exists():
        raise UserError(no_such(model, GIVE_MODEL, "file or folder", option))


def check_model_file(model: str, option: str = "--model") -> None:
    """Reject a model that does not exist, is a broken archive, or was exported.

    Args:
        model: file or folder.
        option: what named it, for the message.

    Raises:
        UserError: with the fix.
    """
    check_model_exists(model, option)
    reader = READERS.get(Path(model).suffix)
    if reader is not None:
        raise UserError(f"{model}: an exported model, which {reader}; {GIVE_MODEL}")
    if Path(model).is_file() and Path(model).suffix != ".pth":
        check_archive(model)


def check_model_options(args: argparse.Namespace, inference_config=None) -> None:
    """Reject bad options before a model is loaded.

    Args:
        args: parsed with the options of :func:`add_model_options`.
        inference_config: YAML file of beam search options, or None.

    Raises:
        UserError: naming the option and what is missing.
    """
    model = Path(args.model)
    check_model_file(args.model)
    if model.is_dir() and not any(
        (model / name).is_file() for name in ("config.yaml", "meta.yaml")
    ):
        raise UserError(f"--model {model}: no config.yaml in it; {GIVE_MODEL}")
    wanted = args.asr_model_file
    if wanted is not None and not (
        (model / wanted).is_file() or Path(wanted).is_file()
    ):
        there = ", ".join(sorted(p.name for p in model.glob("*.pth"))) or "none"
        raise UserError(
            f"--asr_model_file {wanted}: no such file in {model} (it has: {there})"
        )
    if args.upstream_model is not None and not Path(args.upstream_model).exists():
        fix = "give the folder of the pretrained encoder"
        raise UserError(no_such(args.upstream_model, fix, "folder", "--upstream_model"))
    if isinstance(inference_config, (str, Path)):
        try:
            read_config(inference_config)
        except UserError as error:
            raise UserError(f"--inference_config {error}") from None
