"""One training step of the librispeech_100 Conformer with every input layer and trunk.

    python benchmarks/input_layer.py [--batch_size 30] [--seconds 15] [--threads 2]

The model is built by ESPnet from conf/train_asr_conformer.yaml, with 5000 tokens; a
step is forward, backward, clipping and Adam on random speech and text, the batch in
three parts whose gradients are accumulated, as ESPnet does: at once it would take 20
GiB. All input layers shorten 4 times, so that the encoder's blocks, the decoder and CTC
do the same work behind each: they are measured once, as the step with ESPnet's own
conv2d less conv2d alone, and the step with another input layer is that and the layer
alone (forward and backward of the same parts, in turn, medians of several rounds after
a warm-up with one utterance). This compares layers more exactly than whole steps would,
whose other parts vary by more than the layers differ; the sum is checked against whole
steps of some variants (--whole).

Counted as multiply-accumulates: convolutions, matrix products, and the rows of
AdaStride (a multiply-accumulate per entry and feature), of one utterance's forward. Not
counted: additions of pooling, ReLU, positions. Peak memory is what one forward and
backward adds to a forked process: of the layer alone for the whole batch, of whole
steps for one part of it.

Prints the tables and what became of the targets, and writes both and a picture to
benchmarks/out/. About 15 minutes and 10 GiB on two cores; for a glance: --batch_size 3
--blocks 2 --rounds 1.
"""

import copy
import math
import os
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Optional

import numpy
import torch

import espnet_adastride.plugin  # noqa: F401  (registers the words of input_layer)
from espnet_adastride.networks.macs import macs_by_module
from espnet_adastride.plugin.espnet import asr_task
from espnet_adastride.plugin.trunk import TRUNKS
from espnet_adastride.report.tables import markdown_table
from measuring import (
    GIB,
    OUT,
    added_peak,
    describe,
    in_child,
    in_turn,
    now,
    targets_head,
    vary_strides,
    verdict,
    write,
)
from published import TOKENS, TOKENS_PER_SECOND, read_configuration

MELS, HOP, RATE = 80, 160, 16000
METHODS = ("strided_conv", "avg_pool", "adastride", "adastride_f")


class Variant(NamedTuple):
    """An input layer: ESPnet's conv2d, which has no choice of trunk, or ours."""

    method: str
    trunk: Optional[str] = None

    def __str__(self):
        return f"{self.method}/{self.trunk}" if self.trunk else self.method


ESPNET = Variant("conv2d")
VARIANTS = [ESPNET, *(Variant(m, trunk) for trunk in TRUNKS for m in METHODS)]
BY_NAME = {str(variant): variant for variant in VARIANTS}


class Figures(NamedTuple):
    """Seconds and peak bytes of the layer alone, multiply-accumulates an utterance."""

    seconds: float
    peak: float
    macs: float


def get_parser():
    """Return the command's parser."""
    parser = describe(__doc__)
    parser.add_argument("--batch_size", type=int, default=30)
    parser.add_argument("--accumulate", type=int, default=3, help="parts of the batch")
    parser.add_argument("--seconds", type=float, default=15.0, help="an utterance")
    parser.add_argument("--blocks", type=int, default=12, help="of the encoder")
    parser.add_argument("--stride", type=int, default=4, help="conv2d's is 4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--whole",
        nargs="*",
        default=["adastride/conv2d"],
        choices=list(BY_NAME),
        help="variants whose whole steps are measured too",
    )
    parser.add_argument("--output_dir", type=Path, default=OUT)
    return parser


@lru_cache
def recipe():
    """Return the recipe's configuration."""
    return read_configuration("train_asr_conformer.yaml")


def configuration(variant, args):
    """Return the recipe's configuration with the variant's input layer."""
    conf = copy.deepcopy(recipe())
    conf.encoder_conf["num_blocks"] = args.blocks
    if variant.trunk:
        conf.encoder_conf["input_layer"] = variant.method
        conf.encoder_conf["input_layer_conf"] = {
            "stride": args.stride,
            "trunk": variant.trunk,
        }
    return conf


def build_layer(variant, args):
    """Build an input layer alone."""
    conf = configuration(variant, args)
    conf.encoder_conf["num_blocks"] = 1
    encoder = asr_task.encoder_choices.get_class(conf.encoder)
    layer = encoder(input_size=MELS, **conf.encoder_conf).embed
    vary_strides(layer, lambda: layer(*make_features(1, args)))
    return layer


def make_features(batch_size, args):
    """Return normalised features (B, T, F) and their mask (B, 1, T)."""
    frames = 1 + int(args.seconds * RATE) // HOP
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch_size, frames, MELS, generator=generator)
    return features, torch.ones(batch_size, 1, frames, dtype=torch.bool)


