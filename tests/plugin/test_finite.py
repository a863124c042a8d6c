"""A training whose losses are not numbers stops, and names the batch."""

import pytest
import torch

pytest.importorskip("espnet2")

from espnet2.tasks.asr import ASRTask  # noqa: E402
from espnet2.train.abs_espnet_model import AbsESPnetModel  # noqa: E402
from espnet2.train.distributed_utils import DistributedOption  # noqa: E402
from espnet2.train.reporter import Reporter  # noqa: E402

from espnet_adastride.errors import ModelError  # noqa: E402
from espnet_adastride.plugin.trainer import FiniteTrainer, StrideTrainer  # noqa: E402
from espnet_adastride.plugin.vqvae_task import VQVAETask, read_statistics  # noqa: E402
from tiny_models import make_experiment  # noqa: E402


class Line(AbsESPnetModel):
    """A weight times the batch's mean: not a number where that is none."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, speech, speech_lengths, utt_id):
        loss = (self.weight * speech.mean()) ** 2
        return loss, {"loss": loss.detach()}, speech_lengths.sum()

    def collect_feats(self, **batch):
        return {}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    exp = make_experiment(tmp_path_factory.mktemp("recipe") / "exp")
    args = ASRTask.build_model_from_file(exp / "config.yaml", None, "cpu")[1]
    return StrideTrainer.build_options(args)


def batches(*levels):
    return [
        (
            [f"u{number}"],
            {
                "speech": torch.full((1, 8), float(level)),
                "speech_lengths": torch.tensor([8]),
            },
        )
        for number, level in enumerate(levels)
    ]


def train(options, levels):
    model, reporter = Line(), Reporter()
    reporter.set_epoch(1)
    with reporter.observe("train") as own:
        StrideTrainer.train_one_epoch(
            model=model,
            iterator=batches(*levels),
            optimizers=[torch.optim.SGD(model.parameters(), lr=0.01)],
            schedulers=[None],
            scaler=None,
            reporter=own,
            summary_writer=None,
            options=options,
            distributed_option=DistributedOption(),
        )
    return model


def validate(options, levels):
    reporter = Reporter()
    reporter.set_epoch(1)
    with reporter.observe("valid") as own:
        StrideTrainer.validate_one_epoch(
            model=Line(),
            iterator=batches(*levels),
            reporter=own,
            options=options,
            distributed_option=DistributedOption(),
        )


NAN = float("nan")


def test_one_step_is_passed_over(options):
    model = train(options, [1, 1, NAN, 1])
    weight = 1.0
    for _ in range(3):
        weight -= 0.01 * 2 * weight
    assert float(model.weight.detach()) == pytest.approx(weight)
    validate(options, [1, 2, 3])


def test_a_run_of_them_stops_the_training(options):
    with pytest.raises(ModelError) as error:
        train(options, [1] * 5 + [NAN] * 30)
    assert "training stopped: 10 of 15 losses are not numbers" in str(error.value)
    assert "first batch of them: u5;" in str(error.value)


def test_so_does_an_epoch_without_a_finite_loss(options):
    with pytest.raises(ModelError, match="training stopped: 3 of 3 losses"):
        train(options, [NAN, float("inf"), NAN])


def test_validation_chooses_by_its_losses(options):
    with pytest.raises(ModelError, match="validation stopped: 1 of 3 .*: u1;"):
        validate(options, [1, NAN, 1])


def test_validation_without_a_loss_is_left_to_espnet(options, monkeypatch):
    def forward(self, speech, speech_lengths, utt_id):
        return None, {"acc": torch.ones(())}, speech_lengths.sum()

    monkeypatch.setattr(Line, "forward", forward)
    validate(options, [1, 2])


def test_the_vqvae_is_trained_by_it(tmp_path):
    import numpy as np

    from espnet_adastride.errors import ConfigurationError

    assert VQVAETask.trainer is FiniteTrainer
    path = tmp_path / "feats_stats.npz"
    np.savez(path, count=np.array(2), sum=np.array([1.0, NAN]), sum_square=np.ones(2))
    with pytest.raises(ConfigurationError, match="not numbers"):
        read_statistics(path, 2)
