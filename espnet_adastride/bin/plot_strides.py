#!/usr/bin/env python3
"""Draw one utterance's adaptive strides over its spectrogram.

    python -m espnet_adastride.bin.plot_strides --asr_exp exp/asr_train_... \
        --data_dir dump/raw/test_clean --output strides.png

Run it in the recipe's folder: ESPnet's config.yaml names files relative to it. Without
``--utt_id``, the utterance whose length is nearest to 5 s is drawn (the first id among
equals): long enough for some words and pauses, short enough to tell its frames apart.
The hypothesis is the model's greedy CTC output.
"""

import argparse
import math
import pickle
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import soundfile
import torch
import yaml
from espnet2.tasks.asr import ASRTask

import espnet_adastride.plugin  # noqa: F401  (registers the plugin)
from espnet_adastride.corpus import DataError, read_scp
from espnet_adastride.plotting import (
    SPEECH_THRESHOLD_DB,
    PictureError,
    StridePicture,
    check_picture_name,
    plot_strides,
    save_figure,
    summary,
)
from espnet_adastride.plugin.errors import ConfigurationError, PluginError
from espnet_adastride.plugin.espnet import TooShortUttError
from espnet_adastride.plugin.frame_times import encoder_boundaries
from espnet_adastride.plugin.greedy import CTCGreedy, main_frames
from espnet_adastride.plugin.model import input_layer
from espnet_adastride.recipe.datadir import parse_rate
from espnet_adastride.recipe.errors import RecipeError
from espnet_adastride.strides import boundaries_in_seconds

#: seconds; the utterance nearest to it is drawn
GOOD_LENGTH = 5.0
MEND = "choose a model with adastride or adastride_f"


class Recording(NamedTuple):
    """One utterance to draw: id, audio file, transcript (None if not known)."""

    id: str
    audio: str
    text: Optional[str]


def load_model(asr_exp: Path, asr_model_file: str):
    """Return the model, its options and its input layer.

    Raises:
        DataError: for files that are missing.
        ConfigurationError: for a model with another input layer or frontend.
    """
    config, parameters = asr_exp / "config.yaml", asr_exp / asr_model_file
    for path in (config, parameters):
        if not path.is_file():
            there = ", ".join(sorted(p.name for p in asr_exp.glob("*.pth"))) or "none"
            raise DataError(
                f"{path} is missing: train the model first, or name another with "
                f"--asr_exp and --asr_model_file (models in {asr_exp}: {there})"
            )
    options = yaml.safe_load(config.read_text(encoding="utf-8"))
    for path in (
        (options.get("normalize_conf") or {}).get("stats_file"),
        options.get("bpemodel"),
    ):
        if path and not Path(path).is_file():
            raise DataError(
                f"{config} names {path}, which is not there: run this command in the "
                "recipe's folder, where the model was trained"
            )
    try:
        model, args = ASRTask.build_model_from_file(config, parameters, "cpu")
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{parameters} cannot be read as a model ({_first_line(error)})"
        ) from None
    layer = input_layer(model)
    if layer is None:
        word = (options.get("encoder_conf") or {}).get("input_layer", "conv2d")
        raise ConfigurationError(
            f"{asr_exp} has input_layer: {word}, which has no positions: its strides "
            f"are uniform; {MEND}"
        )
    if not hasattr(model.frontend, "stft"):
        raise ConfigurationError(
            f"{asr_exp} does not compute log-mel frames from audio (frontend: "
            "default): the times of its frames are not known"
        )
    return model.eval(), args, layer


def choose(args: argparse.Namespace) -> Recording:
    """Return the utterance that the options ask for.

    Raises:
        DataError: for an unknown id, or a folder that cannot be read.
    """
    if args.wav is not None:
        return Recording(args.utt_id or Path(args.wav).stem, args.wav, None)
    folder = Path(args.data_dir)
    waves = read_scp(folder / "wav.scp")
    key = args.utt_id
    if key is None:
        key = min(sorted(waves), key=lambda k: abs(_seconds(waves[k]) - GOOD_LENGTH))
    elif key not in waves:
        raise DataError(f"--utt_id {key} is not in {folder}/wav.scp")
    text = None
    if (folder / "text").exists():
        text = read_scp(folder / "text", allow_empty=True).get(key)
    return Recording(key, waves[key], text)


def _seconds(path: str) -> float:
    try:
        info = soundfile.info(path)
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)})") from None
    return info.frames / info.samplerate


def read_wave(path: str, rate: int) -> np.ndarray:
    """Return (samples,) float32 of a recording with one channel at ``rate`` Hz.

    Raises:
        DataError: if it cannot be read, is empty or has another format.
    """
    if path.endswith("|"):
        raise DataError(f"{path}: a pipe; give an audio file")
    try:
        wave, found = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)})") from None
    if wave.shape[1] != 1:
        raise DataError(f"{path} has {wave.shape[1]} channels: give one")
    if found != rate:
        raise DataError(f"{path} has {found} Hz, the model wants {rate}: resample it")
    if len(wave) == 0:
        raise DataError(f"{path} has no samples")
    return wave[:, 0]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None)
    return str(text or error).replace("Error : ", "").strip(" .")


