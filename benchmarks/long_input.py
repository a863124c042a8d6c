"""One hour of speech through the input layer, with every method and trunk.

    python benchmarks/long_input.py [--minutes 60] [--stride 8] [--methods ...]

360,000 log-mel frames of one utterance, as decoding meets it (no gradients), in a
process of its own for each row: the time, and the peak of all memory that the process
held, Python and PyTorch included. Where a stage's frames would not fit, the layer goes
through them in chunks, with the same numbers; a method with positions then reads what
comes before them twice, which is what it takes longer than the uniform ones.

Prints the table and what became of the target, and writes both to benchmarks/out/. At
60 minutes 10 to 20 minutes on two cores, nearly all of it for the trunk conv2d.
"""

import os
from functools import partial
from pathlib import Path

import torch

from espnet_adastride import available_downsamplers
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling
from espnet_adastride.plugin.trunk import TRUNKS
from espnet_adastride.report.tables import markdown_table
from measuring import (
    GIB,
    OUT,
    describe,
    in_child,
    now,
    process_peak,
    targets_head,
    verdict,
    write,
)

FRAMES_PER_MINUTE, MELS = 6000, 80
LIMIT = 4  # GiB


def get_parser():
    """Return the command's parser."""
    parser = describe(__doc__)
    words = available_downsamplers()
    methods = ["strided_conv", "avg_pool", "adastride", "adastride_f"]
    parser.add_argument("--methods", nargs="+", default=methods, choices=words)
    parser.add_argument("--trunks", nargs="+", default=list(TRUNKS), choices=TRUNKS)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--stride", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="width and channels")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output_dir", type=Path, default=OUT)
    return parser


def measure(method, trunk, args):
    """Return [seconds, peak bytes, output frames] of this process."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    layer = AdaptiveSubsampling(
        MELS,
        args.size,
        pos_enc=torch.nn.Identity(),
        method=method,
        stride=args.stride,
        trunk=trunk,
    ).eval()
    for downsampler in layer.downsamplers:
        if hasattr(downsampler, "score"):
            torch.nn.init.normal_(downsampler.score.weight, std=0.5 / args.size**0.5)
    x = torch.randn(1, int(args.minutes * FRAMES_PER_MINUTE), MELS)
    with torch.no_grad():
        layer(x[:, :100], None)  # warm-up
        start = now()
        out, _ = layer(x, None)
        elapsed = now() - start
    return elapsed, process_peak(), out.size(1)


def main(cmd=None):
    """Measure, print and write the table."""
    args = get_parser().parse_args(cmd)
    torch.set_num_threads(1)  # or forked children would wait for threads they lack
    lines = [
        f"{args.minutes:g} minutes, {args.minutes * FRAMES_PER_MINUTE:.0f} frames of "
        f"{MELS} mels, rate {args.stride}, width {args.size}, "
        f"{args.threads} thread(s), torch {torch.__version__}",
        "",
    ]
    targets, rows = targets_head("trunk"), []
    for trunk in args.trunks:
        for method in args.methods:
            row = in_child(partial(measure, method, trunk, args))
            if row is None:
                raise SystemExit(f"error: {method}/{trunk} died: not enough memory?")
            seconds, peak, frames = row
            rows.append(
                [trunk, method, f"{seconds:.1f}", f"{peak / GIB:.2f}", f"{frames}"]
            )
            print(*rows[-1], sep="  ", flush=True)
            target = f"{method}: peak GiB <= {LIMIT}"
            targets.append(verdict(target, trunk, peak / GIB, LIMIT))
    names = ["trunk", "method", "seconds", "peak GiB", "output frames"]
    lines += [markdown_table(names, rows), *targets]
    target = write(args.output_dir, "long_input", lines)
    print(f"written: {target}")


if __name__ == "__main__":
    main()
