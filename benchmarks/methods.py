"""All downsampling methods in one table: cost, aliasing, and information kept.

    python benchmarks/methods.py [--speech FOLDER] [--rounds 5] [--threads 1]

Layers are measured as they are built, untrained: a learned filter is at its random
start, AdaStride's scores are zero and its strides even. So that adaptive strides show,
methods with scores get a second row, where the scores follow the speech: the weight
vector is fitted so that a frame's score predicts how fast the spectrum changes there.
It is not trained either, and not what training would find. merge, hnet and
random_strides adapt (or draw) without training; hnet's router is the identity. A steady
tone is alike everywhere and cut by ties alone, at its start: what merge and hnet leak
says nothing about speech.

* Parameters, multiply-accumulates, time and peak memory: random input (B, T, D) at
  ``--stride``. Multiply-accumulates are counted from the operations that run, an
  addition, product, comparison or exponential alone counting as one; copies and masks
  count as none. Time is forward and backward, in turn, medians; peak memory is that of
  a forked process that does one of them. Both over those of avg_pool.
* Aliasing: every feature is a tone of unit power, zero mean, of one frequency, in many
  phases. Its leak is the energy of the output frames over the energy of the input
  frames, all that comes out included: for a tone above the new Nyquist frequency all of
  it is an alias or a distortion (a maximum turns a tone into a constant). The worst of
  the frequencies and the mean, both in dB; beside them the mean over the tones below
  the new Nyquist frequency, which should pass (0 dB). Ends are left out. In the second
  row of adaptive methods one feature carries the scores of speech and the others the
  tones; where frames are dense a tone may then pass rightly and counts as leaked.
* Information: log-mel frames of speech, normalised, are downsampled at ``--rates`` and
  rebuilt from the output; the share of the variance of held-out utterances that is
  explained. Frame t is at p_t on the axis of output frames: uniform methods
  know it from the stride, adaptive ones from their positions, which the rebuilding is
  told. From the ``--context`` output frames around p_t, each feature of frame t is a
  linear function whose weights depend on the fraction of p_t (linear between
  ``stride`` + 1 knots: for uniform methods this is one regression for each phase), by
  ridge regression. A second table says how far the strides of the adaptive rows go
  apart, and what is left when the rebuilding is not told their positions and takes them
  for even.

Speech: ``--speech`` names any folder of wav or flac files; without it some sentences
are synthesised (mini_espeak). Every third utterance is held out. Prints the table and
writes it and a picture to benchmarks/out/. About 4 minutes on one core.
"""

import ctypes
import math
import random
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from downsampling import REFERENCE, make_input, measure_layer
from espnet_adastride import available_downsamplers, build_downsampler
from espnet_adastride.downsampling import downsampler_class
from espnet_adastride.report.utterance import log_mel
from measuring import OUT, added_peak, describe, in_child, in_turn, write

#: tones: how many frequencies (evenly spaced, none of them at 1/4), steps, features
TONES, TONE_STEPS, TONE_FEATURES = 48, 1920, 64
#: of the frames, at either end, that tones are not looked at in
ENDS = 0.1
#: dB; below it a leak is called nothing
FLOOR = -120.0
HELD_OUT = 3  # every third utterance
RIDGE = 1e-4  # of the mean square of a regressor
FOLLOWS = "scores that follow speech"


class Row(NamedTuple):
    """A method in one of its states."""

    method: str
    follows: bool = False  # the scores follow speech

    def __str__(self):
        return f"{self.method}, {FOLLOWS}" if self.follows else self.method


class Cost(NamedTuple):
    """Parameters; multiply-accumulates an output frame; seconds; peak bytes."""

    parameters: int
    operations: float
    seconds: float
    peak: float