@torch.no_grad()
def analyse(model, args, layer, recording: Recording, threshold: float):
    """Encode a recording and return its StridePicture.

    Raises:
        DataError: if the recording does not suit the model.
        ConfigurationError: if no stage's strides are adaptive.
    """
    rate = parse_rate(str((args.frontend_conf or {}).get("fs", 16000)))
    wave = read_wave(recording.audio, rate)
    stft = model.frontend.stft
    if len(wave) <= stft.n_fft // 2:  # cannot be padded by reflection
        raise DataError(f"{recording.id} is too short: {len(wave)} samples")
    speech = torch.from_numpy(wave).unsqueeze(0)
    lengths = torch.tensor([len(wave)])
    try:
        frames, frame_lengths = model.encode(speech, lengths)
    except TooShortUttError as error:
        raise DataError(
            f"{recording.id} is too short for the encoder: {error.actual_size} frames, "
            f"more than {error.limit} are needed"
        ) from None
    trace = layer.take_trace()
    if all(stage.positions is None for stage in trace):
        raise ConfigurationError(
            f"this model's strides are uniform ({', '.join(layer.methods)}): there are "
            f"no positions to draw; {MEND}"
        )
    count = len(wave) if stft.center else len(wave) - stft.n_fft
    boundaries, uniform = encoder_boundaries(layer, trace, 1 + count // stft.hop_length)
    if len(boundaries) - 1 != int(frame_lengths[0]):
        raise ConfigurationError(
            f"the encoder made {int(frame_lengths[0])} frames and its input layer "
            f"{len(boundaries) - 1}: a stage beyond the input layer shortens them too"
        )
    step = stft.hop_length / rate
    # frame t of a centred STFT is centred at t hops, of another at half a window later
    centre = 0.0 if stft.center else stft.n_fft / 2 / rate
    boundaries, uniform = (
        boundaries_in_seconds(b, step, centre - step / 2, len(wave) / rate)
        for b in (boundaries, uniform)
    )
    stride = math.prod(layer.current_strides())
    # one word if all stages share it
    words = layer.methods if len(set(layer.methods)) > 1 else layer.methods[:1]
    return StridePicture(
        utterance=recording.id,
        wave=wave,
        rate=rate,
        step=step,
        boundaries=boundaries,
        uniform=uniform,
        method=f"{', '.join(words)}, {stride:g}x",
        reference=recording.text,
        hypothesis=greedy_text(model, args, frames),
        threshold=threshold,
    )


def greedy_text(model, args, frames) -> Optional[str]:
    """Return the greedy CTC text of one utterance's frames, None without CTC."""
    if model.ctc is None:
        return None
    path = model.ctc.log_softmax(main_frames(frames))[0].argmax(dim=1).tolist()
    return CTCGreedy(model, args).read(path)[0]


def get_parser() -> argparse.ArgumentParser:
    """Build the command's argument parser."""
    parser = argparse.ArgumentParser(
        prog="plot_strides",
        description="Draw one utterance's adaptive strides over its spectrogram.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--asr_exp", required=True, help="folder of the experiment")
    parser.add_argument(
        "--asr_model_file", default="valid.acc.ave.pth", help="parameters in it"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--wav", help="a recording to draw")
    source.add_argument("--data_dir", help="folder with wav.scp, and text if there is")
    parser.add_argument(
        "--utt_id", help=f"default: the utterance nearest to {GOOD_LENGTH:g} s"
    )
    parser.add_argument("--output", required=True, help=".png, .svg or .pdf")
    parser.add_argument(
        "--speech_threshold",
        type=float,
        default=SPEECH_THRESHOLD_DB,
        help="speech is what is at most so many dB below the loudest frame",
    )
    return parser


def main(cmd=None) -> None:
    """Run the command; bad input ends in one line."""
    args = get_parser().parse_args(cmd)
    try:
        output = Path(args.output)
        check_picture_name(output)
        if not args.speech_threshold > 0:
            raise DataError(f"--speech_threshold {args.speech_threshold}: give dB > 0")
        output.parent.mkdir(parents=True, exist_ok=True)
        recording = choose(args)
        model, options, layer = load_model(Path(args.asr_exp), args.asr_model_file)
        picture = analyse(model, options, layer, recording, args.speech_threshold)
        save_figure(plot_strides(picture), output)
    except (DataError, PictureError, PluginError, RecipeError, OSError) as error:
        raise SystemExit(f"plot_strides: error: {error}") from None
    print(f"{recording.id}: {'; '.join(summary(picture))}")
    print(output)


if __name__ == "__main__":
    main()
