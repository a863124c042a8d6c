"""Strides are drawn where ESPnet draws attention, by ESPnet's own hook."""

import datetime
import importlib
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("espnet2")

from espnet2.tasks.asr import ASRTask  # noqa: E402
from espnet2.train.distributed_utils import DistributedOption  # noqa: E402
from espnet2.train.reporter import Reporter  # noqa: E402

from espnet_adastride.errors import ModelError, UserError  # noqa: E402
from espnet_adastride.plugin import trainer  # noqa: E402
from espnet_adastride.plugin.register import TASKS  # noqa: E402
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling  # noqa: E402
from tests.plugin.releases import NEWER  # noqa: E402
from tests.plugin.test_other_release import renamed  # noqa: E402
from tiny_models import RATE, make_experiment  # noqa: E402


class Writer:
    """What TensorBoard's SummaryWriter is asked for."""

    def __init__(self):
        self.figures = {}

    def add_figure(self, name, figure, epoch):
        self.figures[name] = (figure, epoch)


def plot(exp, folder):
    """Let the task's trainer draw two utterances; return what the writer got."""
    model, args = ASRTask.build_model_from_file(
        exp / "config.yaml", exp / "valid.acc.ave.pth", "cpu"
    )
    batch = {
        "speech": 0.1 * torch.randn(2, 2 * RATE),
        "speech_lengths": torch.tensor([2 * RATE, RATE]),
        "text": torch.tensor([[3, 4], [4, -1]]),
        "text_lengths": torch.tensor([2, 1]),
    }
    writer, reporter = Writer(), Reporter()
    reporter.set_epoch(3)
    reporter.stats[2] = {"att_plot": {"total_count": 0}}  # of the epoch before
    options = ASRTask.trainer.build_options(args)
    with reporter.observe("att_plot") as sub_reporter:
        ASRTask.trainer.plot_attention(
            model, folder, writer, iter([(["a", "b"], batch)]), sub_reporter, options
        )
    return writer.figures


def test_every_task_has_the_trainer():
    for name, task in TASKS.items():
        if task is not None:
            kind = getattr(importlib.import_module(name), task)
            assert kind.trainer is trainer.StrideTrainer


def test_strides_beside_attention(tmp_path):
    figures = plot(make_experiment(tmp_path / "exp"), tmp_path / "att_ws")
    figure, epoch = figures["strides_b"]
    # one second at 10 ms is 101 frames, to 51, to 26
    assert epoch == 3 and len(figure.axes[0].collections[0].get_segments()) == 25
    assert (tmp_path / "att_ws" / "a" / "strides.3ep.png").exists()
    # what ESPnet draws is still there
    assert any("attn" in name for name in figures)


def test_uniform_strides_are_not_drawn(tmp_path):
    figures = plot(make_experiment(tmp_path / "exp", "conv2d"), tmp_path / "att_ws")
    assert figures and not any(name.startswith("strides") for name in figures)


@pytest.mark.skipif(not NEWER, reason="use_sdpa came with ESPnet 202611")
def test_fused_attention_has_no_weights_to_draw(tmp_path, caplog):
    """ESPnet's own drawing stops there: ``attn`` is None."""
    exp = make_experiment(tmp_path / "exp", encoder_options={"use_sdpa": True})
    with caplog.at_level(logging.WARNING):
        figures = plot(exp, tmp_path / "att_ws")
    assert set(figures) == {"strides_a", "strides_b"}
    assert "use_sdpa" in caplog.text


