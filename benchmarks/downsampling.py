"""Time and memory of downsampling layers over the input length, side by side.

    python benchmarks/downsampling.py [--steps 500 1000 ...] [--threads 1 2]

The methods are measured in turn in one process, after a warm-up, medians of several
rounds; compare the ratios, not the times. ``dense`` is AdaStride by its definition, one
utterance at a time, ``adastride`` the sparse rows that compute the same; ``copy`` moves
the unavoidable bytes once: reads x, writes z, reads dz, writes dx. Peak memory is that
of a forked process that does one forward and backward and nothing else.

Prints tables and what became of the targets; writes both, and a picture over T, to
benchmarks/out/. About 20 minutes on two cores; shorter with fewer --steps.
"""

import math
import os
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import isotonic_regression

from espnet_adastride import available_downsamplers, build_downsampler
from espnet_adastride.downsampling import adastride as adastride_module
from espnet_adastride.downsampling import downsampled_lengths
from espnet_adastride.report.style import GREY
from measuring import (
    OUT,
    SavedBytes,
    added_peak,
    describe,
    in_child,
    in_turn,
    now,
    targets_head,
    verdict,
)

DENSE = "dense"
REFERENCE = "avg_pool"
METHODS = ("copy", *available_downsamplers(), DENSE)
#: what the targets compare, and is measured at every T
COMPARED = ("copy", "adastride", "adastride_f", "strided_conv", REFERENCE)


def get_parser():
    """Return the command's parser."""
    parser = describe(__doc__)
    steps = [500, 1000, 2000, 4000, 8000, 16000, 32000, 64000]
    threads = sorted({1, os.cpu_count() or 1})
    parser.add_argument("--steps", type=int, nargs="+", default=steps, help="T")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="D")
    parser.add_argument("--stride", type=int, default=2)
    parser.add_argument("--sigma_square", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=threads)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--dense_up_to",
        type=int,
        default=8000,
        help="largest T for the dense form; above 2000 it is measured once",
    )
    parser.add_argument(
        "--others_up_to",
        type=int,
        default=4000,
        help=f"largest T for methods besides {', '.join(COMPARED)} and {DENSE}",
    )
    parser.add_argument("--output_dir", type=Path, default=OUT)
    return parser


def methods_at(steps, args):
    """Return the methods that are measured at T."""
    limits = {DENSE: args.dense_up_to, **dict.fromkeys(COMPARED, math.inf)}
    return [m for m in METHODS if steps <= limits.get(m, args.others_up_to)]


def build(method, args):
    """Build a layer; adaptive ones get scores whose strides vary as trained ones do."""
    name = "adastride" if method == DENSE else method
    adaptive = name.startswith("adastride")
    conf = {"sigma_square": args.sigma_square} if adaptive else {}
    layer = build_downsampler(name, args.size, args.stride, **conf).to(args.device)
    if adaptive:
        torch.nn.init.normal_(layer.score.weight, std=0.5 / args.size**0.5)
    return layer


def copy_once(x, z):
    """Move the unavoidable bytes: read x, write z, read dz, write dx."""
    torch.empty_like(x).copy_(x)
    torch.empty_like(z).copy_(z)


def make_input(steps, args):
    """Return x (B, T, D) that wants a gradient, and lengths from T down to 0.7 T."""
    generator = torch.Generator().manual_seed(steps)
    x = torch.randn(args.batch_size, steps, args.size, generator=generator)
    lengths = torch.linspace(steps, 0.7 * steps, args.batch_size).long()
    return x.to(args.device).requires_grad_(), lengths.to(args.device)


def measure(method, steps, args):
    """Return (forward s, forward + backward s, bytes saved) of one round."""
    x, lengths = make_input(steps, args)
    if method == "copy":
        width = downsampled_lengths(steps, args.stride)
        z = torch.zeros(args.batch_size, width, args.size, device=args.device)
        start = now(args.device)
        copy_once(x.detach(), z)
        elapsed = now(args.device) - start
        return elapsed, elapsed, 0
    layer = build(method, args)
    with dense_form(method == DENSE):
        if method != DENSE:
            return measure_layer(layer, x, lengths, args)
        # the whole batch would need tens of gigabytes
        parts = [
            measure_layer(layer, one[:, :n].detach().requires_grad_(), n[None], args)
            for one, n in zip(x.split(1), lengths)
        ]
    return tuple(sum(column) for column in zip(*parts))


