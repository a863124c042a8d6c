"""Strides are drawn where ESPnet draws attention, by ESPnet's own hook."""

import logging

import pytest
import torch

pytest.importorskip("espnet2")

from espnet2.tasks.asr import ASRTask  # noqa: E402
from espnet2.train.reporter import Reporter  # noqa: E402

from espnet_adastride.plugin import trainer  # noqa: E402
from espnet_adastride.plugin.register import TASKS  # noqa: E402
from tests.plugin.releases import NEWER  # noqa: E402
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
    assert all(task.trainer is trainer.StrideTrainer for task in TASKS)


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