def get_parser():
    """Return the command's parser."""
    parser = describe(__doc__)
    words = available_downsamplers()
    parser.add_argument("--methods", nargs="+", default=words, choices=words)
    parser.add_argument("--speech", type=Path, help="a folder of wav or flac files")
    parser.add_argument("--minutes", type=float, default=15.0, help="of speech")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4000, help="T")
    parser.add_argument("--size", type=int, default=256, help="D")
    parser.add_argument("--stride", type=int, default=2, help="of cost and aliasing")
    parser.add_argument("--rates", type=int, nargs="+", default=[4, 8])
    parser.add_argument(
        "--score_scale", type=float, default=1.0, help="of the fitted scores"
    )
    parser.add_argument("--context", type=int, default=4, help="even number")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output_dir", type=Path, default=OUT)
    parser.set_defaults(device="cpu")
    return parser


def has_scores(method):
    """Return whether a method places the frames by scores that are linear in x."""
    layer = build_downsampler(method, 4, 2)
    out = layer(torch.zeros(1, 8, 4), torch.tensor([8]))
    return out.positions is not None and hasattr(layer, "score")


def rows_of(methods):
    """Return the rows of the table; the reference is among them."""
    rows = []
    for method in dict.fromkeys([*methods, REFERENCE]):
        rows += (
            [Row(method), Row(method, True)] if has_scores(method) else [Row(method)]
        )
    return rows


def build(row, size, stride, score_weight=None):
    """Build a row's layer; scores that follow speech read feature 0 alone, unless told.

    Args:
        row: Row.
        size: D.
        stride: overall rate.
        score_weight: (D,), for a row whose scores follow speech.
    """
    torch.manual_seed(0)
    layer = build_downsampler(row.method, size, stride)
    if row.follows:
        with torch.no_grad():
            if score_weight is None:
                score_weight = torch.eye(size)[0]
            layer.score.weight.copy_(score_weight)
    return layer


# --------------------------------------------------------------------------- the speech


def speech_features(args):
    """Return the log-mel frames (n, F) of utterances, and words that say whose."""
    waves, source = recorded(args) if args.speech else synthesised(args)
    features = [
        torch.from_numpy(log_mel(wave, rate)[:, ::2].T.astype(numpy.float32))
        for wave, rate in waves
    ]
    frames = sum(len(x) for x in features)
    return features, f"{len(features)} utterances, {frames / 6000:.1f} min, {source}"


def recorded(args):
    """Return [(wave, rate)] of a folder's recordings, picked evenly from all."""
    import soundfile

    paths = sorted(p for p in args.speech.rglob("*") if p.suffix in (".flac", ".wav"))
    random.Random(0).shuffle(paths)
    waves, seconds = [], 0.0
    for path in paths:
        wave, rate = soundfile.read(path, always_2d=True)
        waves.append((wave[:, 0], rate))
        seconds += len(wave) / rate
        if seconds >= 60 * args.minutes:
            break
    if len(waves) < HELD_OUT:
        raise SystemExit(
            f"error: {args.speech} has {len(waves)} wav or flac files, at least "
            f"{HELD_OUT} are needed"
        )
    return waves, f"recorded ({args.speech.resolve().name})"


def synthesised(args):
    """Return [(wave, rate)] of sentences that eSpeak NG reads."""
    from espnet_adastride.corpora.mini_espeak.grammar import PARTS
    from espnet_adastride.corpora.mini_espeak.plan import plan_corpus
    from espnet_adastride.corpora.mini_espeak.speech import FS, speak
    from espnet_adastride.errors import UserError

    minutes = {**dict.fromkeys(PARTS, 0.1), PARTS[0]: args.minutes}
    chapters = plan_corpus(0, minutes, lm_sentences=1).chapters
    try:
        waves = [
            (speak(sentence, chapter.speaker, number) / 2**15, FS)
            for chapter in chapters
            if chapter.part == PARTS[0]
            for number, sentence in enumerate(chapter.sentences.values())
        ]
    except UserError as error:
        raise SystemExit(f"error: {error}; or name a folder with --speech")
    return waves, "synthesised (mini_espeak), not recorded"


