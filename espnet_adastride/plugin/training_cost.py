"""Measure what a training will cost, without training: parameters, time, memory.

``planning.py`` has the lengths and batches of the plan.
"""

import ctypes
import math
import time
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch

from espnet_adastride.evaluation.plan import (
    Measured,
    ModelCost,
    SetLengths,
    StepCost,
    extrapolate,
)
from espnet_adastride.memory import free_bytes, proc_bytes, total_bytes
from espnet_adastride.networks.macs import macs_by_module
from espnet_adastride.plugin.espnet import asr_task
from espnet_adastride.plugin.planning import Texts
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling

MEMORY_SHARE = 0.6  # of the device's free memory, for measuring


class Batch(NamedTuple):
    """Lengths and labels of a batch.

    Attributes:
        samples: of audio, or frames of features, of each utterance.
        ids: labels.
        size: values of a frame of features; None: audio.
    """

    samples: List[int]
    ids: List[List[int]]
    size: Optional[int] = None

    def padded(self) -> int:
        """Return the samples, padding included."""
        return len(self.samples) * max(self.samples)

    def first(self, count: int) -> "Batch":
        """Return the batch of the first ``count`` utterances."""
        return Batch(self.samples[:count], self.ids[:count], self.size)

    def tensors(self, device: str) -> Dict[str, torch.Tensor]:
        """Return what the model's forward takes: noise, and the labels."""
        text = torch.full((len(self.ids), max(map(len, self.ids))), -1)
        for row, ids in zip(text, self.ids):
            row[: len(ids)] = torch.tensor(ids)
        shape = [len(self.samples), max(self.samples)]
        shape += [] if self.size is None else [self.size]
        batch = {
            "speech": 0.1 * torch.randn(shape),
            "speech_lengths": torch.tensor(self.samples),
            "text": text,
            "text_lengths": torch.tensor([len(ids) for ids in self.ids]),
        }
        return {name: value.to(device) for name, value in batch.items()}


def make_batch(
    lengths: SetLengths,
    texts: Texts,
    keys: Sequence[str],
    size: Optional[int] = None,
) -> Batch:
    """Return the batch of these utterances; ``size``: values of a frame of features."""
    samples = [lengths.samples[k] for k in keys]
    return Batch(samples, [texts.ids(k) for k in keys], size)


def use_lowest_stride(model) -> str:
    """Stop drawing strides: the lowest of ``train_strides`` costs the most.

    Returns:
        Words for the page; empty without ``train_strides``.
    """
    embed = model.encoder.embed
    drawn = getattr(embed, "train_strides", None)
    if drawn is None:
        return ""
    embed.train_strides = None
    embed.set_stride(drawn[0])
    return f", at {drawn[0]:g}x, the lowest of train_strides, which costs the most"


def model_cost(args, model, batch: Optional[Batch], rate: float) -> ModelCost:
    """Count parameters, and multiply-accumulates of a batch of one utterance.

    Args:
        batch: None: count parameters alone.
        rate: samples, or frames of features, a second.
    """
    embed = model.encoder.embed
    conf = args.encoder_conf
    words = conf.get("input_layer", "conv2d")
    if conf.get("input_layer_conf"):
        words += f" {conf['input_layer_conf']}"
    cost = ModelCost(
        words=f"{args.encoder}, input layer {words}",
        parameters=sum(p.numel() for p in model.parameters()),
        layer_parameters=sum(p.numel() for p in embed.parameters()),
    )
    if isinstance(embed, AdaptiveSubsampling) and embed.later:
        cost = cost._replace(
            block_strides=embed.block_strides(len(model.encoder.encoders)),
            restored=math.prod(embed.output_strides()) if embed.later.restore else None,
        )
    if batch is None:
        return cost
    # in training mode: evaluation would also decode, for error rates
    counts = macs_by_module(model.train(), **batch.tensors("cpu"))
    return cost._replace(
        macs=counts["Global"],
        layer_macs=counts.get(f"{type(model).__name__}.encoder.embed", 0),
        seconds=batch.samples[0] / rate,
    )


