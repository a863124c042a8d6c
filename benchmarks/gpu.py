"""The layers and a training step on a GPU: time, memory, kernels. A part of gpu_kit.py.

    python benchmarks/gpu.py --results results.json --sections layer step --seconds 200

Sections, each a list of cells that go into one JSON file (gpu_records.py):

``facts``  the machine; its ceilings: bytes a second of a copy, FLOP/s of a product.
``layer``  every compared layer over T, as PyTorch runs it (eager), float32, bfloat16.
``step``   a training step of ESPnet's published Conformer, by input layer and rate:
           30 utterances of 15 s, four such batches a step, AMP, clipping and Adam as
           ESPnet's trainer does them (conf/train_asr_conformer.yaml).
``more``   the layers recorded as CUDA graphs, and compiled by torch.compile.
``train``  short trainings on speech: gpu_training.py.

Times are medians. ``ms`` is between two CUDA events around one call, the L2 cache
overwritten before it; ``wall_ms`` is the host's clock over calls one after the other,
divided by their number: where it is larger, the host is what is waited for. The same
environment variable as everywhere, ADASTRIDE_TRITON=0 or 1, says whether AdaStride runs
by its Triton kernels: it is read when the package is imported, so that a process
measures the one or the other.
"""

import copy
import gc
import math
import os
import platform
import statistics
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from downsampling import DENSE, dense_form
from espnet_adastride import build_downsampler
from espnet_adastride.downsampling import downsampled_lengths
from espnet_adastride.downsampling import rows as rows_module
from espnet_adastride.version import __version__
from gpu_records import OTHER_MACHINE, TIME_OUT, Cell, Records, run_cells
from measuring import GIB, SavedBytes, describe, now, vary_strides

SECTIONS = ("facts", "layer", "step", "train", "more")
ADAPTIVE = ("adastride", "adastride_f")
#: AdaStride as it is recommended behind pretrained features (docs/choosing.md)
CIF_SCORER = "adastride_cif_scorer"
#: layers that the Triton kernels change
WITH_KERNELS = (*ADAPTIVE, CIF_SCORER)
LAYERS = ("avg_pool", *WITH_KERNELS, "strided_conv", "stack", DENSE)
INPUT_LAYERS = ("conv2d", "strided_conv", "avg_pool", *ADAPTIVE)
#: T, by value: speech of 10 s before the first stage, after it, then the others
STEPS = (1000, 4000, 500, 16000, 64000, 2000, 8000, 32000)
DENSE_UP_TO = 4000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Scale:
    """How large everything is: as measured, or small, on a CPU, to try the code.

    Attributes:
        frames: B T of a layer's batch: x takes 262 MB in float32, five times the L2
            cache of the largest chips.
    """

    def __init__(self, dry_run: bool):
        self.device = "cpu" if dry_run else "cuda"
        self.dry_run = dry_run
        self.frames = 400 if dry_run else 256_000
        self.size = 16 if dry_run else 256
        self.steps = (100,) if dry_run else STEPS
        self.warm_up = 1 if dry_run else 3
        self.calls = (2, 2) if dry_run else (5, 50)
        self.seconds = 0.01 if dry_run else 0.4  # of calls, about, a cell
        self.flush = 2**10 if dry_run else 2**28
        # the training step: published, or a glance
        self.utterances = 2 if dry_run else 30
        self.duration = 1.0 if dry_run else 15.0
        self.batches = 2 if dry_run else 4
        self.blocks = 1 if dry_run else 12
        every = [(method, rate) for method in INPUT_LAYERS for rate in (4, 8)]
        self.input_layers = [("conv2d", 4), ("adastride", 8)] if dry_run else every


def get_parser():
    """Return the command's parser."""
    parser = describe(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="JSON file")
    parser.add_argument("--copy", type=Path, help="a second place for that file")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--seconds", type=float, default=math.inf, help="all in all")
    parser.add_argument("--dry_run", action="store_true", help="small, on the CPU")
    parser.add_argument("--data", type=Path, help="folder of train/ and dev/")
    parser.add_argument("--train_seconds", type=float, default=180.0, help="of one")
    return parser


def triton_in_use(device):
    """Return whether AdaStride runs by Triton kernels on this device, here and now."""
    kernels_for = getattr(rows_module, "kernels_for", None)  # a version without any
    return (
        kernels_for is not None
        and kernels_for(torch.zeros(1, device=device)) is not None
    )


# ------------------------------------------------------------------------- measuring