def split(features):
    """Return utterances to fit and held-out ones, each feature normalised by the
    first."""
    fit = [x for number, x in enumerate(features) if (number + 1) % HELD_OUT]
    held_out = features[HELD_OUT - 1 :: HELD_OUT]
    mean, std = statistics_of(torch.cat(fit))
    return [[(x - mean) / std for x in part] for part in (fit, held_out)]


def statistics_of(x):
    """Return the mean and the deviation of each feature of x (N, F); never 0."""
    return x.mean(dim=0), x.std(dim=0, correction=0).clamp(min=1e-5)


def fit_scores(utterances):
    """Return the weights (F,) whose score follows the spectrum's change, as log.

    The change at frame t is |x_{t+1} - x_{t-1}|. A step of the segment is proportional
    to exp(score), so that frames would lie in proportion to the change, could it be
    told from one frame.
    """
    x = torch.cat([utterance[1:-1] for utterance in utterances]).double()
    change = torch.cat([(u[2:] - u[:-2]).norm(dim=1) for u in utterances]).double()
    target = change.clamp(min=1e-3).log()
    target = target - target.mean()
    x = x - x.mean(dim=0)
    gram = x.T @ x
    gram.diagonal().add_(1e-2 * gram.diagonal().mean())
    return torch.linalg.solve(gram, x.T @ target).float()


def score_track(utterances, score_weight, steps):
    """Return scores of speech (T,), utterance after utterance, from the first again."""
    scores = torch.cat([utterance @ score_weight for utterance in utterances])
    return torch.from_numpy(numpy.resize(scores.numpy(), steps))


# ----------------------------------------------------------------------------- the cost


class Operations(TorchDispatchMode):
    """Counts multiply-accumulates: see the file's top.

    Matrix products and convolutions by PyTorch's own formulas; weighted sums of rows by
    their terms; sums, maxima and softmaxes by what they read; transforms of n steps
    as n log2(n) 5 / 4; what else computes number by number, by what it writes. Integer
    arithmetic (indices) is not counted.
    """

    aten = torch.ops.aten
    READ = {
        aten.sum: 1,
        aten.mean: 1,
        aten.amax: 1,
        aten.max: 1,
        aten.cumsum: 1,
        aten.mv: 1,
        aten._softmax: 3,  # an exponential, an addition, a product
    }
    MOVED = {aten.clone, aten.copy_, aten.fill_, aten.masked_fill, aten.where}

    def __init__(self):
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.total += self.count(func, args, kwargs or {}, out)
        return out

    def count(self, func, args, kwargs, out):
        """Return the multiply-accumulates of one operation."""
        aten, operation = self.aten, func.overloadpacket
        first = out[0] if isinstance(out, (tuple, list)) else out
        if operation in flop_registry:
            return flop_registry[operation](*args, **kwargs, out_val=out) / 2
        if not isinstance(first, torch.Tensor) or not args:
            return 0
        if operation in (aten._embedding_bag, aten._embedding_bag_forward_only):
            return args[1].numel() * args[0].size(1)
        if operation in (aten._fft_r2c, aten._fft_c2r):
            real = args[0] if operation is aten._fft_r2c else first
            return 1.25 * real.numel() * math.log2(max(real.size(args[1][-1]), 2))
        if operation is aten.max_pool2d_with_indices:
            return first.numel() * math.prod(args[1])
        if operation is aten.index_add_:
            return args[3].numel()
        if operation in self.READ:
            return self.READ[operation] * args[0].numel()
        if operation in self.MOVED or torch.Tag.pointwise not in func.tags:
            return 0
        parts = 2 if first.is_complex() else 1
        return parts * first.numel() * (first.is_floating_point() or first.is_complex())


def cost_input(args, track):
    """Return random x (B, T, D) whose feature 0 carries scores, and lengths (B,)."""
    x, lengths = make_input(args.steps, args)
    x = x.detach()
    x[:, :, 0] = track[: args.steps]
    return x, lengths


