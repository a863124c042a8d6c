"""Classification of short recordings, with any downsampling method.

    recordings -> clips (clips.py) -> log-mel -> stem, residual blocks (resnet.py)
        -> mean over valid frames -> linear -> class

Top down: :func:`load_features` computes log-mel frames once, :class:`Classifier` is the
network, :func:`train` one run (a method and a seed): deterministic, going on where it
was interrupted, and written down as one line of JSON when it is finished.
``classification_results.py`` reads those. Every number comes from a YAML file
(:func:`read_options`).

No ESPnet; torch and torchaudio.
"""

import dataclasses
import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
import torchaudio
import yaml
from torch.nn.utils.rnn import pad_sequence

from espnet_adastride.atomic_save import atomic
from espnet_adastride.audio import AudioError, read_audio
from espnet_adastride.clips import (
    LAYOUTS,
    SPLITS,
    Clip,
    folds_in_a_round,
    split_clips,
)
from espnet_adastride.downsampling import (
    length_mask,
)
from espnet_adastride.downsampling.registry import unknown_word
from espnet_adastride.downsampling.stages import (
    StageTrace,
    add_auxiliary_losses,
    auxiliary_losses,
    position_stats,
)
from espnet_adastride.recipe.errors import RecipeError
from espnet_adastride.recipe.files import write_text
from espnet_adastride.recipe.lock import locked
from espnet_adastride.recipe.progress import Progress
from espnet_adastride.recipe.training import read_config, refuse_changes
from espnet_adastride.resnet import ResNet

RESULT = "result.json"
CHECKPOINT = "checkpoint.pth"

save = atomic(torch.save)


# ---------------------------------------------------------------------------- options


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """``data:`` of the YAML file; words of ``clips.LAYOUTS`` and ``clips.SPLITS``."""

    layout: str
    split: str


@dataclasses.dataclass(frozen=True)
class FeatureOptions:
    """``features:`` log-mel frames, Hann windows of ``n_fft`` samples."""

    sample_rate: int
    n_fft: int
    hop_length: int
    n_mels: int


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """``network:`` of :class:`Classifier`."""

    width: int
    strides: list
    kernel_size: int
    dropout: float


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """``training:`` of :func:`train`."""

    epochs: int
    batch_size: int
    lr: float
    warmup_epochs: float
    decay: float
    weight_decay: float
    grad_clip: float
    label_smoothing: float
    vp_weight: float
    mask_mels: int
    mask_frames: int


@dataclasses.dataclass(frozen=True)
class Options:
    """A configuration file: all of its sections, all of their words, no defaults."""

    data: DataOptions
    features: FeatureOptions
    network: NetworkOptions
    training: TrainingOptions


def read_options(path) -> Options:
    """Read a configuration file.

    Raises:
        RecipeError: a word is unknown, missing or of another type; names the choices.
    """
    config = read_config(path)
    kinds = {field.name: field.type for field in dataclasses.fields(Options)}
    _check_words(path, "section", config, kinds)
    sections = {}
    for name, kind in kinds.items():
        section = config[name] if isinstance(config[name], dict) else {}
        types = {field.name: field.type for field in dataclasses.fields(kind)}
        _check_words(path, f"word of {name}", section, types)
        for word, wanted in types.items():
            value = section[word]
            allowed = (int, float) if wanted is float else wanted
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise RecipeError(
                    f"{path}: {name}.{word} must be of type {wanted.__name__}, "
                    f"got {value!r}"
                )
            if wanted in (int, float) and value < 0:
                raise RecipeError(f"{path}: {name}.{word} must not be below 0")
        sections[name] = kind(**section)
    options = Options(**sections)
    for word, choices in (("layout", LAYOUTS), ("split", SPLITS)):
        given = getattr(options.data, word)
        if given not in choices:
            raise RecipeError(f"{path}: {unknown_word(word, given, choices)}")
    for word in ("epochs", "batch_size"):
        if getattr(options.training, word) < 1:
            raise RecipeError(f"{path}: training.{word} must be at least 1")
    return options


def _check_words(path, kind, given, known):
    for word in given:
        if word not in known:
            raise RecipeError(f"{path}: {unknown_word(kind, word, known)}")
    missing = [word for word in known if word not in given]
    if missing:
        raise RecipeError(f"{path}: {kind} is missing: {', '.join(missing)}")


class Method(NamedTuple):
    """What makes the strides of a run, read from one word by :func:`parse_method`.

    Attributes:
        word: as written; names the run.
        names: one method, or one for every stride.
        options: the methods' own words.
    """

    word: str
    names: Tuple[str, ...]
    options: Dict[str, Any]


