"""Ask ESPnet what a training will do, without training: lengths, batches, cost.

Lengths come from the model's own code: ESPnet's Fourier transform and input layers are
run on the meta device, where tensors have shapes and no content; those of other
frontends from their convolutions (``frontends.py``). Batches come from ESPnet's
sampler, with the options that its trainer hands to it.

A model without a frontend reads extracted features: a "sample" then is a frame of them,
and ``upstream.yaml`` beside ``feats.scp`` says how many there are in a second.
"""

import copy
import ctypes
import inspect
import math
import time
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import torch

from espnet_adastride.corpora.datadir import parse_rate, read_table
from espnet_adastride.corpora.features import RECORD_NAME, read_record
from espnet_adastride.errors import ModelError, NotPlanned, RecipeError
from espnet_adastride.evaluation.plan import (
    Measured,
    ModelCost,
    SetLengths,
    StepCost,
    extrapolate,
)
from espnet_adastride.files import PathLike
from espnet_adastride.networks.macs import macs_by_module
from espnet_adastride.plugin.espnet import (
    asr_task,
    build_batch_sampler,
    check_short_utt,
)
from espnet_adastride.plugin.frontends import FrontendFrames, model_frames
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling
from espnet_adastride.timing.ctc import needed_frames

Shapes = Dict[str, Tuple[int, ...]]
MEMORY_SHARE = 0.6  # of what is free on the machine, that measuring may take


def read_shapes(path: PathLike) -> Shapes:
    """Read a shape file: {utterance: (length, dimension, ...)}."""
    try:
        return {
            key: tuple(int(n) for n in value.split(","))
            for key, value in read_table(path).items()
        }
    except ValueError:
        raise RecipeError(
            f"{path}: lines must be 'utterance length[,dimension]', as the statistics "
            "(stage 10) write them"
        ) from None


# ---------------------------------------------------------------- lengths
class ModelLengths:
    """The lengths that a model makes of a batch, by its own code.

    Args:
        model: an ESPnetASRModel.
        input_size: values of a frame of extracted features; None: the model has a
            frontend.

    Raises:
        NotPlanned: for encoders whose lengths only a forward tells.
        UnknownTimesError: for such frontends and preencoders.
    """

    def __init__(self, model: torch.nn.Module, input_size: Optional[int] = None):
        self.stft = getattr(model.frontend, "stft", None)
        embed = getattr(model.encoder, "embed", None)
        #: what is known of the frontend's frames; None: there is none
        self.frontend = model_frames(model)
        if embed is None:
            raise NotPlanned(f"encoder {type(model.encoder).__name__}")
        #: features that the longest utterance of a batch needs, 0: any will do
        self.limit = max(0, check_short_utt(embed, 0)[1])
        last = model.frontend if model.preencoder is None else model.preencoder
        self.mels = input_size if last is None else last.output_size()
        self.exact = embed if isinstance(embed, AdaptiveSubsampling) else None
        if self.exact is not None and self.exact.lengths_from_content():
            raise NotPlanned("hnet with exact: false")
        self.masked = None
        parameters = inspect.signature(embed.forward).parameters
        if self.exact is None and "x_mask" in parameters:
            self.masked = copy.deepcopy(embed).to("meta")
            for name in ("out", "pos_enc"):  # positions are of no use here
                if hasattr(self.masked, name):
                    setattr(self.masked, name, torch.nn.Identity())

    def features(self, samples: Sequence[int]) -> List[int]:
        """Return the frames of a batch before the input layer."""
        if self.frontend is None:
            return list(samples)
        if self.stft is None:
            return [self.frontend.length(n) for n in samples]
        # the transform reflects half a window at the ends, and stops at shorter waves
        longest = max(*samples, self.stft.n_fft)
        waves = torch.empty(len(samples), longest, device="meta")
        return self.stft(waves, torch.tensor(samples))[1].tolist()

    def frames(self, features: Sequence[int]) -> List[int]:
        """Return the frames of a batch behind the input layer."""
        if self.exact is not None:
            return self.exact.output_lengths(torch.tensor(features)).tolist()
        if self.masked is None:
            return list(features)
        longest = max(*features, self.limit)
        x = torch.empty(len(features), longest, self.mels, device="meta")
        mask = torch.arange(longest) < torch.tensor(features).unsqueeze(1)
        return self.masked(x, mask.unsqueeze(1))[1].sum(dim=(1, 2)).tolist()


