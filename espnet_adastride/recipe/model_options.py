"""The options that commands share which run a trained model."""

import argparse


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add --model, --asr_model_file, --stride and --ngpu: what TrainedModel takes."""
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
        type=float,
        help="overall rate of the input layer, for AdaStride's (default: as trained)",
    )
    parser.add_argument(
        "--ngpu", type=int, default=0, help="0: CPU (default), 1: one GPU"
    )