def parse_method(word: str) -> Method:
    """Read ``avg_pool``, ``adastride:sigma_square=0.5,score_bound=null``, ``a+b+c``.

    Behind the colon stand the method's own words, their values as in YAML; ``+`` gives
    every stride a method of its own.

    Raises:
        RecipeError: an option without a value. Names are checked by the network.
    """
    names, _, rest = word.partition(":")
    options = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise RecipeError(f"method {word!r}: write METHOD:WORD=VALUE,WORD=VALUE")
        options[key] = yaml.safe_load(value)
    return Method(word, tuple(names.split("+")), options)


# --------------------------------------------------------------------------- features


class LogMel(torch.nn.Module):
    """Samples (N,) to log-mel frames (1 + floor(N / hop_length), n_mels)."""

    def __init__(self, options: FeatureOptions):
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            options.sample_rate,
            n_fft=options.n_fft,
            hop_length=options.hop_length,
            n_mels=options.n_mels,
            pad_mode="constant",  # reflection would want n_fft / 2 samples
        )

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return torch.log(self.mel(wave) + 1e-6).T


def read_wave(path, sample_rate: int) -> torch.Tensor:
    """Return a recording's samples (N,) in [-1, 1], mixed down and resampled.

    Raises:
        RecipeError: see :func:`espnet_adastride.audio.read_audio`.
    """
    try:
        return torch.from_numpy(read_audio(path, sample_rate))
    except AudioError as error:
        raise RecipeError(str(error)) from None


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
        places = zip(indices.tolist(), lengths.tolist())
        clips = [self.frames[self.ends[i] - n : self.ends[i]] for i, n in places]
        return pad_sequence(clips, batch_first=True), lengths, self.labels[indices]

    def statistics(self, indices) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation (F,) of some clips' frames."""
        x, lengths, _ = self.batch(indices)
        frames = x[length_mask(lengths, x.size(1))]
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
        RecipeError: see :func:`read_wave`.
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
            say(f"computing log-mel frames of {len(clips)} clips: {path}")
            log_mel = LogMel(options)
            frames = [
                log_mel(read_wave(clip.path, options.sample_rate)) for clip in clips
            ]
            lengths = torch.tensor([len(one) for one in frames])
            save({"frames": torch.cat(frames), "lengths": lengths}, path)
        return Features(clips, **torch.load(path))


# ---------------------------------------------------------------------------- network


class Classified(NamedTuple):
    """What the classifier returns: logits (B, classes), lengths (B,) of the frames
    that were averaged, and the downsamplers' reports."""

    logits: torch.Tensor
    lengths: torch.Tensor
    stages: Tuple[StageTrace, ...]


class Classifier(torch.nn.Module):
    """Normalised log-mel frames -> :class:`ResNet` -> mean over valid frames -> linear.

    Args:
        classes: how many.
        input_size: F, mel bins.
        options: width, strides, kernel_size, dropout.
        method: see :func:`parse_method`.

    Raises:
        ValueError: one line that names the wrong word or number, and the choices.
    """

    def __init__(
        self, classes: int, input_size: int, options: NetworkOptions, method: Method
    ):
        super().__init__()
        self.register_buffer("mean", torch.zeros(input_size))
        self.register_buffer("deviation", torch.ones(input_size))
        self.encoder = ResNet(
            input_size,
            options.width,
            options.strides,
            options.kernel_size,
            method.names,
            method.options,
        )
        self.dropout = torch.nn.Dropout(options.dropout)
        self.output = torch.nn.Linear(options.width, classes)

    def set_statistics(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set mean and standard deviation (F,) that the input is normalised by."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(
        self,
        x: torch.Tensor,
        lengths: torch.Tensor,
        masked: Optional[torch.Tensor] = None,
    ) -> Classified:
        """Classify a padded batch.

        Args:
            x: (B, T, F) log-mel frames; the padding may hold anything.
            lengths: (B,).
            masked: (B, T, F) booleans: values replaced by the mean, in training.
        """
        x = (x - self.mean) / self.deviation
        if masked is not None:
            x = x.masked_fill(masked, 0.0)
        encoded = self.encoder(x, lengths)
        count = encoded.lengths.clamp(min=1).unsqueeze(1)
        mean = encoded.output.sum(dim=1) / count
        logits = self.output(self.dropout(mean))
        return Classified(logits, encoded.lengths, encoded.stages)


