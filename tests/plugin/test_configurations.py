"""conf/ holds what ESPnet published for librispeech_100, and all of it builds."""

import argparse
import copy
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask

import espnet_adastride.plugin  # noqa: F401  (registers the words)
from espnet_adastride.config import merge_configs, read_config
from espnet_adastride.plugin.planning import ModelLengths

CONF = Path(__file__).resolve().parents[2] / "conf"
TOKENS = ["<blank>", "<unk>", *map(str, range(4997)), "<sos/eos>"]  # --nbpe 5000

# The values of egs2/librispeech_100/asr1/conf/tuning, written down here once more.
SPECAUG = {
    "apply_time_warp": True,
    "time_warp_window": 5,
    "time_warp_mode": "bicubic",
    "apply_freq_mask": True,
    "freq_mask_width_range": [0, 27],
    "num_freq_mask": 2,
    "apply_time_mask": True,
    "time_mask_width_ratio_range": [0.0, 0.05],
    "num_time_mask": 5,
}
DECODER = {
    "attention_heads": 4,
    "linear_units": 2048,
    "num_blocks": 6,
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "self_attention_dropout_rate": 0.1,
    "src_attention_dropout_rate": 0.1,
}
COMMON = {
    "model_conf": {
        "ctc_weight": 0.3,
        "lsm_weight": 0.1,
        "length_normalized_loss": False,
    },
    "seed": 2022,
    "num_workers": 4,
    "batch_type": "numel",
    "batch_bins": 16000000,
    "accum_grad": 4,
    "max_epoch": 70,
    "patience": "none",
    "init": "none",
    "best_model_criterion": [["valid", "acc", "max"]],
    "keep_nbest_models": 10,
    "use_amp": True,
    "optim": "adam",
    "optim_conf": {"lr": 0.002, "weight_decay": 0.000001},
    "scheduler": "warmuplr",
    "scheduler_conf": {"warmup_steps": 15000},
    "specaug": "specaug",
    "specaug_conf": SPECAUG,
    # the last of these, and clipping, are ESPnet's defaults, written out
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80},
    "grad_clip": 5.0,
}
CONFORMER = {
    **COMMON,
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 256,
        "attention_heads": 4,
        "linear_units": 1024,
        "num_blocks": 12,
        "dropout_rate": 0.1,
        "positional_dropout_rate": 0.1,
        "attention_dropout_rate": 0.1,
        "input_layer": "conv2d",
        "normalize_before": True,
        "macaron_style": True,
        "rel_pos_type": "latest",
        "pos_enc_layer_type": "rel_pos",
        "selfattention_layer_type": "rel_selfattn",
        "activation_type": "swish",
        "use_cnn_module": True,
        "cnn_module_kernel": 31,
    },
    "decoder": "transformer",
    "decoder_conf": DECODER,
    "log_interval": 400,
    "num_att_plot": 0,
    "sort_in_batch": "descending",
    "sort_batch": "descending",
    "cudnn_deterministic": False,
    "cudnn_benchmark": False,
}
E_BRANCHFORMER = {
    **COMMON,
    "encoder": "e_branchformer",
    "encoder_conf": {
        "output_size": 256,
        "attention_heads": 4,
        "attention_layer_type": "rel_selfattn",
        "pos_enc_layer_type": "rel_pos",
        "rel_pos_type": "latest",
        "cgmlp_linear_units": 1024,
        "cgmlp_conv_kernel": 31,
        "use_linear_after_conv": False,
        "gate_activation": "identity",
        "num_blocks": 12,
        "dropout_rate": 0.1,
        "positional_dropout_rate": 0.1,
        "attention_dropout_rate": 0.1,
        "input_layer": "conv2d",
        "layer_drop_rate": 0.0,
        "linear_units": 1024,
        "positionwise_layer_type": "linear",
        "use_ffn": True,
        "macaron_ffn": True,
        "merge_conv_kernel": 31,
    },
    "decoder": "transformer",
    "decoder_conf": {**DECODER, "layer_drop_rate": 0.0},
}
CTC = {
    **{k: v for k, v in E_BRANCHFORMER.items() if not k.startswith("decoder")},
    "model_conf": {**COMMON["model_conf"], "ctc_weight": 1.0},
    "best_model_criterion": [["valid", "cer_ctc", "min"]],
}
PUBLISHED = {
    "train_asr_conformer": CONFORMER,
    "train_asr_e_branchformer": E_BRANCHFORMER,
    "train_asr_ctc_e_branchformer": CTC,
}
# overlays: input layer, rate
VARIANTS = {
    None: ("conv2d", 4),
    "conv2d_8x": ("conv2d8", 8),
    "adastride_4x": ("adastride", 4),
    "adastride_8x": ("adastride", 8),
    "adastride_f_4x": ("adastride_f", 4),
    "adastride_f_8x": ("adastride_f", 8),
}


