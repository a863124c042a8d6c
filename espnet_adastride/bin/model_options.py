"""The options that commands share which run a trained model."""

import argparse

from espnet_adastride.recipe.errors import RecipeError
from espnet_adastride.recipe.numbers import real
from espnet_adastride.recipe.quiet import quiet_imports


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add --model, --asr_model_file, --stride ...: what TrainedModel takes."""
    parser.add_argument(
        "--model",
        required=True,
        help="folder of an experiment (exp/asr_...), or a .zip of espnet2.bin.pack",
    )
    parser.add_argument(
        "--asr_model_file", help="parameters in the folder (default: valid.*.ave.pth)"
    )
    parser.add_argument(
        "--stride",
        type=real(),
        help="overall rate of the input layer, for AdaStride's (default: as trained)",
    )
    parser.add_argument(
        "--upstream_model",
        metavar="FOLDER",
        help="the pretrained encoder of a model that reads extracted features, if it "
        "is not where it was in training",
    )
    parser.add_argument(
        "--ngpu", type=int, default=0, help="0: CPU (default), 1: one GPU"
    )


def add_segment_option(parser: argparse.ArgumentParser) -> None:
    """Add --max_segment of the commands that encode long recordings in pieces."""
    parser.add_argument(
        "--max_segment",
        type=real(1),
        help="seconds; longer recordings are encoded in pieces, cut at pauses "
        "(default: what the model was trained on, 20 at most)",
    )


def load_transcriber(args: argparse.Namespace, **options):
    """Return the Transcriber that these options name.

    Args:
        args: with the options of :func:`add_model_options`.
        options: further ones of ``transcribe.Transcriber``.

    Raises:
        RecipeError: for a model that cannot be read, or does not take the options.
    """
    # ESPnet takes seconds to import: call this when other mistakes have been told
    with quiet_imports():
        from espnet_adastride.plugin.errors import PluginError
        from espnet_adastride.transcribe import Transcriber
    try:
        return Transcriber(
            args.model,
            args.asr_model_file,
            device="cuda" if args.ngpu else "cpu",
            stride=args.stride,
            upstream_model=args.upstream_model,
            **options,
        )
    except PluginError as error:
        raise RecipeError(str(error)) from None