def free(*_):
    """Give back what an error or a cell left on the GPU."""
    gc.collect()  # quick: main has frozen what the imports made
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Clock:
    """Times calls, see the file's top.

    Args:
        scale: where, and how often.
    """

    def __init__(self, scale: Scale):
        self.scale, self.cuda = scale, scale.device == "cuda"
        self.rubbish = torch.empty(scale.flush, dtype=torch.uint8, device=scale.device)

    def _once(self, call):
        self.rubbish.zero_()
        if not self.cuda:
            start = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - start)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def measure(self, call):
        """Return {"ms": median, "spread": (90th - 10th percentile) / median,
        "wall_ms": seconds of calls one after the other}."""
        for _ in range(self.scale.warm_up):
            call()
        start = now(self.scale.device)
        call()
        once = now(self.scale.device) - start
        low, high = self.scale.calls
        calls = int(min(max(self.scale.seconds / max(once, 1e-6), low), high))
        times = sorted(self._once(call) for _ in range(calls))
        start = now(self.scale.device)
        for _ in range(calls):
            call()
        wall = (now(self.scale.device) - start) / calls
        middle = statistics.median(times)
        spread = (times[int(0.9 * (calls - 1))] - times[int(0.1 * calls)]) / middle
        return {
            "ms": round(middle, 5),
            "spread": round(spread, 3),
            "wall_ms": round(1e3 * wall, 5),
        }


def peak_bytes(call, device):
    """Return the bytes that a call adds at its peak; None on a CPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def launches(call, device):
    """Return (kernels that a call launches, copies and fills among its launches).

    On a CPU: (operators that it calls, 0), so that this is tried, too.
    """
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    call()
    with profile(activities=[activity]) as profiler:
        call()
        if device == "cuda":
            torch.cuda.synchronize()
    cuda = torch.autograd.DeviceType.CUDA
    if device != "cuda":
        names = [e.name for e in profiler.events() if e.cpu_parent is None]
    else:
        names = [
            event.name
            for event in profiler.events()
            if event.device_type == cuda
            and not getattr(event, "is_user_annotation", False)
        ]
    moves = [name for name in names if name.startswith(("Memcpy", "Memset"))]
    return len(names) - len(moves), len(moves)


# --------------------------------------------------------------------------- machine


def facts(scale: Scale):
    """Return the machine, in words and numbers."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "espnet_adastride": __version__,
        "cpus": os.cpu_count(),
        "cuda": torch.version.cuda,
    }
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = None
    if scale.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found.update(
            gpu=card.name,
            capability=f"{card.major}.{card.minor}",
            gib=round(card.total_memory / GIB, 1),
            multiprocessors=card.multi_processor_count,
            l2_mib=round(getattr(card, "L2_cache_size", 0) / 2**20, 1),
            cudnn=torch.backends.cudnn.version(),
        )
    else:
        found["gpu"] = None
    return found


def ceilings(scale: Scale):
    """Return what the card can do: GB/s of a copy (read + written), TFLOP/s."""
    clock, device = Clock(scale), scale.device
    result = {}
    size = 2**20 if scale.dry_run else 2**31
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    ms = clock.measure(partial(torch.empty_like(source).copy_, source))["ms"]
    result["copy_gb_s"] = round(2 * size / ms / 1e6, 1)
    del source
    for name, dtype in DTYPES.items():
        n = 128 if scale.dry_run else 8192
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        ms = clock.measure(lambda: a @ b)["ms"]
        result[f"matmul_{name}_tflop_s"] = round(2 * n**3 / ms / 1e9, 2)
    n = 128 if scale.dry_run else 4096
    a, b = (torch.randn(n, n, device=device, dtype=torch.float64) for _ in range(2))
    ms = clock.measure(lambda: a @ b)["ms"]
    result["matmul_float64_tflop_s"] = round(2 * n**3 / ms / 1e9, 2)
    return result


def fact_cells(scale: Scale, triton):
    """Yield the ceilings' cell; the machine's words are not a cell."""
    yield Cell("facts/ceilings", partial(ceilings, scale), 10)


# ---------------------------------------------------------------------------- layers


def build(method, scale: Scale, stride=2):
    """Build a layer; adaptive ones with scores that vary as trained ones' do, and the
    options that training uses."""
    name = "adastride" if method in (DENSE, CIF_SCORER) else method
    torch.manual_seed(0)
    conf = {"score_bound": 1.0} if name in ADAPTIVE else {}
    if method == CIF_SCORER:
        conf = {"score_bound": "sigmoid", "score_context": 5}
    if name == "adastride_f":
        conf["empty_slots"] = "nearest"
    layer = build_downsampler(name, scale.size, stride, **conf)
    if name in ADAPTIVE:
        torch.nn.init.normal_(layer.score.weight, std=0.5 / scale.size**0.5)
    return layer.to(scale.device)


