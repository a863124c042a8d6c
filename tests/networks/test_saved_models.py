"""The model file that decoding uses follows from what the training saves."""

import pytest
import yaml

from espnet_adastride.bin import check_training
from espnet_adastride.errors import UserError
from espnet_adastride.networks.saved_models import (
    default_model,
    refuse_model_that_will_not_be,
    saved_names,
)

HYBRID = {"decoder": "transformer", "model_conf": {"ctc_weight": 0.3}}
CTC = {"model_conf": {"ctc_weight": 1.0}}
BOTH = [["valid", "cer_ctc", "min"], ["valid", "acc", "max"]]


@pytest.mark.parametrize(
    "config, name",
    [
        (HYBRID, "valid.acc.ave.pth"),
        (CTC, "valid.loss.ave.pth"),  # of ESPnet's default criteria
        ({**HYBRID, "best_model_criterion": BOTH}, "valid.acc.ave.pth"),
        ({**CTC, "best_model_criterion": BOTH}, "valid.cer_ctc.ave.pth"),
        ({**HYBRID, "best_model_criterion": BOTH[:1]}, "valid.cer_ctc.ave.pth"),
        ({**HYBRID, "best_model_criterion": "valid,wer,min"}, "valid.wer.ave.pth"),
        (
            {**CTC, "best_model_criterion": [["valid", "loss", "min"], *BOTH]},
            "valid.cer_ctc.ave.pth",
        ),
        (
            {
                "decoder": "transducer",
                "best_model_criterion": [["valid", "loss_transducer", "min"]],
            },
            "valid.loss_transducer.ave.pth",
        ),
        ({**HYBRID, "best_model_criterion": [["valid", "loss_vp", "min"]]}, None),
    ],
)
def test_the_default(config, name):
    assert default_model(config) == (name or "valid.loss_vp.ave.pth")


def test_a_criterion_that_nothing_reports_would_keep_no_model():
    with pytest.raises(UserError, match="valid.acc is not reported .*ctc_weight is 1"):
        default_model({**CTC, "best_model_criterion": [["valid", "acc", "max"]]})


@pytest.mark.parametrize(
    "wrong", ["acc", [], [["valid", "acc"]], [["test", "acc", "max"]]]
)
def test_a_wrong_criterion(wrong):
    with pytest.raises(UserError, match="must have the form .valid, acc, max."):
        default_model({**HYBRID, "best_model_criterion": wrong})


def test_an_explicit_one(tmp_path):
    config = {**HYBRID, "best_model_criterion": BOTH, "max_epoch": 8}
    config["keep_nbest_models"] = [5, 10]
    for name in ("valid.acc.ave.pth", "valid.cer_ctc.ave_5best.pth", "8epoch.pth"):
        refuse_model_that_will_not_be(name, config)
    refuse_model_that_will_not_be("valid.acc.best.pth", config)
    refuse_model_that_will_not_be("latest.pth", config)
    for name in (
        "valid.loss.ave.pth",
        "valid.acc.ave_10best.pth",  # of eight epochs
        "9epoch.pth",
        "valid.acc.pth",
        "valid.acc.ave.till4epoch.pth",
    ):
        with pytest.raises(UserError) as error:
            refuse_model_that_will_not_be(name, config, tmp_path)
        assert f"--inference_asr_model {name}: the training will not save it" in str(
            error.value
        )
        assert "omit it (valid.acc.ave.pth)" in str(error.value)
    (tmp_path / "valid.acc.pth").touch()
    refuse_model_that_will_not_be("valid.acc.pth", config, tmp_path)
    config["nbest_averaging_interval"] = 4
    refuse_model_that_will_not_be("valid.acc.ave.till4epoch.pth", config)


def test_the_names_are_those_that_espnet_writes(tmp_path):
    """Let ESPnet average epochs, with a reporter of what this model reports."""
    pytest.importorskip("espnet2")
    import torch
    from espnet2.main_funcs.average_nbest_models import average_nbest_models
    from espnet2.train.reporter import Reporter

    config = {**CTC, "best_model_criterion": BOTH, "keep_nbest_models": [2, 3, 9]}
    config["max_epoch"] = 3
    reporter = Reporter()
    for epoch in (1, 2, 3):
        torch.save({"w": torch.ones(1)}, tmp_path / f"{epoch}epoch.pth")
        reporter.set_epoch(epoch)
        with reporter.observe("valid") as sub:
            sub.register({"loss": torch.tensor(1.0), "cer_ctc": torch.tensor(0.5)})
            sub.next()
    average_nbest_models(tmp_path, reporter, BOTH, [2, 3, 9])
    written = {p.name for p in tmp_path.glob("*.ave*.pth")}
    assert written == {n for n in saved_names(config) if ".ave" in n}
    assert default_model(config) in written


def test_the_command(tmp_path, capsys):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({**CTC, "best_model_criterion": BOTH}))
    words = ["--action", "check", "--config", str(path)]
    check_training.main(words)
    assert capsys.readouterr().out == "valid.cer_ctc.ave.pth\n"
    check_training.main(
        [*words, "--arguments=--model_conf ctc_weight=0.3 --decoder rnn"]
    )
    assert capsys.readouterr().out == "valid.acc.ave.pth\n"
    with pytest.raises(SystemExit, match="valid.acc.ave.pth: the training will not"):
        check_training.main([*words, "--model", "valid.acc.ave.pth"])
    # after training, the experiment's own configuration counts
    words = ["--action", "check", "--train", "false", "--exp", str(tmp_path)]
    check_training.main(words)
    assert capsys.readouterr().out == "valid.acc.ave.pth\n"
    path.rename(tmp_path / "config.yaml")
    check_training.main(words)
    assert capsys.readouterr().out == "valid.cer_ctc.ave.pth\n"
    check_training.main([*words, "--model", "3epoch.pth"])
    assert capsys.readouterr().out == "3epoch.pth\n"