def train_step(layer, x, lengths, args):
    """Return (seconds,) of a forward and backward."""
    layer.zero_grad(set_to_none=True)
    return measure_layer(layer, x.detach().requires_grad_(), lengths, args)[1:2]


def return_freed_memory():
    """Let the C library return every large block that is freed, from now on.

    It would learn to keep some of them, those of 32 MiB just so, and the peak would
    depend on what was freed before what.
    """
    mmap_threshold = -3  # M_MMAP_THRESHOLD in malloc.h; once set, it is not adapted
    ctypes.CDLL(None).mallopt(mmap_threshold, 2**16)


def peak_memory(row, track, args):
    """Return the bytes that a forward and backward add to a process at their peak."""

    def child():
        return_freed_memory()
        layer = build(row, args.size, args.stride)
        x, lengths = cost_input(args, track)
        # the pages of small and freed things are there before the counting begins
        train_step(layer, x[:, :500], lengths.clamp(max=500), args)
        return added_peak(lambda: train_step(layer, x, lengths, args))

    return in_child(child) or math.nan


def costs(rows, track, args):
    """Return {row: Cost}."""
    torch.set_num_threads(1)  # or forked children would wait for threads they lack
    peaks = {row: peak_memory(row, track, args) for row in rows}
    torch.set_num_threads(args.threads)
    layers = {row: build(row, args.size, args.stride) for row in rows}
    x, lengths = cost_input(args, track)
    steps = {row: partial(train_step, layers[row], x, lengths, args) for row in rows}
    seconds = in_turn(steps, args.rounds)
    return {
        row: Cost(
            sum(parameter.numel() for parameter in layer.parameters()),
            operations_per_frame(layer, x, lengths),
            seconds[row][0],
            peaks[row],
        )
        for row, layer in layers.items()
    }


def operations_per_frame(layer, x, lengths):
    """Return the multiply-accumulates of a forward, over its output frames."""
    with torch.no_grad(), Operations() as operations:
        frames = layer(x, lengths).output
    return operations.total / (frames.size(0) * frames.size(1))


# ----------------------------------------------------------------------------- aliasing


def tone_frequencies():
    """Return frequencies between 0 and 1/2, in cycles a step."""
    # float64: whole periods, or a cut spectrum would seem to leak
    return (torch.arange(TONES, dtype=torch.float64) + 0.5) / (2 * TONES)


def tone(frequency, steps, features):
    """Return (1, T, D) float64: a tone of unit power, its phases around the circle."""
    time = torch.arange(steps, dtype=torch.float64).unsqueeze(1)
    phase = torch.arange(features, dtype=torch.float64) / features
    return math.sqrt(2) * torch.cos(2 * math.pi * (frequency * time + phase))[None]


def response(layer, frequencies, track=None):
    """Return the energy of the output frames over that of the input frames, (F,).

    Args:
        layer: over D features; feature 0 carries the track, or zeros.
        frequencies: of the tones in the other features, in cycles a step.
        track: (T,) scores.
    """
    layer, gains = layer.double(), []
    for frequency in frequencies.tolist():
        x = torch.zeros(1, TONE_STEPS, layer.size, dtype=torch.float64)
        x[:, :, 1:] = tone(frequency, TONE_STEPS, layer.size - 1)
        if track is not None:
            x[:, :, 0] = track[:TONE_STEPS]
        with torch.no_grad():
            z = layer(x, torch.tensor([TONE_STEPS])).output
        ends = round(ENDS * z.size(1))
        gains.append(z[:, ends : z.size(1) - ends, 1:].square().mean())
    return torch.stack(gains)


def decibel(energy):
    """Return the energy ratio (a float or tensor) in dB, no less than FLOOR."""
    energy = torch.as_tensor(energy, dtype=torch.float64)
    return 10 * torch.log10(energy.clamp(min=10 ** (FLOOR / 10)))