def measure_layer(layer, x, lengths, args):
    """Return (forward s, forward + backward s, bytes saved) for one batch."""
    with SavedBytes(x, *layer.parameters()) as saved:
        start = now(args.device)
        out = layer(x, lengths)
        middle = now(args.device)
    loss = out.output.sum()
    if out.aux_loss is not None:
        loss = loss + out.aux_loss
    grad_start = now(args.device)
    loss.backward()
    end = now(args.device)
    return middle - start, (middle - start) + (end - grad_start), saved.total()


def peak_memory(method, steps, args):
    """Return the bytes that a forward and backward add to the process at their peak.

    Measured in a forked child, so that nothing that was freed before is counted; on
    CUDA by its own allocator.
    """
    if method in ("copy", DENSE):
        return float("nan")
    if args.device == "cuda":
        x, lengths = make_input(steps, args)
        layer = build(method, args)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        measure_layer(layer, x, lengths, args)
        return torch.cuda.max_memory_allocated() - before

    def child():
        layer = build(method, args)
        x, lengths = make_input(steps, args)
        # the pages of small and freed things are there before the counting begins
        measure_layer(layer, *make_input(min(steps, 500), args), args)
        return added_peak(lambda: measure_layer(layer, x, lengths, args))

    peak = in_child(child)
    return float("nan") if peak is None else peak


def run_table(threads, args, peaks):
    """Measure all methods over all T; return {(steps, method): Figures}."""
    torch.set_num_threads(threads)
    table = {}
    for steps in args.steps:
        measures = {
            method: partial(measure, method, steps, args)
            for method in methods_at(steps, args)
        }
        figures = in_turn(measures, args.rounds, once=[DENSE] if steps > 2000 else [])
        x_bytes = 4 * args.batch_size * steps * args.size
        for method, (forward, both, saved) in figures.items():
            table[steps, method] = Figures(
                forward, both, saved / x_bytes, peaks[steps, method] / x_bytes
            )
        for line in lines_of(steps, table):
            print(line, flush=True)
    return table


class Figures(NamedTuple):
    """Seconds forward, seconds forward + backward, bytes saved and peak over x's."""

    forward: float
    both: float
    saved: float
    peak: float


@contextmanager
def dense_form(wanted):
    """Let AdaStride compute by its definition, or by rows at any length."""
    limit = adastride_module.DENSE_UP_TO
    adastride_module.DENSE_UP_TO = float("inf") if wanted else 0
    try:
        yield
    finally:
        adastride_module.DENSE_UP_TO = limit


HEAD = (
    f"| T | method | forward ms | forward + backward ms | / {REFERENCE} | / copy | "
    "saved for backward / bytes of x | peak / bytes of x |\n"
    "|---|---|---|---|---|---|---|---|"
)


def lines_of(steps, table):
    """Return the table's lines for one T."""
    lines = []
    for (length, method), figures in table.items():
        if length != steps:
            continue
        beside = figures.both / table[steps, REFERENCE].both
        moved = figures.both / table[steps, "copy"].both
        peak = "" if math.isnan(figures.peak) else f"{figures.peak:.2f}"
        lines.append(
            f"| {steps} | {method} | {1e3 * figures.forward:.1f} | "
            f"{1e3 * figures.both:.1f} | {beside:.2f} | {moved:.1f} | "
            f"{figures.saved:.2f} | {peak} |"
        )
    return lines


def target_lines(table):
    """Return one line a target: what was asked, what was measured, met or missed."""
    ours, lines = "adastride", targets_head("T")

    def say(*row):
        lines.append(verdict(*row))

    for steps in sorted({steps for steps, _ in table}):
        at = {method: f for (t, method), f in table.items() if t == steps}
        if DENSE in at and steps >= 4000:
            limit = 60 if steps < 8000 else 100
            ratio = at[ours].both / at[DENSE].both
            say(f"adastride / dense <= 1/{limit}", steps, ratio, 1 / limit)
        pairs = [(ours, REFERENCE, 1.2), (ours, "strided_conv", 0.25)]
        for method, other, limit in [*pairs, ("adastride_f", REFERENCE, 1.0)]:
            ratio = at[method].both / at[other].both
            say(f"{method} / {other} <= {limit}", steps, ratio, limit)
        moved = at[ours].both / at["copy"].both
        say("adastride / copy <= 4", steps, moved, 4)
        say("adastride saves / bytes of x <= 0.2", steps, at[ours].saved, 0.2)
        if (2 * steps, ours) in table:
            growth = table[2 * steps, ours].both / at[ours].both
            say("adastride at 2 T / at T <= 2.3", steps, growth, 2.3)
    return lines