# ---------------------------------------------------------------- text and batches
class Texts:
    """The token ids of a set's text, by ESPnet's own preprocessor.

    Args:
        args: the options of a training.
        data: ``{train,valid}_data_path_and_name_and_type``.
    """

    def __init__(self, args, data: Iterable[Tuple[str, str, str]]):
        paths = [path for path, name, _ in data if name == "text"]
        if not paths:
            raise RecipeError("no data with the name 'text': give PATH,text,text")
        self.texts = read_table(paths[0])
        self.process = asr_task.ASRTask.build_preprocess_fn(args, False)
        self._ids: Dict[str, List[int]] = {}

    def ids(self, key: str) -> List[int]:
        """Return an utterance's token ids."""
        text = self.texts.get(key)
        if text is None:
            raise RecipeError(f"{key} has a shape, but no text: run stage 10 again")
        if text not in self._ids:  # speed-perturbed copies share it
            if self.process is None:
                self._ids[text] = [int(word) for word in text.split()]
            else:
                self._ids[text] = list(self.process(key, {"text": text})["text"])
        return self._ids[text]


def batch_options(args, mode: str) -> Tuple[str, int, int]:
    """Return batch_type, batch_size and batch_bins of ``train`` or ``valid``."""
    options = args.batch_type, args.batch_size, args.batch_bins
    if mode == "train":
        return options
    own = args.valid_batch_type, args.valid_batch_size, args.valid_batch_bins
    return tuple(b if a is None else a for a, b in zip(own, options))


def espnet_batches(args, mode: str, processes: int) -> List[Tuple[str, ...]]:
    """Return the batches that ESPnet's trainer makes.

    Args:
        args: the options of a training.
        mode: ``train`` or ``valid``.
        processes: that share each batch.

    Raises:
        RecipeError: where ESPnet's sampler refuses; its own words, with the option.
    """
    kind, size, bins = batch_options(args, mode)
    try:
        sampler = build_batch_sampler(
            type=kind,
            batch_size=size,
            batch_bins=bins,
            shape_files=getattr(args, f"{mode}_shape_file"),
            fold_lengths=args.fold_length,
            sort_in_batch=args.sort_in_batch,
            sort_batch=args.sort_batch,
            drop_last=args.drop_last_iter,
            min_batch_size=processes if processes > 1 else args.min_batch_size,
        )
    except (RuntimeError, ValueError, AssertionError) as error:
        raise RecipeError(
            f"batch_type {kind}, batch_size {size}, batch_bins {bins}: no batches of "
            f"the {mode} set: {' '.join(str(error).split())}"
        ) from None
    batches = list(sampler)
    small = min(batches, key=len)
    if len(small) < processes:
        raise RecipeError(
            f"a batch of the {mode} set holds {len(small)} utterances and {processes} "
            "processes share it: use fewer processes (--ngpu, --cpu_processes) or "
            "larger batches"
        )
    return batches


def fastest_perturbation(effects) -> float:
    """Return the largest speed factor in ``preprocessor_conf: data_aug_effects``."""
    if isinstance(effects, dict):
        return 1.0
    fastest = 1.0
    if isinstance(effects, (list, tuple)):
        if len(effects) == 3 and effects[1] == "speed_perturb":
            factors = effects[2].get("factor", 1.0)
            many = isinstance(factors, (list, tuple))
            return max(factors) if many else float(factors)
        fastest = max([1.0, *map(fastest_perturbation, effects)])
    return fastest


def set_lengths(
    args,
    mode: str,
    model_lengths: ModelLengths,
    processes: int = 1,
    with_ctc: bool = True,
) -> SetLengths:
    """Return the lengths of the training or the validation set, batch by batch.

    Args:
        args: the options of a training.
        mode: ``train`` or ``valid``.
        model_lengths: of the model.
        processes: that share each batch.
        with_ctc: the model has a CTC branch.
    """
    samples = {
        key: shape[0]
        for key, shape in read_shapes(getattr(args, f"{mode}_shape_file")[0]).items()
    }
    batches = espnet_batches(args, mode, processes)
    speed = 1.0
    if mode == "train":
        conf = args.preprocessor_conf or {}
        speed = fastest_perturbation(conf.get("data_aug_effects"))
    features, frames, fastest = {}, {}, {}
    for batch in batches:
        for rank in range(processes):
            keys = batch[rank::processes]
            before = model_lengths.features([samples[k] for k in keys])
            features.update(zip(keys, before))
            frames.update(zip(keys, model_lengths.frames(before)))
            if speed > 1:
                before = [int(samples[k] / speed) for k in keys]
                before = model_lengths.features(before)
                fastest.update(zip(keys, model_lengths.frames(before)))
    needed = {}
    if with_ctc:
        texts = Texts(args, getattr(args, f"{mode}_data_path_and_name_and_type"))
        needed = {k: needed_frames(texts.ids(k)) for k in features}
    return SetLengths(
        name={"train": "training", "valid": "validation"}[mode],
        batches=batches,
        samples={k: samples[k] for k in features},  # drop_last_iter leaves some out
        rate=sampling_rate(args),
        features=features,
        frames=frames,
        needed=needed,
        fastest=fastest or None,
        stride_words=(
            "a stride of the input layer's own stages"
            if model_lengths.exact is not None and model_lengths.exact.later.restore
            else "a stride"
        ),
    )