def layer_batch(steps, dtype, scale: Scale):
    """Return x (B, T, D) that wants a gradient and lengths from T down to 0.7 T."""
    count = max(scale.frames // steps, 1)
    generator = torch.Generator(scale.device).manual_seed(steps)
    shape = (count, steps, scale.size)
    x = torch.empty(shape, device=scale.device).normal_(generator=generator)
    lengths = torch.linspace(steps, 0.7 * steps, count).long().to(scale.device)
    return x.to(DTYPES[dtype]).requires_grad_(), lengths


def autocast(dtype, scale: Scale):
    """Return the context that training in this dtype runs a layer in."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(scale.device, dtype=DTYPES[dtype])


class LayerWork:
    """Forward, and forward and backward, of one layer and one batch."""

    def __init__(self, method, steps, dtype, scale: Scale):
        self.dense, self.dtype, self.scale = method == DENSE, dtype, scale
        self.layer = build(method, scale)
        self.x, self.lengths = layer_batch(steps, dtype, scale)
        with torch.no_grad():
            out = self.forward()
        self.grad = torch.randn_like(out.output)
        self.rows = self.x.size(0)

    def forward(self):
        """Run the layer as in training."""
        with dense_form(self.dense), autocast(self.dtype, self.scale):
            return self.layer(self.x, self.lengths)

    def both(self):
        """Run it, and its backward with gradients of every output."""
        self.x.grad = None
        self.layer.zero_grad(set_to_none=True)
        out = self.forward()
        losses = [out.output] if out.aux_loss is None else [out.output, out.aux_loss]
        grads = [self.grad, *(torch.ones_like(loss) for loss in losses[1:])]
        torch.autograd.backward(losses, grads)

    def bytes(self):
        """Return the bytes of x."""
        return self.x.numel() * self.x.element_size()


def measure_layer(method, steps, dtype, mode, scale: Scale):
    """Return the numbers of one cell of ``layer`` or ``more``."""
    free()
    clock, work = Clock(scale), LayerWork(method, steps, dtype, scale)
    forward, both = work.forward, work.both
    result = {"batch_size": work.rows, "x_bytes": work.bytes()}
    if mode == "eager":
        with SavedBytes(work.x, *work.layer.parameters()) as saved:
            work.forward()
        result["saved_over_x"] = round(saved.total() / work.bytes(), 3)
        peak = peak_bytes(both, scale.device)
        result["peak_over_x"] = peak and round(peak / work.bytes(), 3)
    elif mode == "compile":
        torch._dynamo.reset()
        backend = "aot_eager" if scale.dry_run else "inductor"
        layer = work.layer
        start = time.time()
        work.layer = torch.compile(layer, backend=backend)
        both()
        result["compile_seconds"] = round(time.time() - start, 1)
    elif mode == "graph":
        forward = record(forward, scale)
        both = record(both, scale)
    for name, call in (("forward", forward), ("both", both)):
        result.update({f"{name}_{k}": v for k, v in clock.measure(call).items()})
        if mode != "graph":  # a graph launches what was recorded, as one
            kernels, moves = launches(call, scale.device)
            result[f"{name}_kernels"], result[f"{name}_moves"] = kernels, moves
    return result


def record(call, scale: Scale):
    """Return a function that replays a call, recorded as a CUDA graph."""
    if scale.device == "cpu":
        return call
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure_copy(steps, dtype, scale: Scale):
    """Return the time of the bytes that no layer can do without: forward reads x and
    writes z; forward and backward read dz and write dx, too."""
    free()
    clock = Clock(scale)
    x, _ = layer_batch(steps, dtype, scale)
    x = x.detach()
    width = downsampled_lengths(steps, 2)
    z = torch.empty(x.size(0), width, scale.size, device=x.device, dtype=x.dtype)
    target, other = torch.empty_like(x), torch.empty_like(z)

    def forward():  # T is even
        torch.add(x[:, :width], x[:, width:], out=z)

    def both():
        target.copy_(x)
        other.copy_(z)

    numel, size = x.numel(), x.element_size()
    result = {"batch_size": x.size(0), "x_bytes": numel * size}
    for name, call in (("forward", forward), ("both", both)):
        result.update({f"{name}_{k}": v for k, v in clock.measure(call).items()})
    return result


def layer_name(method, steps, dtype, mode, triton):
    """Return the name of a cell; the Triton switch only where it changes something."""
    word = f"/triton{int(triton)}" if method in WITH_KERNELS else ""
    return f"layer/{mode}/{dtype}/T{steps}/{method}{word}"


def layer_cells(scale: Scale, triton):
    """Yield the cells of ``layer``: float32 first, for each dtype T by T."""
    for dtype in DTYPES:
        for steps in scale.steps:
            yield from _layer_cells(scale, triton, "eager", dtype, steps)


def more_cells(scale: Scale, triton):
    """Yield the cells of ``more``: graphs, where launches count most, then compiled."""
    for mode, every in (("graph", scale.steps[:3]), ("compile", scale.steps[:2][-1:])):
        for dtype in list(DTYPES)[: 1 if scale.dry_run else None]:
            for steps in every:
                yield from _layer_cells(scale, triton, mode, dtype, steps)


def _layer_cells(scale, triton, mode, dtype, steps):
    if not triton and mode == "eager":
        name = layer_name("copy", steps, dtype, mode, triton)
        yield Cell(name, partial(measure_copy, steps, dtype, scale), 2)
    for method in LAYERS:
        if triton and method not in WITH_KERNELS:
            continue  # measured without the kernels, and the same with them
        if method == DENSE and (steps > DENSE_UP_TO or mode != "eager"):
            continue
        if method == CIF_SCORER and (steps not in scale.steps[:2] or mode != "eager"):
            continue  # what it takes more than AdaStride hardly depends on T
        if mode == "graph" and method in ADAPTIVE and not (triton or scale.dry_run):
            continue  # the host waits for the number of entries: no graph
        if scale.dry_run and mode == "compile" and method != "avg_pool":
            continue  # the device tests compile the others
        name = layer_name(method, steps, dtype, mode, triton)
        work = partial(measure_layer, method, steps, dtype, mode, scale)
        yield Cell(name, work, 45 if mode == "compile" else 3)


# --------------------------------------------------------------------- training step


def step_configuration(method, rate, scale: Scale):
    """Return ESPnet's options: the published Conformer with an input layer and rate."""
    from input_layer import recipe

    conf = copy.deepcopy(recipe())
    conf.encoder_conf["num_blocks"] = scale.blocks
    if method == "conv2d":
        conf.encoder_conf["input_layer"] = {4: "conv2d", 8: "conv2d8"}[rate]
    else:
        conf.encoder_conf["input_layer"] = method
        conf.encoder_conf["input_layer_conf"] = {"stride": rate}
    if scale.dry_run:
        conf.encoder_conf.update(output_size=32, linear_units=32, attention_heads=2)
        conf.decoder_conf.update(linear_units=32, attention_heads=2, num_blocks=1)
    return conf


class TrainingStep:
    """Steps as ESPnet's trainer takes them, of one model and one batch of noise.

    Args:
        method: the input layer's word.
        rate: 4 or 8.
        scale: how large.
    """

    def __init__(self, method, rate, scale: Scale):
        from espnet_adastride.plugin.espnet import asr_task
        from published import TOKENS, TOKENS_PER_SECOND

        self.scale, self.cuda = scale, scale.device == "cuda"
        self.conf = step_configuration(method, rate, scale)
        torch.manual_seed(0)
        model = asr_task.ASRTask.build_model(self.conf).to(scale.device)
        (self.optimizer,) = asr_task.ASRTask.build_optimizers(self.conf, model)
        generator = torch.Generator().manual_seed(0)
        count, samples = scale.utterances, int(scale.duration * 16000)
        pieces = max(int(scale.duration * TOKENS_PER_SECOND), 1)
        speech = torch.randn(count, samples, generator=generator)
        text = torch.randint(2, TOKENS - 1, (count, pieces), generator=generator)
        batch = {
            "speech": speech,
            "speech_lengths": torch.full((count,), samples),
            "text": text,
            "text_lengths": torch.full((count,), pieces),
        }
        self.batch = {key: value.to(scale.device) for key, value in batch.items()}
        self.model = model.eval()
        speech = self.batch["speech"], self.batch["speech_lengths"]
        vary_strides(model.encoder.embed, partial(model.encode, *speech))
        model.train()
        amp = self.conf.use_amp and self.cuda
        bfloat16 = amp and torch.cuda.is_bf16_supported()
        dtype = torch.bfloat16 if bfloat16 else torch.float16
        self.amp = {"device_type": scale.device, "dtype": dtype, "enabled": amp}
        self.scaler = torch.amp.GradScaler(scale.device, enabled=amp)

    def step(self, batches=None):
        """Accumulate the gradients of the batches, clip, and update."""
        for _ in range(batches or self.scale.batches):
            with torch.autocast(**self.amp):
                loss, _, _ = self.model(**self.batch)
                loss = loss / self.scale.batches
            self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        parameters = self.model.parameters()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.conf.grad_clip)
        if torch.isfinite(norm):  # the trainer looks, and so waits for the GPU
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def layer_alone(self):
        """Return a function: the input layer, forward and backward, for one step."""
        embed = self.model.encoder.embed
        with torch.no_grad():
            speech, lengths = self.batch["speech"], self.batch["speech_lengths"]
            features, lengths = self.model.frontend(speech, lengths)
        mask = torch.ones(
            features.size(0),
            1,
            features.size(1),
            dtype=torch.bool,
            device=speech.device,
        )

        def call():
            for _ in range(self.scale.batches):
                with torch.autocast(**self.amp):
                    out, _ = embed(features, mask)
                frames = out[0] if isinstance(out, tuple) else out
                loss = frames.float().mean()
                if hasattr(embed, "take_trace"):
                    for stage in embed.take_trace():
                        if stage.aux_loss is not None:
                            loss = loss + stage.aux_loss
                self.scaler.scale(loss).backward()
            embed.zero_grad(set_to_none=True)

        return call


