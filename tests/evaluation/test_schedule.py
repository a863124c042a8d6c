"""A schedule is fitted to the training if it is too short or far too long."""

import pytest
import torch

from espnet_adastride.bin import fit_schedule
from espnet_adastride.evaluation.schedule import fitted_steps

OPTIONS = {
    "scheduler": "piecewiselinearwarmuplr",
    "scheduler_conf": {
        "warmup_steps_list": [0, 20, 30],
        "warmup_lr_list": [0.0, 0.002, 0.0001],
    },
    "optim_conf": {"lr": 0.002},
    "num_iters_per_epoch": None,
    "accum_grad": 1,
    "max_epoch": 8,
}


def rates(steps):
    """Return ESPnet's learning rates of 40 updates."""
    schedulers = pytest.importorskip("espnet2.schedulers.piecewise_linear_warmup_lr")
    conf = {**OPTIONS["scheduler_conf"], "warmup_steps_list": steps}
    optim = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.002)
    scheduler = schedulers.PiecewiseLinearWarmupLR(optim, **conf)
    found = []
    for _ in range(40):
        found.append(optim.param_groups[0]["lr"])
        optim.step()
        scheduler.step()
    return found


def test_the_rate_no_longer_jumps():
    """Five batches an epoch are 40 updates."""
    early = rates([0, 20, 30])
    assert early[29] == pytest.approx(0.0001) and early[30] > 0.0015
    steps = fitted_steps(OPTIONS, 5)
    assert steps == [0, 26.67, 40] and isinstance(steps[-1], int)
    fitted = rates(steps)
    assert max(fitted) == pytest.approx(0.002, rel=0.05)
    assert fitted[-1] == pytest.approx(0.0001)
    assert all(a > b for a, b in zip(fitted[27:], fitted[28:]))


@pytest.mark.parametrize(
    "changed, batches",
    [
        ({}, 3),  # 24 updates
        ({"max_epoch": 5}, 3),  # 15
        ({"accum_grad": 2}, 5),  # 16: the rest of an epoch is not used
        ({"num_iters_per_epoch": 3}, 5),
        ({"scheduler": "warmuplr", "scheduler_conf": {"warmup_steps": 20}}, 5),
        ({"scheduler": None, "scheduler_conf": {}}, 5),
        ({"optim_conf": {"lr": 0.0001}}, 5),  # decays from where the list ends
        ({"optim_conf": {}}, 5),
    ],
)
def test_what_fits_is_left_alone(changed, batches):
    assert fitted_steps({**OPTIONS, **changed}, batches) is None


CONFIG = """
scheduler: piecewiselinearwarmuplr
scheduler_conf: {warmup_steps_list: [0, 2, 4], warmup_lr_list: [0.0, 0.1, 0.01]}
optim_conf: {lr: 0.1}
max_epoch: 3
"""


@pytest.mark.parametrize("task", ["asr", "lm"])
def test_the_command_counts_the_batches_of_espnet(task, tmp_path, capsys):
    """Six utterances of a second in batches of two: three batches an epoch."""
    pytest.importorskip("espnet2")
    from tests.plugin.test_planning import Experiment

    utterances = {f"u{n}": (16000, "AB") for n in range(6)}
    experiment = Experiment(tmp_path, {"train": utterances, "valid": utterances})
    config = tmp_path / "schedule.yaml"
    config.write_text(CONFIG + "batch_type: unsorted\nbatch_size: 2\n")
    options = ["--config", str(config), *experiment.options]
    if task == "lm":
        text = str(tmp_path / "train_text")
        options = ["--config", str(config), "--train_shape_file", text]
        options += ["--token_list", str(tmp_path / "tokens.txt")]

    def fit(*more):
        fit_schedule.main(["--task", task, *options, *more])
        return capsys.readouterr()

    found = fit()
    assert found.out == "--scheduler_conf warmup_steps_list=[0,4.5,9]\n"
    assert "ends at 4 updates, the training at 9;" in found.err
    assert "would jump up there" in found.err
    assert fit("--max_epoch", "1") == ("", "")
    assert fit("--scheduler", "noamlr") == ("", "")
    given = fit("--scheduler_conf", "warmup_steps_list=[0,1,3]")
    assert given.out == "--scheduler_conf warmup_steps_list=[0,3,9]\n"
    given = fit("--scheduler_conf", "warmup_steps_list=[0,2,20]")
    assert given.out == "--scheduler_conf warmup_steps_list=[0,0.9,9]\n"
    assert "ends at 20 updates, the training at 9;" in given.err
    assert "would hardly decay" in given.err