class StepMeter:
    """Takes training steps on noise and measures them.

    On a CPU, memory is that of this whole process, as in training; on a GPU, what
    PyTorch allocates there. For a batch that would take too much time or memory, cost
    is extrapolated linearly from one utterance and a part of the batch: gradients and
    the optimizer cost the same for any batch.

    Args:
        args: the options of a training; its optimizer and clipping are used.
        model: trained on noise, useless afterwards.
        device: ``cpu`` or ``cuda``.
        seconds: for all measurements, about.
    """

    def __init__(self, args, model, device: str, seconds: float):
        self.model, self.device = model.to(device).train(), device
        self.clip, self.amp = args.grad_clip, args.use_amp and device == "cuda"
        bfloat16 = self.amp and torch.cuda.is_bf16_supported()
        self.amp_dtype = torch.bfloat16 if bfloat16 else torch.float16  # as ESPnet's
        self.optimizer = asr_task.ASRTask.build_optimizers(args, self.model)[0]
        self.scaler = torch.amp.GradScaler(device, enabled=self.amp)
        self.left = seconds
        self.small: Optional[StepCost] = None  # one utterance
        self.base: Optional[int] = None  # bytes between steps

    def _start(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return
        try:  # without this, an earlier, larger step may hide the peak
            ctypes.CDLL(None).malloc_trim(0)  # what glibc keeps of earlier steps
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # resets the peak
        except (AttributeError, OSError):
            pass

    def _peak(self) -> Optional[int]:
        if self.device == "cuda":
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()
        return proc_bytes("/proc/self/status", "VmHWM")

    def step(self, batch: Batch) -> Tuple[float, Optional[int]]:
        """Take one step; return its seconds and the peak of memory."""
        tensors = batch.tensors(self.device)
        self._start()
        start = time.perf_counter()
        with torch.autocast(self.device, dtype=self.amp_dtype, enabled=self.amp):
            loss = self.model(**tensors)[0]
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        peak = self._peak()
        return time.perf_counter() - start, peak

    def warm_up(self, batch: Batch) -> None:
        """Take two steps of a small batch, to predict larger ones."""
        first, _ = self.step(batch)  # also allocates the optimizer's state
        self.base = self._current()
        second, peak = self.step(batch)
        self.small = StepCost(batch.padded(), second, peak, 1.0)
        self.left -= first + second

    def _current(self) -> Optional[int]:
        if self.device == "cuda":
            return torch.cuda.memory_allocated()
        return proc_bytes("/proc/self/status", "VmRSS")

    def measure(self, batch: Batch, seconds: float) -> StepCost:
        """Measure a step of the batch, or of as much of it as time and memory allow.

        Args:
            seconds: for this step.
        """
        count, free = len(batch.samples), free_bytes(self.device)
        room = seconds / self.small.seconds
        if None not in (free, self.small.peak, self.base):
            needed = max(1, self.small.peak - self.base)
            room = min(room, MEMORY_SHARE * free / needed)
        room *= self.small.padded / max(batch.samples)
        part = batch.first(max(1, min(count, int(room))))
        spent, peak = self.step(part)
        self.left -= spent
        return extrapolate(
            self.small,
            StepCost(part.padded(), spent, peak, 1.0),
            batch.padded(),
        )


def measure_steps(
    args, model, lengths: SetLengths, texts: Texts, processes: int, seconds: float
) -> Measured:
    """Measure a step of a median and of the largest training batch.

    Args:
        args: the options of a training.
        lengths: of the training set.
        texts: of the training set.
        processes: that share each batch; one process' part is measured.
        seconds: for all measurements, about; 0: nothing is measured.

    Returns:
        Measured: ``padded`` of its steps is that of the batch of all processes.
    """
    if seconds <= 0:
        return Measured([], "not asked for")
    device = "cpu"
    if args.ngpu > 0:
        if not torch.cuda.is_available():
            return Measured([], f"ngpu is {args.ngpu} and there is no GPU here")
        device = "cuda"
    order = sorted(zip(lengths.padded(), lengths.batches))
    chosen = [order[len(order) // 2][1], order[-1][1]]
    size = args.input_size
    parts = [make_batch(lengths, texts, keys[::processes], size) for keys in chosen]
    steps = []
    try:
        meter = StepMeter(args, model, device, seconds)
        meter.warm_up(parts[0].first(1))
        for left, (keys, part) in zip((2, 1), zip(chosen, parts)):
            step = meter.measure(part, meter.left / left)
            whole = len(keys) * max(lengths.samples[k] for k in keys)
            steps.append(step._replace(padded=whole))
    except torch.OutOfMemoryError:
        return Measured([], "the GPU's memory is too small, or is used by others")
    name = torch.cuda.get_device_name() if device == "cuda" else "this CPU"
    if device == "cpu":
        name += f" (threads: {torch.get_num_threads()})"
    if processes > 1:
        name += f" in {processes} processes, of which one was measured alone"
    return Measured(steps, name, total_bytes(device))
