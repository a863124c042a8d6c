"""A page with recordings and their reconstructions, as audio and pictures."""

from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import soundfile
import torch
from matplotlib.figure import Figure

from espnet_adastride.evaluation.vqvae import Reconstruction, read_wave, run_title
from espnet_adastride.networks.log_mel import DECIBEL, LogMel
from espnet_adastride.networks.vqvae import VQVAE
from espnet_adastride.report.pages import data_uri, render
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
    names = {path.stem for folder in folders for path in folder.glob("*.png")}
    recordings = []
    for name in sorted(names):
        rows = [
            {
                "title": run_title(run),
                "run": run,
                "audio": _uri(folder / f"{name}.wav"),
                "picture": _uri(folder / f"{name}.png"),
            }
            for run, folder in zip(runs, folders)
            if (folder / f"{name}.png").is_file()
        ]
        first = next(f for f in folders if (f / f"{name}.png").is_file())
        own = {
            "recording": _uri(first / f"{name}.original.wav"),
            "upper limit": _uri(first / f"{name}.vocoder.wav"),
        }
        recordings.append({"name": name, "own": own, "rows": rows})
    return render(
        "listening.html.j2",
        title="Discrete representations of speech",
        recordings=recordings,
    )


def _uri(path: Path) -> str:
    kind = {".wav": "audio/wav", ".png": "image/png"}[path.suffix]
    return data_uri(path.read_bytes(), kind)