def make_batch(batch_size, args):
    """Return speech and text as ESPnet's model takes them."""
    generator = torch.Generator().manual_seed(0)
    samples = int(args.seconds * RATE)
    pieces = max(int(args.seconds * TOKENS_PER_SECOND), 1)
    size = (batch_size, pieces)
    return {
        "speech": torch.randn(batch_size, samples, generator=generator),
        "speech_lengths": torch.full((batch_size,), samples),
        "text": torch.randint(2, TOKENS - 1, size, generator=generator),
        "text_lengths": torch.full((batch_size,), pieces),
    }


def layer_step(layer, features, mask, parts=1):
    """Run a layer forward and backward on every part; return (seconds,)."""
    layer.zero_grad(set_to_none=True)
    start = now()
    for _ in range(parts):
        out, _ = layer(features, mask)
        frames = out[0] if isinstance(out, tuple) else out
        losses = [frames.sum()]
        if hasattr(layer, "take_trace"):
            trace = layer.take_trace()
            losses += [s.aux_loss for s in trace if s.aux_loss is not None]
        sum(losses).backward()
    return (now() - start,)


def build_step(variant, args):
    """Build the model; return a function that trains it by one step of so many parts
    of a batch and returns (seconds,)."""
    conf = configuration(variant, args)
    model = asr_task.ASRTask.build_model(conf).train()
    layer = model.encoder.embed
    vary_strides(layer, lambda: layer(*make_features(1, args)))
    (optimizer,) = asr_task.ASRTask.build_optimizers(conf, model)

    def step(batch, parts=1):
        torch.manual_seed(0)  # the same masks and dropout for all
        numpy.random.seed(0)
        start = now()
        for _ in range(parts):
            loss, _, _ = model(**batch)
            (loss / parts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), conf.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        return (now() - start,)

    return step


def layer_peak(variant, args):
    """Return the peak bytes of the layer's forward and backward."""

    def child():
        torch.set_num_threads(args.threads)
        layer = build_layer(variant, args)
        # the pages of small and freed things are there before the counting begins
        layer_step(layer, *make_features(1, args))
        batch = make_features(args.batch_size, args)
        return added_peak(lambda: layer_step(layer, *batch))

    return in_child(child) or math.nan


