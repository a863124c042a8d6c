"""Shared by the benchmarks: options, turns, time, peak memory of a fork, verdicts."""

import argparse
import json
import os
import resource
import statistics
import time
from pathlib import Path

import torch

OUT = Path(__file__).resolve().parent / "out"
GIB = 2**30


def describe(doc):
    """Return a parser whose help is a benchmark's docstring, as it is written."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=doc, formatter_class=form)


def now(device="cpu"):
    """Return the time in seconds, after the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def in_turn(measures, rounds, once=(), warm_up=None):
    """Call every measure in turn, ``rounds`` times after a warm-up.

    Methods that take turns share what the machine does meanwhile: compare the ratios.

    Args:
        measures: {name: function that returns a tuple of numbers}.
        rounds: how often; the call before them is not counted.
        once: names that are called once and without a warm-up, being slow.
        warm_up: what is called first, in the place of the measures.

    Returns:
        {name: medians of the numbers}.
    """
    results = {name: [] for name in measures}
    for round_ in range(rounds + 1):
        turns = measures if round_ or warm_up is None else warm_up
        for name, measure in turns.items():
            if name in once and round_ != 1:
                continue
            result = measure()
            if round_:
                results[name].append(result)
    return {
        name: tuple(map(statistics.median, zip(*rows)))
        for name, rows in results.items()
    }


def in_child(function):
    """Return what a function (of numbers) returns in a forked process, None if it died.

    What was freed before is not counted there, and a process out of memory is the
    child. Fork before the first work on more than one thread: a child lacks its
    parent's threads and would wait for them.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="ascii") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


def added_peak(work):
    """Return the bytes that ``work()`` adds to this process at its peak."""
    with open("/proc/self/statm", encoding="ascii") as file:
        before = int(file.read().split()[1]) * resource.getpagesize()
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts anew
    work()
    return process_peak() - before


def process_peak():
    """Return the bytes that this process held at its peak."""
    with open("/proc/self/status", encoding="ascii") as file:
        peak = next(line for line in file if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024


class SavedBytes:
    """Count what autograd keeps for the backward, each storage once, inputs aside."""

    def __init__(self, *known):
        self.sizes = {}
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda x: x)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def total(self):
        return sum(self.sizes.values())


def vary_strides(layer, forward):
    """Give the scores in a layer weights, so that strides vary as trained ones do.

    Args:
        layer: that has the scores, or a module around it.
        forward: calls it once, with an input like those that follow.
    """

    def scale(downsampler, inputs):
        weight = downsampler.score.weight.data
        torch.nn.init.normal_(weight)
        weight.mul_(0.5 / (inputs[0].float() @ weight[0].float()).std())

    hooks = [
        module.register_forward_pre_hook(scale)
        for module in layer.modules()
        if hasattr(module, "score")
    ]
    with torch.no_grad():
        forward()
    for hook in hooks:
        hook.remove()


def verdict(target, where, value, limit):
    """Return a row of the table of targets: met if the value is at most the limit."""
    word = "met" if value <= limit else "missed"
    return f"| {target} | {where} | {value:.3g} | {word} |"


def targets_head(where):
    """Return the head of the table of targets."""
    return [f"| target | {where} | measured | |", "|---|---|---|---|"]


def write(folder, name, lines):
    """Print the lines, write them to folder/name.md, and return that path."""
    text = "\n".join(lines).strip() + "\n"
    print("\n" + text, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.md"
    target.write_text(text, encoding="utf-8")
    return target