def random_mask(
    x: torch.Tensor,
    lengths: torch.Tensor,
    mels: int,
    frames: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return booleans (B, T, F): one band of mels and one span of time of every clip.

    Widths are uniform from 0 to ``mels`` and to ``frames``, places uniform too.
    """

    def stripe(size, sizes, most):
        width = torch.rand(len(sizes), generator=generator) * (most + 1)
        width = torch.minimum(width.floor(), sizes)
        start = (torch.rand(len(sizes), generator=generator) * (sizes - width)).round()
        place = torch.arange(size)
        start, end = start.unsqueeze(1), (start + width).unsqueeze(1)
        return (place >= start) & (place < end)

    bands = stripe(x.size(2), torch.full((len(x),), float(x.size(2))), mels)
    spans = stripe(x.size(1), lengths.to(torch.float32), frames)
    return bands.unsqueeze(1) | spans.unsqueeze(2)


# --------------------------------------------------------------------------- training


def learning_rate(epochs: float, options: TrainingOptions) -> float:
    """Return the rate after so many epochs (a real number): up linearly for
    ``warmup_epochs``, then times ``decay`` an epoch."""
    if epochs < options.warmup_epochs:
        return options.lr * epochs / options.warmup_epochs
    return options.lr * options.decay ** (epochs - options.warmup_epochs)


@torch.no_grad()
def evaluate(network: Classifier, data: Features, indices) -> Dict[str, Any]:
    """Classify some clips.

    Returns:
        ``accuracy`` (percent), ``predictions`` {clip id: class}, ``rate`` (frames in by
        frames out) and ``stats``: what the downsamplers have learned, and of positions
        the share of empty slots and the largest jump.
    """
    network.eval()
    predictions, stats = {}, {}
    frames_in = frames_out = 0
    placed = []
    for some in indices.split(128):
        x, lengths, _ = data.batch(some)
        out = network(x, lengths)
        for index, label in zip(some.tolist(), out.logits.argmax(dim=1).tolist()):
            predictions[data.clips[index].id] = data.classes[label]
        frames_in += int(lengths.sum())
        frames_out += int(out.lengths.sum())
        placed.append(position_stats(out.stages))
    stats.update(network.encoder.reported_stats())
    if any(placed):
        stats["largest_jump"] = max(float(one["largest_jump"]) for one in placed)
        shares = [float(one["empty_slots"]) for one in placed]
        stats["empty_slots"] = sum(shares) / len(shares)
    correct = sum(key.split("/")[0] == name for key, name in predictions.items())
    return {
        "accuracy": 100.0 * correct / len(predictions),
        "predictions": predictions,
        "rate": frames_in / max(1, frames_out),
        "stats": stats,
    }


def run_name(method: str, seed: int) -> str:
    """Return the name of a run's folder."""
    return f"{re.sub(r'[^A-Za-z0-9_.+=,-]', '_', method)}_seed{seed}"


def train(
    data: Features,
    options: Options,
    method: Method,
    seed: int,
    folder,
    command: str,
    say: Callable[[str], None] = print,
) -> Dict[str, Any]:
    """Train and test one run; a finished one is read back, an interrupted one goes on.

    Every epoch draws its order, masks and dropout from the seed and its own number, so
    that an interrupted training ends as it would have without the interruption. The
    model of the last epoch is tested, once.

    Args:
        folder: the run's own; gets ``checkpoint.pth`` after every epoch, at the end
            ``model.pth`` and ``result.json``.
        command: to be written down with the result.

    Returns:
        The content of ``result.json``.
    """
    folder = Path(folder)
    if (folder / RESULT).is_file():
        return json.loads((folder / RESULT).read_text(encoding="utf-8"))
    o = options.training
    torch.manual_seed(seed)
    network = Classifier(
        len(data.classes), data.frames.size(1), options.network, method
    )
    parts = split_clips(data.clips, options.data.split, seed)
    own = {part: torch.tensor(indices) for part, indices in parts.items()}
    network.set_statistics(*data.statistics(own["train"]))
    optimiser = torch.optim.Adam(
        network.parameters(), lr=o.lr, weight_decay=o.weight_decay
    )
    done, spent, wall, history = 0, 0.0, 0.0, []
    checkpoint = folder / CHECKPOINT
    if checkpoint.is_file():
        state = torch.load(checkpoint)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        done, spent, wall = state["epochs"], state["cpu_seconds"], state["seconds"]
        history = state["history"]
        say(f"{method.word} seed {seed}: going on after epoch {done}")
    for epoch in range(done, o.epochs):
        cpu_start, start = time.process_time(), time.monotonic()
        loss = _train_epoch(network, optimiser, data, own["train"], o, seed, epoch)
        valid = evaluate(network, data, own["valid"])["accuracy"]
        history.append({"loss": loss, "valid_accuracy": valid})
        spent += time.process_time() - cpu_start
        wall += time.monotonic() - start
        folder.mkdir(parents=True, exist_ok=True)
        save(
            {
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "epochs": epoch + 1,
                "cpu_seconds": spent,
                "seconds": wall,
                "history": history,
            },
            checkpoint,
        )
        say(
            f"{method.word} seed {seed}: epoch {epoch + 1}/{o.epochs}, "
            f"loss {loss:.3f}, valid accuracy {valid:.1f} %, {wall:.0f} s"
        )
    tested = evaluate(network, data, own["test"])
    result = {
        "method": method.word,
        "seed": seed,
        "round": seed // folds_in_a_round(data.clips, options.data.split),
        "accuracy": tested["accuracy"],
        "valid_accuracy": history[-1]["valid_accuracy"],
        "parameters": sum(p.numel() for p in network.parameters()),
        "rate": tested["rate"],
        "cpu_seconds": round(spent, 1),
        "seconds": round(wall, 1),
        "stats": tested["stats"],
        "history": history,
        "command": command,
        "torch": torch.__version__,
        "predictions": tested["predictions"],
        "groups": {data.clips[i].id: data.clips[i].group for i in parts["test"]},
    }
    save(network.state_dict(), folder / "model.pth")
    write_text(folder / RESULT, json.dumps(result) + "\n")
    checkpoint.unlink()
    return result


def _train_epoch(network, optimiser, data, own, o, seed, epoch) -> float:
    """Go through the training clips once; return the mean loss."""
    torch.manual_seed(seed * 100003 + epoch + 1)  # dropout
    generator = torch.Generator().manual_seed(seed * 100003 + epoch + 1)
    order = own[torch.randperm(len(own), generator=generator)]
    # batches of one size, as nearly as can be: no last one of a single clip
    batches = order.tensor_split(max(1, round(len(order) / o.batch_size)))
    network.train()
    total = 0.0
    for number, indices in enumerate(batches, 1):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(epoch + number / len(batches), o)
        x, lengths, labels = data.batch(indices)
        masked = random_mask(x, lengths, o.mask_mels, o.mask_frames, generator)
        out = network(x, lengths, masked)
        loss = torch.nn.functional.cross_entropy(
            out.logits, labels, label_smoothing=o.label_smoothing
        )
        loss = add_auxiliary_losses(loss, auxiliary_losses(out.stages), o.vp_weight)
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), o.grad_clip)
        if not torch.isfinite(norm):
            methods = "+".join(network.encoder.methods)
            raise RecipeError(
                f"{methods} seed {seed}: loss {float(loss):g} in epoch {epoch + 1} has "
                "no finite gradient; a lower training.lr?"
            )
        optimiser.step()
        total += float(loss.detach())
    return total / len(batches)