def step_peak(variant, args):
    """Return the peak bytes that a step with a part of the batch adds to a process."""

    def child():
        torch.set_num_threads(args.threads)
        step = build_step(variant, args)
        batch = make_batch(args.batch_size // args.accumulate, args)
        return added_peak(lambda: step(batch))

    return in_child(child) or math.nan


def macs_of_the_rest(args):
    """Return the multiply-accumulates behind the input layer, by part."""
    model = asr_task.ASRTask.build_model(configuration(ESPNET, args))
    counts = macs_by_module(model, **make_batch(1, args))
    name = type(model).__name__
    return {
        "encoder blocks": counts[f"{name}.encoder"] - counts[f"{name}.encoder.embed"],
        "decoder": counts[f"{name}.decoder"],
        "CTC": counts[f"{name}.ctc"],
    }


def measure(args):
    """Return {variant: Figures}, {variant: (seconds of whole steps, peak bytes)}."""
    torch.set_num_threads(1)  # or forked children would wait for threads they lack
    wholes = [ESPNET, *(BY_NAME[name] for name in args.whole if name != str(ESPNET))]
    print("peak memory, one process each", flush=True)
    whole_peaks = {variant: step_peak(variant, args) for variant in wholes}
    peaks = {variant: layer_peak(variant, args) for variant in VARIANTS}
    torch.set_num_threads(args.threads)
    layers = {variant: build_layer(variant, args) for variant in VARIANTS}
    one = make_features(1, args)
    macs = {v: macs_by_module(layer, *one)["Global"] for v, layer in layers.items()}
    print(f"time, {args.rounds} rounds after a warm-up", flush=True)
    steps = {v: build_step(v, args) for v in wholes}

    def turns(batch_size, parts):
        features, batch = make_features(batch_size, args), make_batch(batch_size, args)
        alone = {v: partial(layer_step, layers[v], *features, parts) for v in VARIANTS}
        whole = {("whole", v): partial(steps[v], batch, parts) for v in wholes}
        return {**alone, **whole}

    part = turns(args.batch_size // args.accumulate, args.accumulate)
    medians = in_turn(part, args.rounds, warm_up=turns(1, 1))
    seconds = {name: row[0] for name, row in medians.items()}
    return (
        {v: Figures(seconds[v], peaks[v], macs[v]) for v in VARIANTS},
        {v: (seconds["whole", v], whole_peaks[v]) for v in wholes},
    )


def seconds_of_the_rest(layers, wholes):
    """Return the seconds of a step that are not the input layer's."""
    return wholes[ESPNET][0] - layers[ESPNET].seconds


def layer_lines(layers, wholes):
    """Return the table of the input layers."""
    rest = seconds_of_the_rest(layers, wholes)
    names = ["input layer", "trunk", "step s", "/ conv2d", "/ avg_pool, same trunk"]
    names += ["layer alone s", "layer's peak GiB", "layer's G multiply-accumulates"]
    rows = []
    for variant, figures in layers.items():
        step = rest + figures.seconds
        pooled = layers.get(Variant("avg_pool", variant.trunk))
        beside = f"{step / (rest + pooled.seconds):.3f}" if pooled else ""
        row = [variant.method, variant.trunk or "", f"{step:.2f}"]
        row += [f"{step / wholes[ESPNET][0]:.3f}", beside, f"{figures.seconds:.2f}"]
        rows.append([*row, f"{figures.peak / GIB:.2f}", f"{figures.macs / 1e9:.2f}"])
    return markdown_table(names, rows).splitlines()


def whole_lines(layers, wholes):
    """Return the table that checks the sums by whole steps."""
    rest = seconds_of_the_rest(layers, wholes)
    names = ["whole step", "measured s", "rest + layer s", "difference"]
    rows = []
    for variant, (seconds, peak) in wholes.items():
        total = rest + layers[variant].seconds
        row = [str(variant), f"{seconds:.2f}", f"{total:.2f}"]
        row.append(f"{100 * (total / seconds - 1):+.1f} %")
        rows.append([*row, f"{peak / GIB:.2f}"])
    return markdown_table([*names, "peak GiB (a part)"], rows).splitlines()


def target_lines(layers, wholes):
    """Return one line a target: what was asked, what was measured, met or missed."""
    rest, lines = seconds_of_the_rest(layers, wholes), targets_head("trunk")

    def ratio(trunk, other):
        ours = layers[Variant("adastride", trunk)].seconds
        return (rest + ours) / (rest + layers[other].seconds)

    for trunk in TRUNKS:
        value = ratio(trunk, Variant("avg_pool", trunk))
        lines.append(verdict("adastride / avg_pool <= 1.05", trunk, value, 1.05))
    best = min(TRUNKS, key=lambda trunk: ratio(trunk, ESPNET))
    value = ratio(best, ESPNET)
    lines.append(verdict("adastride / ESPnet's conv2d <= 1.05", best, value, 1.05))
    return lines


def rest_lines(args):
    """Return the table of what is behind the input layer."""
    parts = macs_of_the_rest(args)
    row = ["G multiply-accumulates", *(f"{n / 1e9:.2f}" for n in parts.values())]
    return markdown_table(["behind every input layer", *parts], [row]).splitlines()


def draw(layers, wholes, path):
    """Draw what a step takes, the input layer's part set apart."""
    from espnet_adastride.report.style import COLOURS, ENERGY, INK, drawing, save_figure

    rest = seconds_of_the_rest(layers, wholes)
    names = [str(variant) for variant in layers]
    seconds = [figures.seconds for figures in layers.values()]
    with drawing(8, 4, layout="constrained") as figure:
        axis = figure.subplots()
        grey = [rest] * len(names)
        axis.barh(names, grey, color=ENERGY, label="the rest of the model")
        label = "input layer"
        axis.barh(names, seconds, left=rest, color=COLOURS[0], label=label)
        axis.axvline(wholes[ESPNET][0], color=INK, linewidth=0.8)
        axis.set_xlabel("seconds per training step (line: ESPnet's conv2d)")
        axis.invert_yaxis()
        axis.legend(loc="lower right")
    save_figure(figure, path)


def main(cmd=None):
    """Measure, print, write the tables and the picture."""
    args = get_parser().parse_args(cmd)
    if args.batch_size % args.accumulate:
        raise SystemExit("error: --batch_size must be a multiple of --accumulate")
    torch.manual_seed(0)
    layers, wholes = measure(args)
    lines = [
        f"{args.batch_size} x {args.seconds:g} s (in {args.accumulate} parts), "
        f"{args.blocks} blocks, rate "
        f"{args.stride}, {args.threads} thread(s), torch {torch.__version__}, medians "
        f"of {args.rounds}; a step is {seconds_of_the_rest(layers, wholes):.2f} s "
        "behind the input layer, measured once, and the layer alone; "
        "multiply-accumulates of one utterance's forward",
        "",
        *layer_lines(layers, wholes),
        "",
        *rest_lines(args),
        "",
        *whole_lines(layers, wholes),
        "",
        *target_lines(layers, wholes),
    ]
    target = write(args.output_dir, "input_layer", lines)
    draw(layers, wholes, target.with_suffix(".png"))
    print(f"written: {target} and {target.with_suffix('.png')}")


if __name__ == "__main__":
    main()
