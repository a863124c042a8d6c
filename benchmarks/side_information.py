"""What the places of adaptive tokens cost a coder that looks at what was sent before.

    python benchmarks/side_information.py egs/arctic_vqvae/exp/adastride_16x_seed0 ...

A VQ-VAE's decoder must be told how many steps every slot of every stage has. The table
of egs/arctic_vqvae counts these numbers at the entropy of their frequencies; here is
what an adaptive code takes that has learned from the training set, for several kinds of
knowledge, on the test set: bits a second, all stages together.

    alone       how often each number is
    before      ... behind the two numbers before it, of the same stage
    tokens      ... under the token that is being described
    both        ... under that token, behind the number before it

A number's probability is its share among those that were seen in the same context,
mixed with that of the shorter context as if that had been seen four times. Folders are
runs of egs/arctic_vqvae/run.sh; a minute and a half each.
"""

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

import torch

from espnet_adastride.corpora.unlabelled import read_set
from espnet_adastride.evaluation.vqvae import read_wave
from espnet_adastride.networks.vqvae import durations
from espnet_adastride.plugin.vqvae_task import load_vqvae
from measuring import OUT, describe, write

#: how often the shorter context's shares count
WEIGHT = 4.0
#: a number that was never seen is one of so many
NUMBERS = 256
#: places in Told of what is known, a context behind its shorter ones
KNOWLEDGE: Dict[str, Sequence[Tuple[int, ...]]] = {
    "alone": [()],
    "before": [(), (1,), (1, 2)],
    "tokens": [(), (3,)],
    "both": [(), (1,), (1, 3)],
}


class Told(NamedTuple):
    """One number that is sent, and what the receiver knows by then.

    Attributes:
        steps: the number: of steps of a slot.
        before: that of the slot before, 0 at the beginning.
        earlier: that of the one before it.
        token: that the slot is part of.
    """

    steps: int
    before: int
    earlier: int
    token: int


def read_stages(tokens: List[int], numbers: Sequence[List[int]]) -> List[List[Told]]:
    """Return what is known of every number of an utterance's stages.

    Args:
        tokens: (T',).
        numbers: of every stage, the first one first, its slots' numbers of steps; the
            last stage has a slot a token, every stage as many steps as the one before
            it has slots.
    """
    owners, stages = list(tokens), []
    for own in reversed(numbers):
        told, before, earlier = [], 0, 0
        for steps, token in zip(own, owners):
            told.append(Told(steps, before, earlier, token))
            before, earlier = steps, before
        stages.append(told)
        owners = [token for n, token in zip(own, owners) for _ in range(n)]
    return stages[::-1]


def code_length(
    seen: Sequence[Told], sent: Sequence[Told], contexts: Sequence[Tuple[int, ...]]
) -> float:
    """Return the bits of an ideal code of ``sent`` that has learned from ``seen``."""
    counts = [defaultdict(Counter) for _ in contexts]
    for told in seen:
        for context, own in zip(contexts, counts):
            own[tuple(told[i] for i in context)][told.steps] += 1
    bits = 0.0
    for told in sent:
        share = 1.0 / NUMBERS
        for context, own in zip(contexts, counts):
            there = own[tuple(told[i] for i in context)]
            total = sum(there.values()) + WEIGHT
            share = (there[told.steps] + WEIGHT * share) / total
        bits -= math.log2(share)
    return bits


@torch.no_grad()
def encode(model, recordings) -> Tuple[List[List[Told]], float]:
    """Return what is sent of every stage of all recordings, and their seconds.

    Nothing is sent of a stage without positions.
    """
    stages: List[List[Told]] = []
    seconds = 0.0
    for recording in recordings:
        wave = torch.from_numpy(read_wave(recording.path, model.features.fs))
        frames, lengths = model.features(wave[None], torch.tensor([len(wave)]))
        encoded = model.network.encode(frames, lengths)
        numbers = []
        for stage in encoded.stages:
            n, m = int(stage.lengths), int(stage.output_lengths)
            if stage.positions is None:
                stride = int(stage.stride)
                numbers.append([min(stride, n - stride * slot) for slot in range(m)])
            else:
                numbers.append(durations(stage.positions[0], n, m).tolist())
        own = [
            told if stage.positions is not None else []
            for told, stage in zip(
                read_stages(encoded.tokens[0].tolist(), numbers), encoded.stages
            )
        ]
        stages = [a + b for a, b in zip(stages, own)] if stages else own
        seconds += len(wave) / model.features.fs
    return stages, seconds


def main(cmd=None):
    """Print the table, and write it to benchmarks/out/."""
    parser = describe(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="METHOD_RATEx_seedN folders")
    parser.add_argument("--output_dir", type=Path, default=OUT)
    args = parser.parse_args(cmd)
    torch.set_num_threads(1)
    lines = ["bits a second", "", "| run | " + " | ".join(KNOWLEDGE) + " |"]
    lines.append("|---" * (1 + len(KNOWLEDGE)) + "|")
    for run in args.runs:
        model = load_vqvae(run)
        data = run.parent / "data"
        seen, _ = encode(model, read_set(data / "train"))
        sent, seconds = encode(model, read_set(data / "test"))
        cells = [
            sum(code_length(*pair, contexts) for pair in zip(seen, sent)) / seconds
            for contexts in KNOWLEDGE.values()
        ]
        numbers = " | ".join(f"{bits:.1f}" for bits in cells)
        lines.append(f"| `{run.name}` | {numbers} |")
    write(args.output_dir, "side_information", lines)


if __name__ == "__main__":
    main()