# ------------------------------------------------------------------------ experiments


def claim_experiment(folder, options: Options, clips: List[Clip]) -> None:
    """Write down what the runs of a folder share, or see that it is still the same.

    Raises:
        RecipeError: the folder holds runs (also interrupted ones) of another
            configuration or of other clips.
    """
    ids = "\n".join("\t".join((c.id, c.group, c.fold, c.part)) for c in clips)
    digest = hashlib.sha256(ids.encode()).hexdigest()[:16]
    config = {**dataclasses.asdict(options), "clips": f"{len(clips)}, hash {digest}"}
    path = Path(folder) / "config.yaml"
    with locked(Path(folder) / ".lock"):
        files = (RESULT, CHECKPOINT)
        started = any(any(Path(folder).glob(f"*/{name}")) for name in files)
        if not path.is_file() or not started:
            write_text(path, yaml.safe_dump(config, sort_keys=False))
            return
        refuse_changes(path, config, "runs")


def train_all(
    data: Features,
    options: Options,
    methods: List[Method],
    seeds: List[int],
    folder,
    command_of: Callable[[Method, int], str],
    say: Callable[[str], None] = print,
    processes: int = 1,
) -> None:
    """Train what is not finished, all methods of a seed before the next seed.

    A run that another process is at is left to that one: several processes with the
    same arguments share the work.

    Args:
        command_of: the command of a run, to be written down with its result.
        say: takes lines: epochs, and behind every run how many of all are finished and
            when the rest will be.
        processes: how many share the work, for that estimate.
    """
    runs = [(method, seed) for seed in seeds for method in methods]
    folders = [Path(folder) / run_name(method.word, seed) for method, seed in runs]

    def count():
        return sum((path / RESULT).is_file() for path in folders)

    progress = Progress(len(runs), count(), processes, say)
    if progress.done:
        say(f"{progress.done} of {len(runs)} runs are finished")
    for (method, seed), path in zip(runs, folders):
        with locked(path / ".lock", wait=False) as free:
            if not free or (path / RESULT).is_file():
                continue
            start, command = time.monotonic(), command_of(method, seed)
            result = train(data, options, method, seed, path, command, say)
            progress.done = count() - 1  # other processes finish runs, too
            progress.finished(
                f"{method.word} seed {seed}: test accuracy {result['accuracy']:.1f} %, "
                f"{result['parameters']} parameters, {result['cpu_seconds']:.0f} CPU "
                "seconds",
                time.monotonic() - start,
            )
