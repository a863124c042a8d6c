"""What the benchmarks share: turns, time, peak memory of a forked process, verdicts."""

import json
import os
import resource
import statistics
import time
from pathlib import Path

import torch

OUT = Path(__file__).resolve().parent / "out"
GIB = 2**30


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