def measure_step(method, rate, scale: Scale):
    """Return the numbers of one cell of ``step``."""
    free()
    work = TrainingStep(method, rate, scale)
    clock = Clock(scale)
    scale_step = {
        "utterances": scale.utterances,
        "batches": scale.batches,
        "seconds_of_speech": scale.utterances * scale.batches * scale.duration,
        "amp": str(work.amp["dtype"]) if work.amp["enabled"] else "off",
        "parameters": sum(p.numel() for p in work.model.parameters()),
    }
    work.step()  # makes the optimizer's state, which is no part of a step's peak
    peak = peak_bytes(work.step, scale.device)
    base = torch.cuda.memory_allocated() if work.cuda else 0
    times = clock.measure(work.step)
    layer = clock.measure(work.layer_alone())
    # of one batch and the update: the profiler needs seconds for all
    kernels, moves = launches(partial(work.step, 1), scale.device)
    return {
        **scale_step,
        "step_ms": times["ms"],
        "step_wall_ms": times["wall_ms"],
        "spread": times["spread"],
        "layer_ms": layer["ms"],
        "layer_share": round(layer["ms"] / times["ms"], 4),
        "peak_gib": peak and round((peak + base) / GIB, 3),
        "kernels": kernels,
        "moves": moves,
    }


