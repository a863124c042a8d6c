"""Values that only running code can check are rejected before data are prepared."""

from pathlib import Path

import pytest

from espnet_adastride.bin import check_model
from espnet_adastride.config import merge_configs, override, read_config
from espnet_adastride.errors import UserError
from espnet_adastride.plugin.parts import build_parts

CONF = Path(__file__).resolve().parents[2] / "conf"
ADASTRIDE = [CONF / "train_asr_conformer.yaml", CONF / "adastride_8x.yaml"]
LAYER = "encoder_conf: input_layer_conf:"


def build(words, frontend=True):
    config = merge_configs(map(read_config, ADASTRIDE))
    build_parts(override(config, words.split()), frontend)


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("train_asr_*.yaml")), ids=lambda path: path.stem
)
@pytest.mark.parametrize("frontend", [True, False])
def test_what_the_project_ships_is_accepted(path, frontend):
    build_parts(read_config(path), frontend)


@pytest.mark.parametrize(
    "words",
    [
        "--encoder_conf input_layer=conv2d --encoder_conf input_layer_conf={}",
        # what these need may come from parts that are not built
        "--encoder_conf input_layer_conf.tell_strides=true --frontend s3prl",
        "--encoder_conf input_layer_conf.block=2",
        "--preencoder linear --preencoder_conf input_size=80",
        "--decoder none",
        "--decoder transducer",
        "--decoder whisper",
        "--encoder rnn",
        "--encoder none",
        "--frontend s3prl",
        "--specaug none",
        "--scheduler none",
        "--max_epoch 3 --normalize utterance_mvn",
    ],
)
def test_what_may_work_is_accepted(words):
    build(words)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--encoder_conf attention_heads=3", "encoder_conf: its values do not work"),
        (
            "--encoder_conf attention_heads=3",
            "AssertionError at `assert n_feat % n_head",
        ),
        ("--encoder_conf cnn_module_kernel=30", "AssertionError at `assert (kernel_"),
        ("--encoder_conf dropout_rate=1.5", "between 0 and 1, but got 1.5"),
        (
            "--encoder_conf input_layer_conf.sigma_square=-1",
            f"{LAYER} sigma_square must",
        ),
        ("--encoder_conf input_layer_conf.score_context=4", f"{LAYER} score_context"),
        ("--decoder_conf attention_heads=3", "decoder_conf: its values do not work"),
        ("--specaug_conf freq_mask_width_range=[3]", "specaug_conf: its values do"),
        (
            "--ctc_conf ctc_type=foo",
            "ctc_conf: its values do not work (ValueError: ctc_",
        ),
        ("--optim_conf lr=-1", "optim_conf: its values do not work (ValueError: Inval"),
        ("--scheduler steplr", "scheduler_conf: its values do not work (TypeError: St"),
        ("--frontend_conf n_fft=0", "frontend_conf: its values do not work (ZeroDivis"),
    ],
)
def test_what_cannot_work_is_named(words, message):
    with pytest.raises(UserError) as caught:
        build(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_features_need_no_frontend():
    build("--frontend_conf n_fft=0", frontend=False)


def test_the_command_names_where_the_values_are(capsys):
    command = ["--config", *map(str, ADASTRIDE)]
    check_model.main(command)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(SystemExit) as caught:
        check_model.main([*command, "--arguments=--encoder_conf attention_heads=3"])
    where = f"{ADASTRIDE[0]} and {ADASTRIDE[1]} and --asr_args"
    assert str(caught.value).startswith(f"error: {where}: encoder_conf: its values do")
