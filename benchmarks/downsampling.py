"""Time and memory of downsampling layers over the input length, side by side.

    python benchmarks/downsampling.py [--steps 500 1000 ...] [--threads 1]

The methods are measured in turn in one process, after a warm-up, medians of several
rounds; compare the ratios, not the times. Prints a table, and writes it with a picture
to benchmarks/out/ (time and bytes saved for the backward, over T). ``dense`` is
AdaStride by its definition, ``adastride`` the sparse rows that compute the same;
``copy`` moves the unavoidable bytes once: x, z, their gradients.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from espnet_adastride import available_downsamplers, build_downsampler
from espnet_adastride.downsampling import adastride as adastride_module
from espnet_adastride.downsampling import downsampled_lengths

OUT = Path(__file__).resolve().parent / "out"
DENSE = "dense"
REFERENCE = "avg_pool"


def get_parser():
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = [500, 1000, 2000, 4000, 8000, 16000]
    parser.add_argument("--steps", type=int, nargs="+", default=steps, help="T")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="D")
    parser.add_argument("--stride", type=int, default=2)
    parser.add_argument("--sigma_square", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--dense_up_to", type=int, default=2000, help="largest T for the dense form"
    )
    parser.add_argument("--output_dir", type=Path, default=OUT)
    return parser


def build(method, args):
    """Build a layer; adaptive ones get scores whose strides vary as trained ones do."""
    name = "adastride" if method == DENSE else method
    adaptive = name.startswith("adastride")
    conf = {"sigma_square": args.sigma_square} if adaptive else {}
    layer = build_downsampler(name, args.size, args.stride, **conf).to(args.device)
    if adaptive:
        torch.nn.init.normal_(layer.score.weight, std=0.5 / args.size**0.5)
    return layer


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


def copy_once(x, z):
    """Move the unavoidable bytes: read x, write z, read dz, write dx."""
    torch.empty_like(x).copy_(x)
    torch.empty_like(z).copy_(z)


def measure(method, steps, args):
    """Return (forward s, forward + backward s, bytes saved) of one round."""
    generator = torch.Generator().manual_seed(steps)
    x = torch.randn(args.batch_size, steps, args.size, generator=generator)
    x = x.to(args.device).requires_grad_()
    lengths = torch.linspace(steps, 0.7 * steps, args.batch_size).long()
    lengths = lengths.to(args.device)

    def now():
        if args.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    if method == "copy":
        width = downsampled_lengths(steps, args.stride)
        z = torch.zeros(args.batch_size, width, args.size, device=args.device)
        start = now()
        copy_once(x.detach(), z)
        return now() - start, now() - start, 0
    layer = build(method, args)
    adastride_module.DENSE_UP_TO = float("inf") if method == DENSE else 0
    with SavedBytes(x, *layer.parameters()) as saved:
        start = now()
        out = layer(x, lengths)
        middle = now()
    loss = out.output.sum()
    if out.aux_loss is not None:
        loss = loss + out.aux_loss
    grad_start = now()
    loss.backward()
    end = now()
    return middle - start, (middle - start) + (end - grad_start), saved.total()


def main(cmd=None):
    """Measure, print, write the table and the picture."""
    args = get_parser().parse_args(cmd)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dense_limit = adastride_module.DENSE_UP_TO
    methods = ["copy", *available_downsamplers(), DENSE]
    lines = [
        f"B {args.batch_size}, D {args.size}, stride {args.stride}, sigma_square "
        f"{args.sigma_square}, {args.threads} thread(s), {args.device}, torch "
        f"{torch.__version__}, medians of {args.rounds}",
        "",
        f"| T | method | forward ms | forward + backward ms | x {REFERENCE} | "
        "saved for backward / bytes of x |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    table = {}
    try:
        for steps in args.steps:
            figures = {
                m: [] for m in methods if m != DENSE or steps <= args.dense_up_to
            }
            for round_ in range(args.rounds + 1):
                for method, rows in figures.items():
                    figure = measure(method, steps, args)
                    if round_:  # the first is the warm-up
                        rows.append(figure)
            medians = {
                method: [statistics.median(column) for column in zip(*rows)]
                for method, rows in figures.items()
            }
            x_bytes = 4 * args.batch_size * steps * args.size
            for method, (forward, both, saved) in medians.items():
                table[steps, method] = both, saved / x_bytes
                lines.append(
                    f"| {steps} | {method} | {1e3 * forward:.1f} | {1e3 * both:.1f} | "
                    f"{both / medians[REFERENCE][1]:.2f} | {saved / x_bytes:.2f} |"
                )
                print(lines[-1], flush=True)
    finally:
        adastride_module.DENSE_UP_TO = dense_limit
    args.output_dir.mkdir(parents=True, exist_ok=True)
    target = args.output_dir / "downsampling.md"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(table, methods, args.output_dir / "downsampling.png")
    print(f"\nwritten: {target} and {target.with_suffix('.png')}")


def draw(table, methods, path):
    """Draw time and saved bytes over T."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    labels = ["forward + backward (ms)", "saved for backward / bytes of x"]
    for column, (axis, label) in enumerate(zip(axes, labels)):
        for method in methods:
            points = [
                (steps, values[column] * (1e3 if column == 0 else 1))
                for (steps, name), values in table.items()
                if name == method
            ]
            if method == "copy" and column:
                continue
            axis.plot(*zip(*points), marker="o", label=method)
        axis.set(xlabel="T (time steps)", ylabel=label, xscale="log")
        axis.set_yscale(
            "log" if column == 0 else "symlog",
            **({} if column == 0 else {"linthresh": 0.1}),
        )
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