def step_cells(scale: Scale, triton):
    """Yield the cells of ``step``."""
    for method, rate in scale.input_layers:
        if triton and method not in ADAPTIVE:
            continue
        word = f"/triton{int(triton)}" if method in ADAPTIVE else ""
        name = f"step/{rate}x/{method}{word}"
        yield Cell(name, partial(measure_step, method, rate, scale), 15)


# ------------------------------------------------------------------------------ main


def main(cmd=None):
    """Measure what is missing of the sections."""
    args = get_parser().parse_args(cmd)
    until = time.time() + args.seconds
    scale = Scale(args.dry_run)
    if scale.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: no CUDA GPU is there; --dry_run tries all on the CPU")
    try:
        records = Records(args.results, args.copy)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    if args.dry_run:
        torch.set_num_threads(1)  # small tensors: more only cost time
    wanted, triton = os.environ.get("ADASTRIDE_TRITON"), triton_in_use(scale.device)
    here = facts(scale)
    there = records.content["machine"] or here
    if any(there.get(key) != here[key] for key in ("gpu", "torch")):
        print(
            f"error: {args.results}: measured on {there.get('gpu')} with torch "
            f"{there.get('torch')}, and this is {here['gpu']} with {here['torch']}: "
            "name another --output and --work",
            file=sys.stderr,
        )
        raise SystemExit(OTHER_MACHINE)
    if not records.content["machine"]:
        records.content["machine"] = here
        records.write()
    if wanted == "1" and not triton:
        records.note("Triton", "its kernels cannot run here: measured without them")
        return
    for section in args.sections:
        if section == "train":
            from gpu_training import train_cells

            cells = train_cells(args, scale, records, until)
        else:
            makers = {
                "facts": fact_cells,
                "layer": layer_cells,
                "step": step_cells,
                "more": more_cells,
            }
            cells = makers[section](scale, triton)
        if section in ("step", "train"):
            try:
                import espnet_adastride.plugin  # noqa: F401
            except ImportError as error:
                records.note(section, f"left out: no ESPnet here ({error})")
                continue
        gc.freeze()
        name = f"{section}, Triton" if wanted == "1" else section
        records.content["notes"].pop(name, None)  # of an earlier call
        if run_cells(records, cells, until, retry=free):
            records.write()
        else:
            records.note(name, TIME_OUT)


if __name__ == "__main__":
    main()