def describe_frames(args, frontend: Optional[FrontendFrames]) -> str:
    """Return a line on the frames that the input layer reads.

    Args:
        args: the options of a training.
        frontend: what is known of the frontend's frames; None: it reads features.
    """
    rate = sampling_rate(args)
    if frontend is None:
        return f"features: {rate:.4g} frames a second"
    words = frontend.describe(rate)
    least, longest = frontend.needed(False), frontend.needed(True)
    words += f"; an utterance needs {least / rate:.3g} s"
    if longest > least:
        words += f", the longest of a training batch {longest / rate:.3g} s"
    if frontend.most is not None:
        words += f"; it hears {frontend.most / rate:g} s at most"
    return words


def count_tokens(token_list) -> int:
    """Return the tokens of ``token_list``, a file or the list itself."""
    if isinstance(token_list, (list, tuple)):
        return len(token_list)
    return len(Path(token_list).read_text(encoding="utf-8").splitlines())


def sampling_rate(args) -> float:
    """Return what the model reads in a second: samples, or frames of features.

    Raises:
        NotPlanned: for features that nothing says the rate of.
    """
    if args.input_size is not None:
        data = args.train_data_path_and_name_and_type
        paths = [Path(path) for path, name, _ in data if name == "speech"]
        try:
            record = read_record(paths[0].with_name(RECORD_NAME))
        except (IndexError, ModelError):
            raise NotPlanned(f"features without {RECORD_NAME} beside them") from None
        return 1 / record.step
    return parse_rate(str((args.frontend_conf or {}).get("fs", "16k")))


# ---------------------------------------------------------------- cost
class Batch(NamedTuple):
    """Lengths and labels of a batch; what is said in it does not matter here.

    Attributes:
        samples: of audio, or frames of features.
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
    # in training mode: evaluating would decode, too, for error rates
    counts = macs_by_module(model.train(), **batch.tensors("cpu"))
    return cost._replace(
        macs=counts["Global"],
        layer_macs=counts.get(f"{type(model).__name__}.encoder.embed", 0),
        seconds=batch.samples[0] / rate,
    )


def _proc(path: str, word: str) -> Optional[int]:
    """Return the bytes behind a word of a Linux /proc file; None elsewhere."""
    try:
        with open(path, encoding="ascii") as file:
            line = next(x for x in file if x.startswith(word + ":"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


class StepMeter:
    """Takes training steps on noise and measures them.

    On a CPU, memory is that of this whole process, as a training process takes it; on a
    GPU, what PyTorch allocates there. A batch that would take too long, or too much, is
    extrapolated by the line through one utterance and a part of it: gradients and the
    optimizer cost the same for any batch.

    Args:
        args: the options of a training; its optimizer and clipping are used.
        model: is trained on noise: of no use afterwards.
        device: ``cpu`` or ``cuda``.
        seconds: that all measuring may take, about.
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
        try:  # where that cannot be, an earlier step may hide a smaller one
            ctypes.CDLL(None).malloc_trim(0)  # what glibc keeps of earlier steps
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # the peak starts anew
        except (AttributeError, OSError):
            pass

    def _peak(self) -> Optional[int]:
        if self.device == "cuda":
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()
        return _proc("/proc/self/status", "VmHWM")

    def _free(self) -> Optional[int]:
        if self.device == "cuda":
            # what PyTorch keeps of earlier steps is free for the next one
            kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            return torch.cuda.mem_get_info()[0] + kept
        return _proc("/proc/meminfo", "MemAvailable")

    def memory(self) -> Optional[int]:
        """Return the bytes that the device has in all; None: unknown."""
        if self.device == "cuda":
            return torch.cuda.mem_get_info()[1]
        return _proc("/proc/meminfo", "MemTotal")

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
        """Take two steps of a small batch, for what larger ones will cost."""
        first, _ = self.step(batch)  # also allocates the optimizer's state
        self.base = self._current()
        second, peak = self.step(batch)
        self.small = StepCost(batch.padded(), second, peak, 1.0)
        self.left -= first + second

    def _current(self) -> Optional[int]:
        if self.device == "cuda":
            return torch.cuda.memory_allocated()
        return _proc("/proc/self/status", "VmRSS")

    def measure(self, batch: Batch, seconds: float) -> StepCost:
        """Measure a step of the batch, or of as much of it as time and memory allow.

        Args:
            seconds: that it may take.
        """
        count, free = len(batch.samples), self._free()
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
        seconds: that it may take, about; 0: nothing is measured.

    Returns:
        Measured: ``padded`` of its steps is that of all processes' batch.
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
    return Measured(steps, name, meter.memory())
