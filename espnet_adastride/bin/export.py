"""Export a trained model to one file that runs without ESPnet.

    adastride export exp/asr_train_... --output model.onnx
    adastride transcribe --model model.onnx talk.mp3

The file contains the program (features to CTC log probabilities and positions), the
tokens, the feature extraction and the model card. See docs/export.md.
"""

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path

from espnet_adastride.bin.model_options import add_checkpoint_options, check_model_file
from espnet_adastride.bin.parsers import Parser, add_switch, command
from espnet_adastride.errors import UserError
from espnet_adastride.extras import describe_missing
from espnet_adastride.quiet import quiet_imports

FORMATS = ("onnx", "torch")
#: packages of --format onnx
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument(
        "model", help="folder of an experiment (exp/asr_...), or a packed .zip"
    )
    parser.add_argument(
        "--output", required=True, help="output file: model.onnx or model.pt2"
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
    check_model_file(args.model)
    if not output.absolute().parent.is_dir():
        raise UserError(
            f"--output {output}: no folder {output.parent}; create it first"
        )
    if output.is_dir():
        raise UserError(f"--output {output}: is a folder; name a file")
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


def find_card(model: Path) -> str:
    """Return the card of a packed model or an experiment; "" if it has none."""
    import zipfile

    if model.is_dir():
        card = model / "README.md"
        return card.read_text(encoding="utf-8") if card.is_file() else ""
    if zipfile.is_zipfile(model):
        with zipfile.ZipFile(model) as archive:
            if "README.md" in archive.namelist():
                return archive.read("README.md").decode("utf-8", errors="replace")
    return ""


def export(args: argparse.Namespace) -> str:
    """Write the file; return one line on it.

    Raises:
        UserError: if the model cannot be exported.
    """
    with quiet_imports():
        import torch

        import espnet_adastride.plugin  # noqa: F401  (registers the plugin)
        from espnet_adastride.deployment import conversion
        from espnet_adastride.deployment.description import output_names, to_metadata
        from espnet_adastride.downsampling.exportable import export_program
        from espnet_adastride.plugin.exporting import (
            LEAST_FRAMES,
            CTCProgram,
            check_program,
            describe,
        )
        from espnet_adastride.plugin.trained import TrainedModel
    trained = TrainedModel(
        args.model,
        args.asr_model_file,
        stride=args.stride,
        upstream_model=args.upstream_model,
    )
    content = describe(trained)
    module = CTCProgram(trained.model).eval()
    example = torch.randn(1, 211, content["size"])
    with quiet_imports():
        program = export_program(module, example, LEAST_FRAMES)
    metadata = to_metadata(content, find_card(Path(args.model)))
    output = Path(args.output).absolute()
    with tempfile.TemporaryDirectory(prefix=".export", dir=output.parent) as folder:
        made = Path(folder, output.name)
        if args.format == "torch":
            torch.export.save(program, made, extra_files=metadata)
            run = program.module()

            def log_probs(x):
                return run(torch.from_numpy(x))[0].detach().numpy()

        else:
            names = output_names(content["stages"])
            conversion.write_onnx(program, names, metadata, made)
            log_probs = conversion.runner(made)
        difference = check_program(log_probs, module, trained)
        if args.quantize == "int8":
            conversion.quantize(made)
        os.replace(made, output)
    size = output.stat().st_size / 2**20
    line = (
        f"{args.output}: {size:.1f} MiB; log probabilities within {difference:.1g} of "
        "ESPnet's"
    )
    return f"{line}, before 8 bits" if args.quantize == "int8" else line


@command(get_parser)
def main(args):
    check(args)
    print(export(args))


if __name__ == "__main__":
    main()
