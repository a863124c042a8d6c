"""A page with recordings and their reconstructions, as audio and pictures."""

import base64
import html
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import soundfile
import torch
from matplotlib.figure import Figure

from espnet_adastride.evaluation.vqvae import Reconstruction, read_wave, run_title
from espnet_adastride.networks.log_mel import DECIBEL, LogMel
from espnet_adastride.networks.vqvae import VQVAE
from espnet_adastride.report.style import MEL_MAP, drawing, save_figure


def listen(features: LogMel, network: VQVAE, recordings, folder) -> None:
    """Write ID.wav, ID.original.wav, ID.vocoder.wav and ID.png of some recordings.

    ``vocoder``: the recording's own log-mels through Griffin-Lim, the upper limit of
    the quality of a reconstruction.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for recording in recordings:
        wave = torch.from_numpy(read_wave(recording.path, features.fs))
        one = Reconstruction(features, network, wave)
        sounds = {
            "": features.invert(one.rebuilt, len(wave)),
            ".original": wave,
            ".vocoder": features.invert(one.frames, len(wave)),
        }
        for kind, sound in sounds.items():
            soundfile.write(
                folder / f"{recording.id}{kind}.wav", sound.numpy(), features.fs
            )
        picture = plot_reconstruction(one, features.fs / features.hop_length)
        save_figure(picture, folder / f"{recording.id}.png", dpi=80)


def plot_reconstruction(one: Reconstruction, frame_rate: float) -> Figure:
    """Draw the recording with its tokens' boundaries over its reconstruction."""
    own = one.frames.numpy() * DECIBEL
    low, high = np.percentile(own, [5, 99.8])
    extent = (0.0, len(own) / frame_rate, 0, own.shape[1])
    with drawing(9.0, 4.0, layout="constrained") as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, values, name in (
            (upper, own, "recording"),
            (lower, one.rebuilt.numpy() * DECIBEL, "reconstruction"),
        ):
            axes.imshow(
                values.T,
                origin="lower",
                aspect="auto",
                extent=extent,
                vmin=low,
                vmax=high,
                cmap=MEL_MAP,
            )
            axes.set_ylabel(f"{name}\nmel bin")
        upper.vlines(one.boundaries() / frame_rate, 0, own.shape[1], color="w", lw=0.6)
        lower.set_xlabel("seconds; white: token boundaries")
    return figure


def page(runs: List[Dict[str, Any]], folders: List[Path]) -> str:
    """Return the listening page, one HTML file with audio and pictures.

    Args:
        runs: results, one per row.
        folders: folders written by :func:`listen`, one per run.
    """
    names = sorted(p.stem for folder in folders for p in folder.glob("*.png"))
    parts = [
        "<!DOCTYPE html><html lang='en'><meta charset='utf-8'>",
        "<title>Discrete representations of speech</title>",
        "<style>body{font:15px sans-serif;max-width:62em;margin:2em auto;padding:0 1em}"
        "img{max-width:100%}td,th{padding:.2em .8em .2em 0;text-align:left;"
        "vertical-align:middle}audio{width:15em}</style>",
        "<h1>Discrete representations of speech</h1>",
        "<p>Tokens of a VQ-VAE, decoded to log-mel frames and converted to audio by "
        "Griffin-Lim, which estimates the phases: compare with <em>upper limit</em>, "
        "the "
        "recording's own frames converted in the same way. Methods with adaptive "
        "strides are "
        "decoded from tokens and durations.</p>",
    ]
    for name in dict.fromkeys(names):
        parts.append(f"<h2>{html.escape(name)}</h2><table>")
        first = next(f for f in folders if (f / f"{name}.png").is_file())
        for kind, what in (("original", "recording"), ("vocoder", "upper limit")):
            parts.append(
                f"<tr><th>{what}<td>{_audio(first / f'{name}.{kind}.wav')}<td></tr>"
            )
        shown = []
        for run, folder in zip(runs, folders):
            if not (folder / f"{name}.png").is_file():
                continue
            told = html.escape(run_title(run))
            bits = f"{run['bits']:.0f} + {run['side_bits']:.0f} bit/s"
            parts.append(
                f"<tr><th>{told}<td>{_audio(folder / f'{name}.wav')}<td>{bits}, "
                f"{run['error']:.2f} dB over the test set</tr>"
            )
            data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
            shown.append(
                f"<p>{told}<br><img alt='{told}' src='data:image/png;base64,{data}'>"
            )
        parts += ["</table>", *shown]
    return "\n".join(parts) + "\n</html>\n"


def _audio(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<audio controls preload='none' src='data:audio/wav;base64,{data}'></audio>"
