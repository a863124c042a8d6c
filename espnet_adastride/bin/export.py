"""Export a trained model to one file that runs without ESPnet.

    adastride export exp/asr_train_... --output model.onnx
    adastride transcribe --model model.onnx talk.mp3

The file contains the program (features to CTC log probabilities and positions), the
tokens, the feature extraction and the model card. See docs/export.md.
"""

import argparse
import importlib.util
from pathlib import Path

from espnet_adastride.bin.model_options import add_checkpoint_options, check_model_file
from espnet_adastride.bin.parsers import Parser, add_switch, command
from espnet_adastride.errors import UserError
from espnet_adastride.extras import describe_missing
from espnet_adastride.files import check_folder
from espnet_adastride.quiet import quiet_imports

#: formats, and the suffix by which a file of each is recognised
FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
#: packages of --format onnx
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument(
        "model", help="folder of an experiment (exp/asr_...), or a packed .zip"
    )
    parser.add_argument(
        "--output",
        required=True,
        help="output file: model.onnx, or model.pt2 (--format torch)",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="onnx",
        help="onnx (default), or torch: a torch.export program",
    )
    parser.add_argument(
        "--quantize",
        choices=("none", "int8"),
        default="none",
        help="int8: 8-bit weights of linear layers (default: none)",
    )
    add_checkpoint_options(parser)
    add_switch(parser, "--overwrite", "replace an existing file")
    return parser


def check(args: argparse.Namespace) -> None:
    """Reject bad options before the model is loaded.

    Raises:
        UserError: naming the option and the fix.
    """
    output = Path(args.output)
    check_model_file(args.model, "model")
    if not output.absolute().parent.is_dir():
        raise UserError(
            f"--output {output}: no folder {output.parent}; create it first"
        )
    if output.is_dir():
        raise UserError(f"--output {output}: is a folder; name a file")
    check_folder(output.parent, "--output")  # before minutes of work
    if output.suffix != FORMATS[args.format]:
        other = next(
            (f for f, suffix in FORMATS.items() if suffix == output.suffix), ""
        )
        fix = f"; or give --format {other}" if other else ""
        raise UserError(
            f"--output {output}: name a {FORMATS[args.format]}, which --format "
            f"{args.format} writes{fix}"
        )
    if output.exists() and not args.overwrite:
        raise UserError(
            f"--output {output}: already exists; give another name, or --overwrite true"
        )
    if args.quantize != "none" and args.format != "onnx":
        raise UserError("--quantize int8 is for --format onnx")
    if args.format == "onnx":
        for package in NEEDED:
            if importlib.util.find_spec(package) is None:
                raise UserError(describe_missing(package))


@command(get_parser)
def main(args):
    check(args)
    with quiet_imports():
        from espnet_adastride.plugin.exporting import export
    line = export(
        args.model,
        args.output,
        format=args.format,
        quantize=args.quantize,
        asr_model_file=args.asr_model_file,
        stride=args.stride,
        upstream_model=args.upstream_model,
    )
    print(line)


if __name__ == "__main__":
    main()
