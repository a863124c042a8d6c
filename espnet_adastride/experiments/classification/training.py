"""Train and test classifiers: a folder is an experiment, a method and a seed its run.

:func:`train_all` goes through the runs of an experiment, :func:`train` is one of them:
deterministic, resumed after an interruption, and left as a record, which ``results.py``
reads.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
import yaml

from espnet_adastride.config import read_config, refuse_changes
from espnet_adastride.corpora.clips import (
    Clip,
    folds_in_a_round,
    identify_clips,
    split_clips,
)
from espnet_adastride.downsampling.stages import (
    add_auxiliary_losses,
    auxiliary_losses,
    position_stats,
)
from espnet_adastride.errors import UserError
from espnet_adastride.experiments.classification.features import Features
from espnet_adastride.experiments.classification.options import Options, TrainingOptions
from espnet_adastride.experiments.folders import (
    claim_audio,
    is_finished,
    read_result,
    read_results,
    run_folders,
    run_name,
    write_result,
)
from espnet_adastride.files import locked, write_text
from espnet_adastride.networks.classifier import Classifier, random_mask
from espnet_adastride.networks.methods import Method
from espnet_adastride.networks.saving import load, save

CHECKPOINT = "checkpoint.pth"


def claim_experiment(folder, options: Options, clips: List[Clip]) -> None:
    """Write the settings that the runs of a folder share, or check them if it has runs.

    Raises:
        UserError: the folder holds runs (also interrupted ones) of another
            configuration or of other clips, or a clip was changed since.
    """
    config = describe_settings(options, clips)
    path = Path(folder) / "config.yaml"
    with locked(Path(folder) / ".lock"):
        found = read_results(folder, needed=False)
        earlier = [record.content["configuration"] for record in found]
        if path.is_file() and any(Path(folder).glob(f"*/{CHECKPOINT}")):
            earlier.append(read_config(path))
        for one in earlier:
            refuse_changes(folder, one, config, "runs")
        claim_audio(folder, clips, bool(earlier))
        write_text(path, yaml.safe_dump(config, sort_keys=False))


def describe_settings(options: Options, clips: List[Clip]) -> Dict[str, Any]:
    """Return the settings that runs of a folder share: configuration, clips (hash)."""
    return {**dataclasses.asdict(options), "clips": identify_clips(clips)}


def train_all(
    data: Features,
    options: Options,
    methods: List[Method],
    seeds: List[int],
    folder,
    processes: int = 1,
) -> None:
    """Train the unfinished runs, all methods of a seed before the next seed.

    A run that another process is training is skipped, so that several calls with the
    same arguments share the work.

    Args:
        processes: runs at a time, each in a forked process on one thread; forked,
            because the features are in memory already.

    Raises:
        SystemExit: a run failed, having said why.
        UserError: a run was killed.
    """

    def work(path: Path, method: Method, seed: int) -> None:
        with locked(path / ".lock", wait=False) as free:
            if free:
                train(data, options, method, seed, path, partial(print, flush=True))

    def describe(result: Dict[str, Any]) -> str:
        return (
            f"{result['method']} seed {result['seed']}: test accuracy "
            f"{result['accuracy']:.1f} %, {result['parameters']} parameters, "
            f"{result['cpu_seconds']:.0f} CPU seconds"
        )

    # the first optimiser imports a compiler, for seconds: here, not in every process
    torch.optim.Adam([torch.zeros((), requires_grad=True)])
    runs = {}
    for seed in seeds:
        for method in methods:
            path = Path(folder) / run_name(method.word, f"seed{seed}")
            runs[path] = partial(work, path, method, seed)
    run_folders(runs, processes, "", describe)


def train(
    data: Features,
    options: Options,
    method: Method,
    seed: int,
    folder,
    say: Callable[[str], None] = print,
) -> Dict[str, Any]:
    """Train and test one run; a finished one is read back, an interrupted one resumes.

    Every epoch draws its order, masks and dropout from the seed and its own number, so
    that an interrupted training ends as it would have without the interruption. The
    model of the last epoch is tested, once.

    Args:
        folder: the run's own; gets ``checkpoint.pth`` after every epoch, at the end
            ``model.pth``. The record is written beside it, into ``records/``.

    Returns:
        The record's figures.
    """
    folder = Path(folder)
    if is_finished(folder):
        return read_result(folder).figures
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
        state = load(checkpoint)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        done, spent, wall = state["epochs"], state["cpu_seconds"], state["seconds"]
        history = state["history"]
        say(f"{method.word} seed {seed}: resuming after epoch {done}")
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
    accuracies = [epoch["valid_accuracy"] for epoch in history]
    save(network.state_dict(), folder / "model.pth")
    write_result(
        folder,
        "classification",
        method.word,
        seed,
        describe_settings(options, data.clips),
        learning={
            "train": {"loss": [epoch["loss"] for epoch in history]},
            "valid": {"accuracy": accuracies},
        },
        timing={
            "training_seconds": round(wall, 1),
            "cpu_seconds": round(spent, 1),
            "epochs": o.epochs,
        },
        measured={
            "valid_accuracy": accuracies[-1],
            "parameters": sum(p.numel() for p in network.parameters()),
            "rate": tested.pop("rate"),
            "stats": tested.pop("stats"),
        },
        test={
            **tested,
            "round": seed // folds_in_a_round(data.clips, options.data.split),
            "groups": {data.clips[i].id: data.clips[i].group for i in parts["test"]},
        },
    )
    checkpoint.unlink()
    return read_result(folder).figures


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
            raise UserError(
                f"{methods} seed {seed}: loss {float(loss):g} in epoch {epoch + 1} has "
                "no finite gradient; a lower training.lr?"
            )
        optimiser.step()
        total += float(loss.detach())
    return total / len(batches)


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