def test_a_picture_that_fails_does_not_end_a_training(tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(trainer, "draw", broken)
    with caplog.at_level(logging.WARNING):
        figures = plot(make_experiment(tmp_path / "exp"), tmp_path / "att_ws")
    assert "no picture of the strides of b: RuntimeError('no ink')" in caplog.text
    assert any("attn" in name for name in figures)


# ------------------------------------------------------------------ resuming
def interrupted(folder, word, other_names):
    """Leave what a training of the other release leaves, after its first epoch."""
    exp = make_experiment(folder, word)
    model, _ = ASRTask.build_model_from_file(
        exp / "config.yaml", exp / "valid.acc.ave.pth", "cpu"
    )
    state = renamed(model.state_dict(), other_names)
    state = {name: value.clone() for name, value in state.items()}
    torch.save(state, exp / "1epoch.pth")
    # in 202511 means are numpy's, and times are datetime's
    stats = {"loss": np.float64(2.5), "acc": np.float32(0.5), "total_count": 7}
    stats["time"] = datetime.timedelta(seconds=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.25)
    model(**batch())[0].backward()
    optimizer.step()
    checkpoint = {
        "model": state,
        "reporter": {"stats": {1: {"train": stats}}, "epoch": 1},
        "optimizers": [optimizer.state_dict()],
        "schedulers": [None],
        "scaler": None,
    }
    torch.save(checkpoint, exp / "checkpoint.pth")
    return exp, model


def batch():
    torch.manual_seed(5)
    return {
        "speech": 0.1 * torch.randn(2, RATE),
        "speech_lengths": torch.tensor([RATE, RATE // 2]),
        "text": torch.tensor([[3, 4], [4, -1]]),
        "text_lengths": torch.tensor([2, 1]),
    }


@pytest.mark.parametrize("new", [True, False], ids=["202611", "202511"])
@pytest.mark.parametrize("word", ["adastride", "conv2d"])
def test_a_training_of_either_release_is_resumed(word, new, tmp_path):
    exp, model = interrupted(tmp_path / "exp", word, new)
    wanted = {name: value.clone() for name, value in model.state_dict().items()}
    first = torch.load(exp / "1epoch.pth", weights_only=True)
    for parameter in model.parameters():
        parameter.data.zero_()
    reporter, optimizer = Reporter(), torch.optim.Adam(model.parameters(), lr=0.1)
    ASRTask.trainer.resume(
        checkpoint=exp / "checkpoint.pth",
        model=model,
        reporter=reporter,
        optimizers=[optimizer],
        schedulers=[None],
        scaler=None,
        ngpu=0,
    )
    assert first.keys() == renamed(wanted, new).keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, renamed(first, NEWER and word == "conv2d")[name])
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert reporter.get_epoch() == 1
    assert reporter.get_value("train", "loss") == 2.5
    assert reporter.stats[1]["train"]["time"] == datetime.timedelta(seconds=3)
    # what ESPnet averages in the end has the names of what is saved from now on
    again = torch.load(exp / "1epoch.pth", weights_only=True)
    assert list(again) and set(again) == set(model.state_dict())


def test_a_checkpoint_of_another_configuration_is_refused_in_one_line(tmp_path):
    exp, _ = interrupted(tmp_path / "exp", "adastride", NEWER)
    other = make_experiment(tmp_path / "other", "conv2d")
    model, _ = ASRTask.build_model_from_file(
        other / "config.yaml", other / "valid.acc.ave.pth", "cpu"
    )
    words = {"reporter": Reporter(), "optimizers": [], "schedulers": [], "ngpu": 0}
    with pytest.raises(ModelError) as error:
        ASRTask.trainer.resume(
            checkpoint=exp / "checkpoint.pth", model=model, scaler=None, **words
        )
    line = str(error.value)
    assert line.startswith(f"{exp}/checkpoint.pth does not fit the configured model: ")
    assert "--output_dir (asr.sh: --asr_tag). Missing key(s)" in line
    assert "\n" not in line and len(line) < len(str(exp)) + 450


@pytest.mark.skipif(not NEWER, reason="202511 loads whatever is in a checkpoint")
def test_a_checkpoint_with_more_than_data_is_still_refused(tmp_path):
    exp, model = interrupted(tmp_path / "exp", "adastride", True)
    state = torch.load(exp / "checkpoint.pth", weights_only=False)
    state["reporter"]["stats"][1]["train"]["loss"] = Path("x")
    torch.save(state, exp / "checkpoint.pth")
    words = {"reporter": Reporter(), "optimizers": [], "schedulers": [], "ngpu": 0}
    with pytest.raises(RuntimeError, match="weights_only"):
        ASRTask.trainer.resume(
            checkpoint=exp / "checkpoint.pth", model=model, scaler=None, **words
        )


# ------------------------------------------------------------------ nothing learned
def train_one_epoch(exp, batches, accum_grad=1, damaged=False):
    """Train an epoch as ESPnet's loop does, also with gradients that are NaN."""
    model, args = ASRTask.build_model_from_file(
        exp / "config.yaml", exp / "valid.acc.ave.pth", "cpu"
    )
    args.accum_grad = accum_grad
    reporter = Reporter()
    reporter.set_epoch(3)
    before = [p.clone() for p in model.parameters()]
    one = batch()
    if damaged:
        for parameter in model.parameters():
            parameter.register_hook(lambda grad: grad * float("nan"))
    with reporter.observe("train") as sub_reporter:
        stopped = ASRTask.trainer.train_one_epoch(
            model=model,
            optimizers=[torch.optim.Adam(model.parameters(), lr=0.01)],
            schedulers=[None],
            iterator=[(["a", "b"], dict(one)) for _ in range(batches)],
            reporter=sub_reporter,
            scaler=None,
            summary_writer=None,
            options=ASRTask.trainer.build_options(args),
            distributed_option=DistributedOption(),
        )
    assert not stopped
    return any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_an_epoch_without_an_update_is_an_error(tmp_path):
    """ESPnet warns, stops and leaves with status 0: "finished"."""
    exp = make_experiment(tmp_path / "exp")
    assert train_one_epoch(exp, batches=2, accum_grad=2)
    with pytest.raises(UserError) as error:
        train_one_epoch(exp, batches=2, accum_grad=3)
    assert str(error.value).startswith(
        "epoch 3 had 2 batches and accum_grad is 3: not one update"
    )
    with pytest.raises(UserError) as error:
        train_one_epoch(exp, batches=2, damaged=True)
    assert "epoch 3: the gradients of all 2 batches were infinite or not a" in str(
        error.value
    )


@pytest.mark.parametrize(
    "conf",
    [{"after_blocks": [0, 1], "stride": [2, 2]}, {"block": 2, "train_blocks": [1, 4]}],
)
def test_several_gpus_in_one_process_are_refused(conf):
    layer = AdaptiveSubsampling(20, 8, **conf)
    model = SimpleNamespace(encoder=SimpleNamespace(embed=layer))
    word = "train_blocks" if "block" in conf else "after_blocks"
    message = f"--ngpu 2: .* {word} .*: add --multiprocessing_distributed true"
    with pytest.raises(UserError, match=message):
        trainer.StrideTrainer.run(
            model=model, distributed_option=DistributedOption(ngpu=2)
        )
    trainer.check_gpus(model, DistributedOption(ngpu=1))
    trainer.check_gpus(model, DistributedOption(ngpu=2, distributed=True))
    layer = AdaptiveSubsampling(20, 8)
    model = SimpleNamespace(encoder=SimpleNamespace(embed=layer))
    trainer.check_gpus(model, DistributedOption(ngpu=2))