class Aliasing(NamedTuple):
    """Leak of the worst tone and of all above the new Nyquist frequency, and what is
    left of those below, in dB."""

    worst: float
    mean: float
    below: float


def aliasing(gains, frequencies, stride):
    """Return Aliasing from a response."""
    above = frequencies > 0.5 / stride
    return Aliasing(
        float(decibel(gains[above].max())),
        float(decibel(gains[above].mean())),
        float(decibel(gains[~above].mean())),
    )


# -------------------------------------------------------------------------- information


def frame_places(layer, out, length):
    """Return the places (T,) of the input frames on the axis of the output frames."""
    if out.positions is not None:
        return out.positions[0]
    stride = layer.current_stride()
    centre = layer.frame_shift() + (stride - 1) / 2  # of frame 0, in input steps
    return (torch.arange(length, dtype=torch.float64) - centre) / stride


def even_places(out, length):
    """Return the places of positions that nobody was told: evenly spaced."""
    return torch.linspace(0, int(out.lengths[0]) - 1, length, dtype=torch.float64)


def neighbours(z, places, context):
    """Return the regressors (T, context D + 1) of z (T', D), and the fractions (T,)."""
    floor = places.floor()
    around = torch.arange(context) - (context // 2 - 1)
    index = floor.long().unsqueeze(1) + around
    frames = z[index.clamp(0, len(z) - 1)].flatten(start_dim=1)
    ones = torch.ones(len(places), 1)
    return torch.cat([frames, ones], dim=1), (places - floor).float()


class Rebuilding:
    """Linear reconstruction of frames from the output frames around them.

    The weights are linear in the fraction of the place, between ``knots`` + 1 points.

    Args:
        knots: the stride.
    """

    def __init__(self, knots):
        self.knots = knots

    def parts(self, regressors, fractions):
        """Yield (knot, steps that lie behind it, their regressors (n, 2 R))."""
        knot = (fractions * self.knots).floor().clamp(max=self.knots - 1)
        share = (fractions * self.knots - knot).unsqueeze(1)
        for k in range(self.knots):
            steps = torch.where(knot == k)[0]
            part, beyond = regressors[steps], share[steps]
            yield k, steps, torch.cat([(1 - beyond) * part, beyond * part], dim=1)

    def fit(self, regressors, fractions, target):
        """Fit by ridge regression: regressors (N, R), fractions (N,), target (N, F)."""
        width = regressors.size(1)
        size = (self.knots + 1) * width
        gram = torch.zeros(size, size, dtype=torch.float64)
        product = torch.zeros(size, target.size(1), dtype=torch.float64)
        for k, steps, part in self.parts(regressors, fractions):
            here = slice(k * width, (k + 2) * width)
            gram[here, here] += part.T @ part
            product[here] += part.T @ target[steps]
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        factor = torch.linalg.cholesky(gram)
        self.weight = torch.cholesky_solve(product, factor).to(target.dtype)
        return self

    def rebuild(self, regressors, fractions):
        """Return the frames (N, F)."""
        width = regressors.size(1)
        frames = regressors.new_zeros(len(regressors), self.weight.size(1))
        for k, steps, part in self.parts(regressors, fractions):
            frames[steps] = part @ self.weight[k * width : (k + 2) * width]
        return frames


def downsample_all(layer, utterances, told=True):
    """Return [(output frames (T', D), places (T,))] of utterances (T, D)."""
    pairs = []
    with torch.no_grad():
        for x in utterances:
            out = layer(x[None], torch.tensor([len(x)]))
            places = frame_places if told else lambda _, *rest: even_places(*rest)
            pairs.append((out.output[0], places(layer, out, len(x))))
    return pairs


def information(layer, fit, held_out, context, told=True):
    """Return the share of the held-out variance that is rebuilt from the output.

    Args:
        layer: over F features.
        fit: utterances (T, F) that the regression is fitted to.
        held_out: utterances that it is judged by.
        context: output frames that it reads.
        told: the positions of adaptive methods are known to it.
    """
    pairs = downsample_all(layer, fit, told)
    mean, std = statistics_of(torch.cat([z for z, _ in pairs]))

    def regressors(pairs):
        parts = [neighbours((z - mean) / std, p, context) for z, p in pairs]
        return [torch.cat(column) for column in zip(*parts)]

    rebuilding = Rebuilding(math.ceil(layer.stride))
    rebuilding.fit(*regressors(pairs), torch.cat(fit))
    rebuilt = rebuilding.rebuild(*regressors(downsample_all(layer, held_out, told)))
    target = torch.cat(held_out)
    error = (rebuilt - target).square().sum()
    return 1 - float(error / (target - target.mean(dim=0)).square().sum())


# ---------------------------------------------------------------------------- the table


class Figures(NamedTuple):
    """What is measured of a row.

    Attributes:
        cost: Cost.
        response: gains of the tones.
        kept: {rate: share of the variance}.
        apart: of scores that follow speech, {rate: (a low and a high local stride, the
            share of the variance if positions are not told)}.
    """

    cost: Cost
    response: torch.Tensor
    kept: dict
    apart: dict


def local_strides(layer, utterances):
    """Return the 5th and 95th percentile of the steps' local strides 1 / (p_t -
    p_{t-1})."""
    jumps = [places.diff() for _, places in downsample_all(layer, utterances)]
    ends = torch.tensor([0.05, 0.95], dtype=torch.float64)
    return torch.cat(jumps).reciprocal().quantile(ends).tolist()


def measure(rows, features, args):
    """Return {row: Figures}."""
    fit, held_out = split(features)
    weight = args.score_scale * fit_scores(fit)
    track = score_track(held_out, weight, max(args.steps, TONE_STEPS))
    print("cost", flush=True)
    cost = costs(rows, track, args)
    print("aliasing", flush=True)
    gains = {}
    for row in rows:
        layer = build(row, TONE_FEATURES, args.stride)
        gains[row] = response(layer, tone_frequencies(), track if row.follows else None)
    table = {}
    for row in rows:
        print(f"information: {row}", flush=True)
        kept, apart = {}, {}
        for rate in args.rates:
            layer = build(row, fit[0].size(1), rate, weight)
            kept[rate] = information(layer, fit, held_out, args.context)
            if row.follows:
                apart[rate] = (
                    *local_strides(layer, held_out),
                    information(layer, fit, held_out, args.context, told=False),
                )
        table[row] = Figures(cost[row], gains[row], kept, apart)
    return table


def table_lines(table, args):
    """Return the table."""
    lines = [
        "| method | learned? | adapts to | parameters | multiply-accumulates a frame | "
        f"time / {REFERENCE} | peak memory / {REFERENCE} | leak, worst dB | "
        "leak, mean dB | below, mean dB | "
        + " | ".join(f"information at {rate}x" for rate in args.rates)
        + " |",
        "|---|---|---|" + "---:|" * (7 + len(args.rates)),
    ]
    reference = table[Row(REFERENCE)].cost
    for row, (cost, gains, kept, _) in table.items():
        leak = aliasing(gains, tone_frequencies(), args.stride)
        cells = [
            f"`{row.method}`{str(row)[len(row.method):]}",
            "yes" if cost.parameters else "no",
            downsampler_class(row.method).adapts_to,
            f"{cost.parameters:,}",
            f"{cost.operations:,.0f}",
            f"{cost.seconds / reference.seconds:.2f}",
            f"{cost.peak / reference.peak:.2f}",
            # no -0.0
            *(f"{round(v, 1) + 0:.1f}" if v > FLOOR else f"< {FLOOR:g}" for v in leak),
            *(f"{100 * kept[rate]:.1f} %" for rate in args.rates),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def apart_lines(table):
    """Return the table of the rows whose scores follow speech."""
    lines = [
        f"| {FOLLOWS} | rate | local stride, 5th to 95th percentile | "
        "information, positions given | even positions assumed |",
        "|---|---:|---|---:|---:|",
    ]
    for row, figures in table.items():
        for rate, (low, high, untold) in figures.apart.items():
            lines.append(
                f"| `{row.method}` | {rate} | {low:.1f} to {high:.1f} | "
                f"{100 * figures.kept[rate]:.1f} % | {100 * untold:.1f} % |"
            )
    return lines if len(lines) > 2 else []


def draw(table, args, path):
    """Draw the responses, the information kept and the cost, a method a line."""
    from espnet_adastride.report.style import COLOURS, MARKERS, drawing, save_figure

    names = [f"{row.method}*" if row.follows else row.method for row in table]
    lines = numpy.arange(len(names))
    response_db = torch.stack([decibel(f.response) for f in table.values()])
    with drawing(13, 0.32 * len(table) + 1.8, layout="constrained") as figure:
        left, middle, right = figure.subplots(
            1, 3, sharey=True, width_ratios=(1.2, 1, 1)
        )
        image = left.imshow(
            response_db,
            vmin=-40,
            vmax=6,
            cmap="viridis",
            aspect="auto",
            extent=(0, 0.5, len(names) - 0.5, -0.5),
        )
        left.axvline(0.5 / args.stride, color="white", linewidth=1.2)
        left.set_yticks(lines, names)
        left.set_xlabel(
            "frequency of a tone (cycles a step; line: new Nyquist)\n"
            f"colour: energy out / in, at {args.stride}x"
        )
        figure.colorbar(image, ax=left, label="dB", extend="min")
        for rate, marker, colour in zip(args.rates, MARKERS, COLOURS):
            kept = [100 * f.kept[rate] for f in table.values()]
            middle.plot(kept, lines, marker, color=colour, label=f"{rate}x")
        middle.set_xlabel(
            f"variance of speech frames rebuilt (%)\n* {FOLLOWS}, positions told"
        )
        reference = table[Row(REFERENCE)].cost
        for label, marker, colour in zip(("seconds", "peak"), "ox", COLOURS):
            ratios = [
                getattr(f.cost, label) / getattr(reference, label)
                for f in table.values()
            ]
            name = "time" if label == "seconds" else "peak memory"
            right.plot(ratios, lines, marker, color=colour, label=name)
        right.set_xscale("log")
        right.set_xticks([1, 2, 5, 10], ["1", "2", "5", "10"])
        right.set_xlabel(f"forward + backward / {REFERENCE}, at {args.stride}x")
        for axis in (middle, right):
            axis.grid()
            axis.legend()
    save_figure(figure, path)


def main(cmd=None):
    """Measure, print, write the table and the picture."""
    parser = get_parser()
    args = parser.parse_args(cmd)
    if args.context < 2 or args.context % 2:
        parser.error(f"--context must be an even number, got {args.context}")
    features, source = speech_features(args)
    table = measure(rows_of(args.methods), features, args)
    lines = [
        f"Untrained layers. Cost and aliasing: B {args.batch_size}, T {args.steps}, D "
        f"{args.size}, stride {args.stride}, {args.threads} thread(s), torch "
        f"{torch.__version__}, medians of {args.rounds}; {REFERENCE} takes "
        f"{1e3 * table[Row(REFERENCE)].cost.seconds:.0f} ms. Information: {source}, "
        f"{features[0].size(1)} mel bins, every {HELD_OUT}rd utterance held out, "
        f"rebuilt from {args.context} output frames.",
        "",
        *table_lines(table, args),
        "",
        *apart_lines(table),
    ]
    target = write(args.output_dir, "methods", lines)
    draw(table, args, target.with_suffix(".png"))
    print(f"written: {target} and {target.with_suffix('.png')}")


if __name__ == "__main__":
    main()
