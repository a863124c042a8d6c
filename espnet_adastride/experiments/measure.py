"""The cost of a trained model, and the utterances that CTC cannot align at its rate.

The cost is that of recognition, not of training: the encoder and CTC's projection on
one utterance of :data:`SECONDS`, alone in its batch. Seconds are processor time of one
thread. Other work on the machine slows them all the same (caches, memory, clock): on
two busy cores, models that do the same work differed by up to a factor of two. To
compare methods, take the multiply-accumulates.
"""

import time
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import torch

from espnet_adastride.corpora.datadir import read_table
from espnet_adastride.corpora.features import rebuild_upstream
from espnet_adastride.corpora.upstream_record import RECORD_NAME, read_record
from espnet_adastride.errors import ModelError
from espnet_adastride.files import PathLike
from espnet_adastride.networks.macs import macs_by_module
from espnet_adastride.plugin.espnet import asr_task
from espnet_adastride.plugin.greedy import main_frames
from espnet_adastride.plugin.planning import ModelLengths, Texts, sampling_rate
from espnet_adastride.timing.ctc import needed_frames

SECONDS = 12.8
PASSES = 10


class _Recogniser(torch.nn.Module):
    """From speech to the log probabilities of CTC."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, speech, lengths):
        frames, _ = self.model.encode(speech, lengths)
        return self.model.ctc.log_softmax(main_frames(frames))


def processor_seconds(function, passes: int = PASSES) -> float:
    """Return the processor time of a call on one thread: the median of ``passes``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        function()
        spent = []
        for _ in range(passes):
            start = time.process_time()
            function()
            spent.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return sorted(spent)[len(spent) // 2]


def cost(model: torch.nn.Module, args) -> Dict[str, float]:
    """Return parameters, multiply-accumulates and seconds per second of audio.

    Args:
        model: ESPnetASRModel with a CTC branch.
        args: its options.
    """
    count = round(SECONDS * sampling_rate(args))
    shape = [1, count] + ([] if args.input_size is None else [args.input_size])
    generator = torch.Generator().manual_seed(0)
    speech = 0.1 * torch.randn(shape, generator=generator)
    lengths = torch.tensor([count])
    recogniser = _Recogniser(model).eval()
    macs = macs_by_module(recogniser, speech, lengths)
    with torch.no_grad():
        spent = processor_seconds(lambda: recogniser(speech, lengths))
    embed = model.encoder.embed
    layer = macs.get("_Recogniser.model.encoder.embed", 0)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "layer_parameters": sum(p.numel() for p in embed.parameters()),
        "macs_per_second": macs["Global"] / SECONDS,
        "layer_macs_per_second": layer / SECONDS,
        "seconds_per_second": spent / SECONDS,
    }


def upstream_seconds(folder: PathLike) -> Optional[float]:
    """Return an upstream's seconds per second of audio; None if not available here."""
    import numpy as np

    try:
        record = read_record(Path(folder) / RECORD_NAME)
        upstream = rebuild_upstream(record)
    except ModelError:
        return None
    noise = np.random.default_rng(0).normal(0, 0.1, int(SECONDS * record.rate))
    wave = noise.astype(np.float32)
    return processor_seconds(lambda: upstream(wave), 3) / SECONDS


def unalignable(model: torch.nn.Module, args, folder: PathLike) -> Tuple[int, int]:
    """Return how many utterances of a set CTC cannot align, and how many it has.

    Args:
        folder: a data folder, with ``text``, and with ``utt2num_frames`` for extracted
            features, else ``utt2num_samples``.
    """
    lengths_of = ModelLengths(model, args.input_size)
    texts = Texts(args, [(str(Path(folder) / "text"), "text", "text")])
    name = "utt2num_samples" if args.input_size is None else "utt2num_frames"
    counts = {k: int(n) for k, n in read_table(Path(folder) / name).items()}
    bad = 0
    for key in texts.texts:
        (frames,) = lengths_of.frames(lengths_of.features([counts[key]]))
        bad += int(frames < needed_frames(texts.ids(key)))
    return bad, len(texts.texts)


def measure(config: PathLike, weights: PathLike, sets: Dict[str, str]) -> Dict:
    """Return all figures of a trained model.

    Args:
        config, weights: of the model.
        sets: {name: data folder}.
    """
    model, args = asr_task.ASRTask.build_model_from_file(
        str(config), str(weights), "cpu"
    )
    figures: Dict[str, Any] = cost(model, args)
    figures["unalignable"] = {
        name: list(unalignable(model, args, folder)) for name, folder in sets.items()
    }
    if args.input_size is not None:
        figures["upstream_seconds_per_second"] = upstream_seconds(Path(config).parent)
    return figures
