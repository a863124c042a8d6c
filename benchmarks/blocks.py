"""What blocks cost in training: a step of the input layer, with and without.

    python benchmarks/blocks.py --blocks 0.5 1 2 8

One forward and backward of the demo's layer (4x, conv1d, 128 channels) over 20
utterances of 1.5 to 5.9 s; CPU time of one thread, the least and the median of the
rounds, which alternate between the variants.
"""

import time

import torch

from espnet_adastride.plugin.subsampling import AdaptiveSubsampling
from measuring import describe

SHORTEST, LONGEST = 150, 590  # feature frames
MELS, WIDTH = 80, 96
STEP = 0.01  # seconds


def get_parser():
    """Return the command's parser."""
    parser = describe(__doc__)
    parser.add_argument("--blocks", type=float, nargs="+", default=[0.5, 1, 2, 8])
    parser.add_argument("--method", default="adastride")
    parser.add_argument("--rounds", type=int, default=25)
    return parser


def build(method, block):
    """Return the layer, in training; block None: whole utterances."""
    torch.manual_seed(0)
    layer = AdaptiveSubsampling(
        MELS,
        WIDTH,
        0.0,
        torch.nn.Identity(),
        method=method,
        stride=4,
        channels=128,
        block=block,
    )
    if block is not None:
        layer.blocks.set_step(STEP)
    return layer.train()


def seconds_of_step(layer, x, mask):
    """Return the CPU seconds of a forward and backward."""
    begin = time.process_time()
    out, _ = layer(x, mask)
    losses = [s.aux_loss for s in layer.take_trace() if s.aux_loss is not None]
    (out.square().mean() + sum(losses)).backward()
    return time.process_time() - begin


def main(cmd=None):
    """Print a table."""
    args = get_parser().parse_args(cmd)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(SHORTEST, LONGEST, (20,), generator=generator)
    lengths[0] = LONGEST
    x = torch.randn(20, LONGEST, MELS, generator=generator)
    mask = (torch.arange(LONGEST) < lengths[:, None]).unsqueeze(1)
    layers = {block: build(args.method, block) for block in (None, *args.blocks)}
    spent = {block: [] for block in layers}
    for _ in range(args.rounds):
        for block, layer in layers.items():
            spent[block].append(1000 * seconds_of_step(layer, x, mask))
    print("| block | least, ms | median, ms |\n|---|---|---|")
    for block, times in spent.items():
        times.sort()
        name = "whole utterances" if block is None else f"{block:g} s"
        print(f"| {name} | {times[0]:.0f} | {times[len(times) // 2]:.0f} |")


if __name__ == "__main__":
    main()
