"""What LibriSpeech's 960 hours, 10,000 and 100,000 hours would take: on paper.

    python benchmarks/scaling.py [--tflops 8] [--memory 32] [--days 3]

Measured here: multiply-accumulates of a training forward of the published models with
each input layer, on one utterance of --seconds (decoder and CTC included; what is
counted: espnet_adastride/networks/macs.py), their parameters, what autograd saves of
it, and how much flac one core decodes in a second. The rest is arithmetic, and its
assumptions are options: a step is three forwards' work, a multiply-accumulate two
FLOPs, --tflops what a GPU reaches in the end, not its peak: the default is what the 16
hours published for the Conformer on one V100 come to (70 epochs of 300 hours). 16 bytes
a parameter are for weights, gradients and Adam. Prints the tables of docs/scaling.md
and writes them to
benchmarks/out/. A minute, 4 GiB.
"""

import io
import math
from pathlib import Path

import numpy
import soundfile
import torch

import espnet_adastride.plugin  # noqa: F401  (registers the words of input_layer)
from espnet_adastride.plugin.espnet import asr_task
from espnet_adastride.plugin.training_cost import Batch, model_cost
from measuring import OUT, SavedBytes, describe, now, write
from published import TOKENS, TOKENS_PER_SECOND, read_configuration

MODELS = {
    "Conformer": "train_asr_conformer.yaml",
    "E-Branchformer": "train_asr_e_branchformer.yaml",
    "E-Branchformer, CTC": "train_asr_ctc_e_branchformer.yaml",
}
LAYERS = {
    "`conv2d` 4x": {"input_layer": "conv2d"},
    "`adastride` 4x": {"input_layer": "adastride", "input_layer_conf": {"stride": 4}},
    "`conv2d8` 8x": {"input_layer": "conv2d8"},
    "`adastride` 8x": {"input_layer": "adastride", "input_layer_conf": {"stride": 8}},
}
RATE = 16000
#: hours, passes over them (fewer, the more there is)
CORPORA = ((960, 100), (10_000, 20), (100_000, 4))


def get_parser():
    """Return the command's parser."""
    parser = describe(__doc__)
    parser.add_argument("--seconds", type=float, default=12.0, help="an utterance")
    parser.add_argument("--tflops", type=float, default=8.0, help="reached by a GPU")
    parser.add_argument("--memory", type=float, default=32.0, help="of a GPU, GB")
    parser.add_argument("--days", type=float, default=3.0, help="a training may take")
    parser.add_argument(
        "--gb_per_hour", type=float, default=0.062, help="LibriSpeech: 59.3 GB, 960 h"
    )
    parser.add_argument("--network", type=float, default=10.0, help="a GPU's, GB/s")
    parser.add_argument("--output_dir", type=Path, default=OUT)
    return parser


def build(config, layer, seconds):
    """Return the model, its options and a batch of one random utterance."""
    conf = read_configuration(config)
    conf.normalize = "utterance_mvn"  # global_mvn reads the statistics of a corpus
    conf.encoder_conf.update(layer)
    torch.manual_seed(0)
    tokens = torch.randint(2, TOKENS - 1, (int(seconds * TOKENS_PER_SECOND),))
    batch = Batch([int(seconds * RATE)], [tokens.tolist()])
    return asr_task.ASRTask.build_model(conf), conf, batch


def saved_bytes(model, batch):
    """Return what a training forward keeps for its backward, every storage once."""
    with SavedBytes(*model.parameters()) as saved:
        loss, _, _ = model.train()(**batch.tensors("cpu"))
    del loss
    return saved.total()


def decoded_seconds(seconds=15.0, times=20):
    """Return how many seconds of 16 kHz flac one core decodes in a second."""
    noise = numpy.random.default_rng(0).normal(size=int(seconds * RATE))
    wave = numpy.clip(0.05 * noise, -1, 1).astype("float32")
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format="FLAC")
    start = now()
    for _ in range(times):
        file.seek(0)
        soundfile.read(file, dtype="float32")
    return seconds * times / (now() - start)


def measure(args):
    """Return {(model, layer): (parameters, MACs a second, bytes a second of audio)}."""
    torch.set_num_threads(1)
    results = {}
    for name, config in MODELS.items():
        for layer, words in LAYERS.items():
            model, conf, batch = build(config, words, args.seconds)
            cost = model_cost(conf, model, batch, RATE)
            macs = cost.macs / args.seconds
            saved = saved_bytes(model, batch) / args.seconds
            results[name, layer] = cost.parameters, macs, saved
    return results


def model_table(results, args):
    """Return the table of what was measured, and how far a GPU comes with it."""
    lines = [
        "| model | input layer | parameters, M | GMAC a second of audio | saved for "
        "the backward, MB a second | audio seconds a GPU second | largest batch, s |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for (name, layer), (parameters, macs, saved) in results.items():
        room = 0.8 * args.memory * 1e9 - 16 * parameters
        cells = [f"{parameters / 1e6:.1f}", f"{macs / 1e9:.2f}", f"{saved / 1e6:.1f}"]
        cells += [f"{speed(macs, args):,.0f}", f"{room / saved:,.0f}"]
        lines.append(f"| {name} | {layer} | " + " | ".join(cells) + " |")
    return lines


def speed(macs, args):
    """Return the seconds of audio that a GPU trains in a second."""
    return args.tflops * 1e12 / (6 * macs)


def corpus_table(results, args, name="Conformer"):
    """Return the table of hours, GPUs and what must be read, for one model."""
    decoded = decoded_seconds()
    lines = [
        "| hours | passes | input layer | GPU hours | GPUs for "
        f"{args.days:g} days | flac, TB | files | opened a second | decoding cores |",
        "|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for hours, passes in CORPORA:
        for (model, layer), (_, macs, _) in results.items():
            if model != name:
                continue
            gpu_hours = hours * passes / speed(macs, args)
            gpus = max(1, math.ceil(gpu_hours / (24 * args.days)))
            audio = gpus * speed(macs, args)  # seconds of audio a second
            cells = [f"{gpu_hours:,.0f}", str(gpus)]
            cells += [f"{hours * args.gb_per_hour / 1000:,.2f}"]
            cells += [f"{hours * 3600 / args.seconds / 1e6:.2g} M"]
            cells += [f"{audio / args.seconds:,.0f}", f"{audio / decoded:,.0f}"]
            lines.append(
                f"| {hours:,} | {passes} | {layer} | " + " | ".join(cells) + " |"
            )
    parameters = results[name, next(iter(LAYERS))][0]
    exchange = 2 * 4 * parameters / (args.network * 1e9)
    lines += [
        "",
        f"One core decodes {decoded:,.0f} s of 16 kHz flac a second (noise, the "
        f"hardest to compress). Gradients of the {name}: {4 * parameters / 1e6:.0f} "
        f"MB, {1000 * exchange:.0f} ms an exchange at {args.network:g} GB/s.",
    ]
    return lines


def main(cmd=None):
    """Measure, compute, print and write."""
    args = get_parser().parse_args(cmd)
    results = measure(args)
    lines = [
        f"{args.tflops:g} TFLOP/s reached by a GPU of {args.memory:g} GB, utterances "
        f"of {args.seconds:g} s, {TOKENS_PER_SECOND} tokens a second. On paper.",
        "",
        *model_table(results, args),
        "",
        *corpus_table(results, args),
    ]
    write(args.output_dir, "scaling", lines)


if __name__ == "__main__":
    main()