def main(cmd=None):
    """Measure, print, write the tables and the picture."""
    args = get_parser().parse_args(cmd)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a forked child must not wait for threads it lacks
    peaks = {
        (steps, method): peak_memory(method, steps, args)
        for steps in args.steps
        for method in methods_at(steps, args)
    }
    text, tables = [], {}
    for threads in args.threads:
        head = (
            f"\nB {args.batch_size}, D {args.size}, stride {args.stride}, sigma_square "
            f"{args.sigma_square}, {threads} thread(s), {args.device}, torch "
            f"{torch.__version__}, medians of {args.rounds}\n\n{HEAD}"
        )
        print(head, flush=True)
        tables[threads] = run_table(threads, args, peaks)
        targets = target_lines(tables[threads])
        print("\n" + "\n".join(targets), flush=True)
        text.append(head)
        text += [line for t in args.steps for line in lines_of(t, tables[threads])]
        text += ["", *targets]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    target = args.output_dir / "downsampling.md"
    target.write_text("\n".join(text).strip() + "\n", encoding="utf-8")
    draw(tables[args.threads[0]], args.output_dir / "downsampling.png")
    print(f"\nwritten: {target} and {target.with_suffix('.png')}")


def draw(table, path):
    """Draw time and peak memory over T; methods that no target names in grey."""
    from espnet_adastride.report.style import drawing, line_style, save_figure

    shown = {
        "forward + backward (ms)": lambda figures: 1e3 * figures.both,
        "peak memory / bytes of x": lambda figures: figures.peak,
    }
    drawn = (*COMPARED, DENSE)
    with drawing(10, 4, layout="constrained") as figure:
        axes = figure.subplots(1, 2)
        labels = {axis: [] for axis in axes}
        for axis, (label, value) in zip(axes, shown.items()):
            for method in METHODS:
                points = [
                    (steps, value(figures))
                    for (steps, name), figures in table.items()
                    if name == method and not math.isnan(value(figures))
                ]
                if points and method in drawn:
                    style = line_style(drawn.index(method))
                    axis.plot(*zip(*points), markersize=3, label=method, **style)
                elif points:
                    faint = {"color": GREY, "alpha": 0.4, "linewidth": 0.8}
                    axis.plot(*zip(*points), zorder=1, **faint)
                    labels[axis].append((method, points[-1]))
            axis.set(xlabel="T (time steps)", ylabel=label, xscale="log", yscale="log")
            axis.grid()
        axes[0].legend(fontsize=8)
        figure.draw_without_rendering()  # the layout, which the labels need
        for axis, ends in labels.items():
            label_ends(axis, ends, {"fontsize": 5, "color": GREY})
    save_figure(figure, path)


def label_ends(axis, ends, options):
    """Write a label beside the end of every line, moved apart where ends are close.

    Args:
        axis: with its final limits and layout.
        ends: of every line (label, (x, y)).
        options: of ``Axes.annotate``; has ``fontsize``, in points.
    """
    ends = sorted(ends, key=lambda end: end[1][1])
    points = 72 / axis.figure.dpi
    heights = [points * axis.transData.transform(end)[1] for _, end in ends]
    # in the order of the lines, as near to them as possible
    rows = 1.4 * options["fontsize"] * np.arange(len(ends))
    line = {"arrowstyle": "-", "lw": 0.3, "color": GREY, "relpos": (0, 0.5)}
    line |= {"shrinkA": 0, "shrinkB": 0}
    moved = isotonic_regression(np.array(heights) - rows).x + rows if ends else []
    for (label, end), height, place in zip(ends, heights, moved):
        axis.annotate(
            label,
            end,
            (9, place - height),
            textcoords="offset points",
            va="center",
            arrowprops=line,
            **options,
        )


if __name__ == "__main__":
    main()
