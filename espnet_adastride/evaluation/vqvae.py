"""What a trained VQ-VAE keeps of speech, and at how many bits a second.

* **error**: mean absolute and root mean square difference of log-mels, in dB, over
  valid frames and mel bins of the test set;
* **codebook perplexity**: exp of the entropy of the codes on the test set;
* **bits per second**: tokens a second times log2 K (``bits``), or times the entropy of
  the codes (``entropy_bits``: what an ideal code that knows their frequencies takes);
* **side information** (``side_bits``): what the decoder must be told beside the tokens.
  Methods with positions send the number of steps of every slot, for every stage:
  slots a second times the entropy of these numbers on the test set. ``error`` is that
  of a decoder that knows no more than this; ``error_exact`` has the encoder's real
  positions, which no finite number of bits can send.

Entropies are of order 0 and of the test set itself: a real coder would need a little
more (it must know the frequencies) or less (it may look at the neighbours).
"""

import math
from typing import Any, Dict, List, Sequence

import numpy as np
import torch

from espnet_adastride.corpora.datadir import read_mono
from espnet_adastride.errors import UserError
from espnet_adastride.networks.log_mel import DECIBEL, LogMel
from espnet_adastride.networks.vqvae import (
    VQVAE,
    Stage,
    durations,
    with_coded_positions,
)
from espnet_adastride.timing.boundaries import (
    compose_boundaries,
    slot_boundaries,
    uniform_boundaries,
)


def measure(features: LogMel, network: VQVAE, recordings) -> Dict[str, Any]:
    """Return the figures at the file's top for some recordings.

    Args:
        features: the model's.
        network: in evaluation mode.
        recordings: of :func:`recordings.read_set`.

    Returns:
        ``tokens_per_second``, ``perplexity``, ``bits``, ``entropy_bits``,
        ``side_bits`` and ``side_bits_per_stage``, ``error``, ``rms_error``,
        ``error_exact`` and, of every recording, ``utterances`` {id: {frames, error,
        group}}.
    """
    utterances, tokens, told = {}, [], []
    sums = dict.fromkeys(("absolute", "squares", "exact", "values"), 0.0)
    seconds = 0.0
    for recording in recordings:
        wave = torch.from_numpy(read_wave(recording.path, features.fs))
        one = Reconstruction(features, network, wave)
        difference = (one.rebuilt - one.frames).double() * DECIBEL
        exact = (one.exact - one.frames).double() * DECIBEL
        sums["absolute"] += float(difference.abs().sum())
        sums["squares"] += float(difference.square().sum())
        sums["exact"] += float(exact.abs().sum())
        sums["values"] += difference.numel()
        seconds += len(wave) / features.fs
        tokens.append(one.tokens)
        told.append(one.durations())
        utterances[recording.id] = {
            "frames": len(one.frames),
            "error": float(difference.abs().mean()),
            "group": recording.group,
        }
    if not utterances:
        raise UserError("no recording to reconstruct; give at least one")
    all_tokens = torch.cat(tokens)
    rate = len(all_tokens) / seconds
    codes = perplexity(all_tokens, network.codebook_size)
    stages = [[n for own in stage for n in own] for stage in zip(*told)]
    side = [len(stage) * entropy(stage) / seconds for stage in stages]
    return {
        "codebook_size": network.codebook_size,
        "tokens_per_second": rate,
        "perplexity": codes,
        "codes_used": int(len(all_tokens.unique())),
        "bits": rate * math.log2(network.codebook_size),
        "entropy_bits": rate * math.log2(codes),
        "side_bits": sum(side),
        "side_bits_per_stage": side,
        "error": sums["absolute"] / sums["values"],
        "rms_error": math.sqrt(sums["squares"] / sums["values"]),
        "error_exact": sums["exact"] / sums["values"],
        "seconds_of_speech": seconds,
        "utterances": utterances,
    }


class Reconstruction:
    """One utterance through a model, alone.

    Attributes:
        frames: (T, F) natural log-mels of the recording.
        rebuilt: (T, F) by a decoder that knows tokens and durations.
        exact: (T, F) by one that knows the true positions.
        tokens: (T',).
        stages: of a batch of one.
    """

    @torch.no_grad()
    def __init__(self, features: LogMel, network: VQVAE, wave: torch.Tensor):
        length = torch.tensor([len(wave)])
        frames, lengths = features(wave.unsqueeze(0), length)
        encoded = network.encode(frames, lengths)
        self.tokens, self.stages = encoded.tokens[0], encoded.stages
        # what is decoded are the tokens, as a receiver has them
        codes = network.codes(encoded.tokens)
        exact = network.decode(codes, encoded.lengths, encoded.stages)
        rebuilt = exact
        if any(stage.positions is not None for stage in self.stages):
            known = with_coded_positions(self.stages)
            rebuilt = network.decode(codes, encoded.lengths, known)
        self.frames, self.rebuilt, self.exact = frames[0], rebuilt[0], exact[0]

    def durations(self) -> List[List[int]]:
        """Return the numbers that are sent of each stage; [] where there are none."""
        return [
            (
                []
                if stage.positions is None
                else durations(
                    stage.positions[0], int(stage.lengths), int(stage.output_lengths)
                ).tolist()
            )
            for stage in self.stages
        ]

    def boundaries(self) -> np.ndarray:
        """Return where the tokens begin and end, (T' + 1,) in frames."""
        return compose_boundaries([_stage_boundaries(stage) for stage in self.stages])


def _stage_boundaries(stage: Stage) -> np.ndarray:
    n, m = int(stage.lengths), int(stage.output_lengths)
    if stage.positions is not None:
        return slot_boundaries(stage.positions[0].numpy(), n, m)
    shift = (1 - stage.stride) / 2
    if stage.layer is not None:
        shift = stage.layer.frame_shift()
    return uniform_boundaries(n, m, stage.stride, shift)


def entropy(values: Sequence[int]) -> float:
    """Return the entropy of a list of whole numbers, in bits a number; 0 for none."""
    _, counts = np.unique(np.asarray(values, dtype=np.int64), return_counts=True)
    shares = counts / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) if len(counts) else 0.0


def perplexity(tokens: torch.Tensor, codebook_size: int) -> float:
    """Return exp of the entropy of the codes among tokens (any shape; -1 is padding).

    1 where one code is used, ``codebook_size`` where all are, evenly; NaN for none.
    """
    counts = torch.bincount(tokens[tokens >= 0].flatten(), minlength=codebook_size)
    shares = counts[counts > 0].to(torch.float64) / counts.sum()
    if len(shares) == 0:
        return float("nan")
    return float((-(shares * shares.log()).sum()).exp())


def read_wave(path, rate: int) -> np.ndarray:
    """Return samples (N,) of a prepared recording.

    Raises:
        AudioError: it does not decode, or has several channels.
        UserError: it has another rate.
    """
    wave, info = read_mono(path)
    if info.rate != rate:
        raise UserError(f"{path}: not at {rate} Hz; prepare it again")
    return wave


def run_title(run: Dict[str, Any]) -> str:
    """Return e.g. ``adastride 8x, seed 0``."""
    return f"{run['method']} {run['rate']:g}x, seed {run['seed']}"