def read(*names):
    return merge_configs(read_config(CONF / f"{n}.yaml") for n in names if n)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_value_is_there_and_nothing_else(name):
    assert read(name) == PUBLISHED[name]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_only_the_input_layer_changes(name, variant):
    config = read(name, variant)
    layer, rate = VARIANTS[variant]
    assert config["encoder_conf"].pop("input_layer") == layer
    own = config["encoder_conf"].pop("input_layer_conf", None)
    if layer.startswith("adastride"):
        assert own == {"stride": rate, "sigma_square": 5.0}
    base = read(name)
    del base["encoder_conf"]["input_layer"]
    assert config == base


@pytest.fixture(scope="module")
def defaults():
    """ESPnet's options, and what they are if a configuration does not tell."""
    return vars(ASRTask.get_parser().parse_args([]))


def build(config, defaults):
    """Build without memory for the parameters, as asr_train would."""
    args = argparse.Namespace(**copy.deepcopy(defaults))
    assert set(config) <= set(defaults), "ESPnet does not know an option"
    for key, value in config.items():
        setattr(args, key, None if value == "none" else value)
    args.token_list = TOKENS
    args.normalize = "utterance_mvn"
    with torch.device("meta"):
        return ASRTask.build_model(args)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_all_build_at_their_rates(name, variant, defaults):
    model = build(read(name, variant), defaults)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    layer, rate = VARIANTS[variant]
    if layer == "conv2d":  # as ESPnet's README gives them
        published = {"e_branchformer": 38.47, "ctc_e_branchformer": 26.43}
        assert count == pytest.approx(published.get(name[10:], count), abs=0.005)
    assert (model.decoder is None) == ("ctc" in name)
    (frames,) = ModelLengths(model).frames([16 * rate * 5])
    assert 16 * 5 - 2 <= frames <= 16 * 5


def test_perturbation_on_the_fly_is_a_third_of_each_speed():
    conf = read("train_asr_conformer", "speed_perturb")["preprocessor_conf"]
    effects = conf["data_aug_effects"]
    assert [e[1:] for e in effects] == [
        ["speed_perturb", {"factor": 0.9}],
        ["speed_perturb", {"factor": 1.1}],
    ]
    shares = [conf["data_aug_prob"] * e[0] for e in effects]
    assert shares == pytest.approx([1 / 3, 1 / 3], abs=1e-3)
    assert conf["fs"] == 16000


def test_merging_overrides_option_by_option():
    first = {"a": 1, "conf": {"b": 2, "deep": {"c": [1, 2]}}}
    second = {"conf": {"deep": {"c": [3], "d": 4}}, "e": 5}
    assert merge_configs([first, second]) == {
        "a": 1,
        "conf": {"b": 2, "deep": {"c": [3], "d": 4}},
        "e": 5,
    }
    assert first == {"a": 1, "conf": {"b": 2, "deep": {"c": [1, 2]}}}


def test_every_configuration_is_read_by_yaml():
    for path in CONF.glob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict), path
