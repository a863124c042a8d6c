"""Two and four processes: loss, gradients and stats are those of one on all the batch.

ESPnet's own arithmetic (Trainer.train_one_epoch) is in between: the ranks' losses,
weighted by their utterances, and DistributedDataParallel's mean of gradients. Processes
are forked, so that ESPnet is imported once; beside a GPU they are started anew.
"""

import pickle

import pytest
import torch
from espnet2.tasks.asr import ASRTask
from espnet2.torch_utils.recursive_op import recursive_average
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from tests.devices import start_method
from tests.plugin.test_model import TOKENS, configuration

FRAMES = [56, 100, 77, 25, 100, 50, 93, 44]
WORDS = [2, 3, 1, 1, 2, 3, 2, 1]


def model(method):
    """No dropout, no batch norm: what is left does not see the others of its batch."""
    conf = {
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "use_cnn_module": False,
    }
    layer = {"stride": 4}
    if method != "diff_stride":
        layer["score_bound"] = None  # jumps above 1: the positioning loss speaks
    conf.update(attention_dropout_rate=0.0, input_layer_conf=layer)
    options = configuration(input_layer=method, **conf)
    # features: ESPnet's STFT mirrors the end of the batch's longest utterance alone
    options.input_size, options.frontend, options.frontend_conf = 40, None, {}
    options.decoder_conf.update(dropout_rate=0.0, positional_dropout_rate=0.0)
    torch.manual_seed(0)
    built = ASRTask.build_model(options).train()
    with torch.no_grad():
        for stage in built.encoder.embed.downsamplers:
            if hasattr(stage, "score"):
                stage.score.weight.normal_(std=3.0)
    return built


def batch(part=slice(None)):
    """Some of the eight utterances, padded to the longest of them."""
    torch.manual_seed(1)
    speech = torch.randn(8, max(FRAMES), 40)
    text = torch.randint(2, len(TOKENS) - 1, (8, max(WORDS)))
    frames, words = torch.tensor(FRAMES)[part], torch.tensor(WORDS)[part]
    speech, text = speech[part, : frames.max()].clone(), text[part, : words.max()]
    for row, length in enumerate(words):
        text[row, length:] = -1
    return dict(
        speech=speech, speech_lengths=frames, text=text.clone(), text_lengths=words
    )


def step(trained, part, world):
    """Return loss, stats and gradients, as ESPnet's trainer makes them."""
    loss, stats, weight = trained(**batch(part))
    stats = {k: v for k, v in stats.items() if v is not None}
    loss = (loss * weight.type(loss.dtype)).sum()
    stats, weight = recursive_average(stats, weight, world > 1)
    loss = loss / weight * world
    loss.backward()
    named = getattr(trained, "module", trained).named_parameters()
    grads = {name: p.grad.clone() for name, p in named}
    return {k: float(v) for k, v in stats.items()}, grads


def worker(rank, world, parts, method, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    # an unused parameter would stop the second backward
    trained = DistributedDataParallel(model(method), find_unused_parameters=False)
    step(trained, parts[rank], world)
    trained.zero_grad()
    result = step(trained, parts[rank], world)
    with open(f"{folder}/{rank}.pickle", "wb") as file:
        pickle.dump(result, file)
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    "method, world",
    [("adastride", 2), ("adastride", 4), ("adastride_f", 2), ("diff_stride", 2)],
)
def test_processes_equal_one(method, world, tmp_path):
    # parts of unequal size: 5 + 3, and 3 + 1 + 2 + 2 utterances
    ends = [0, 5, 8] if world == 2 else [0, 3, 4, 6, 8]
    parts = [slice(a, b) for a, b in zip(ends, ends[1:])]
    torch.multiprocessing.start_processes(
        worker,
        (world, parts, method, str(tmp_path)),
        nprocs=world,
        start_method=start_method(),
    )
    results = [
        pickle.loads((tmp_path / f"{r}.pickle").read_bytes()) for r in range(world)
    ]
    stats, grads = step(model(method), slice(None), 1)
    # what is a mean over utterances is the same in parts; a maximum and shares of slots
    # and learned strides are each rank's own, averaged
    for name in ("loss", "loss_ctc", "loss_att", "loss_vp"):
        if name in stats:
            assert results[0][0][name] == pytest.approx(stats[name], rel=1e-5), name
    for one, other in results:
        assert one.keys() == stats.keys() and one == results[0][0]
        assert other.keys() == grads.keys()
        for name, grad in other.items():
            torch.testing.assert_close(grad, grads[name], atol=1e-5, rtol=1e-4)
    if method != "diff_stride":
        assert stats["loss_vp"] > 0
        assert grads["encoder.embed.downsamplers.0.score.weight"].abs().max() > 1e-6
