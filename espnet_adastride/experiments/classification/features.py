"""Clips to log-mel frames: computed once, kept in a file, held in memory."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Callable, List, Tuple

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_adastride.corpora.clips import Clip
from espnet_adastride.corpora.recordings import read_audio
from espnet_adastride.errors import UserError, counted, located
from espnet_adastride.experiments.classification.options import FeatureOptions
from espnet_adastride.files import locked
from espnet_adastride.networks.log_mel import LogMel
from espnet_adastride.networks.saving import load, save


class Features:
    """Log-mel frames of all clips, in memory.

    Args:
        clips: of the corpus, in the order of ``lengths``.
        frames: (sum of lengths, F), clip by clip.
        lengths: (clips,) frames of each.

    Attributes:
        classes: their names, sorted.
        labels: (clips,) indices into ``classes``.
    """

    def __init__(self, clips: List[Clip], frames: torch.Tensor, lengths: torch.Tensor):
        self.clips, self.frames, self.lengths = clips, frames, lengths
        self.ends = lengths.cumsum(0).tolist()
        self.classes = sorted({clip.label for clip in clips})
        number = {name: index for index, name in enumerate(self.classes)}
        self.labels = torch.tensor([number[clip.label] for clip in clips])

    def batch(self, indices) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return x (B, T, F), zeros in its padding, lengths (B,) and labels (B,)."""
        lengths = self.lengths[indices]
        x = pad_sequence(self._frames_of(indices), batch_first=True)
        return x, lengths, self.labels[indices]

    def _frames_of(self, indices) -> List[torch.Tensor]:
        """Return the frames (T, F) of each clip."""
        places = zip(indices.tolist(), self.lengths[indices].tolist())
        return [self.frames[self.ends[i] - n : self.ends[i]] for i, n in places]

    def statistics(self, indices) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation (F,) of some clips' frames."""
        frames = torch.cat(self._frames_of(indices))  # no padding: one clip may be long
        return frames.mean(dim=0), frames.std(dim=0).clamp(min=1e-3)


def load_features(
    clips: List[Clip],
    options: FeatureOptions,
    folder,
    say: Callable[[str], None] = print,
) -> Features:
    """Return the clips' features, computed once: later calls read them from a file.

    The file's name follows the clips' names, sizes and times and the options.

    Raises:
        AudioError: see :func:`espnet_adastride.corpora.recordings.read_audio`.
        UserError: a mel bin would be empty.
    """
    digest = hashlib.sha256(repr(("log-mel 1", options)).encode())
    for clip in clips:
        status = clip.path.stat()
        digest.update(f"{clip.id} {status.st_size} {status.st_mtime_ns}\n".encode())
    folder = Path(folder)
    path = folder / f"logmel_{digest.hexdigest()[:16]}.pth"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        if not path.is_file():
            say(f"computing log-mel frames of {counted(len(clips), 'clip')}: {path}")
            fs, n_fft, hop, n_mels = dataclasses.astuple(options)
            with located("features", ValueError, UserError):
                log_mel = LogMel(fs, n_fft, n_fft, hop, n_mels, "power")
            frames = []
            for clip in clips:
                wave = torch.from_numpy(read_audio(clip.path, fs))
                frames.append(log_mel(wave[None], torch.tensor([len(wave)]))[0][0])
            lengths = torch.tensor([len(one) for one in frames])
            save({"frames": torch.cat(frames), "lengths": lengths}, path)
        return Features(clips, **load(path))
