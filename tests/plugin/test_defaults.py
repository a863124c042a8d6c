"""A trained model stays the same when the defaults of a later version are others."""

import argparse
import copy

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.cls import CLSTask

import espnet_adastride.plugin  # noqa: F401
from espnet_adastride.downsampling import AdaStride, AdaStrideF
from espnet_adastride.downsampling.registry import method_defaults
from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.vqvae_task import VQVAETask
from tests.plugin.test_model import batch, configuration
from tests.plugin.test_transducer import configuration as transducer_configuration


def other_defaults(monkeypatch):
    """A version whose score_bound is smaller."""
    for method in (AdaStride, AdaStrideF):
        later = {**method.training_defaults, "score_bound": 0.25}
        monkeypatch.setattr(method, "training_defaults", later)


def written(args):
    """The options as config.yaml has them."""
    return argparse.Namespace(**yaml.safe_load(yaml.safe_dump(vars(args))))


def loss_of(task, args):
    torch.manual_seed(3)
    model = task.build_model(args).eval()
    for name, parameter in model.named_parameters():
        if "score" in name:
            torch.nn.init.normal_(parameter, std=20.0)  # far from the bounds
    with torch.no_grad():
        return float(model(**batch())[0])


def resnet():
    args = CLSTask.get_parser().parse_args(
        ["--encoder", "resnet", "--encoder_conf", "method=adastride_f"]
    )
    args.token_list = ["high", "low", "<unk>"]
    args.frontend_conf = {"n_mels": 40}
    return args


ASR = [
    {"input_layer_conf": {"stride": 8}},
    {},
    {"input_layer_conf": {"stride": 4, "after_blocks": [0, 1], "restore": True}},
]


@pytest.mark.parametrize("conf", ASR)
def test_a_later_version_builds_the_model_that_was_trained(conf, monkeypatch):
    args = configuration(**copy.deepcopy(conf))
    before = loss_of(ASRTask, args)
    given, saved = configuration(**copy.deepcopy(conf)), written(args)
    other_defaults(monkeypatch)
    assert loss_of(ASRTask, saved) == before
    assert loss_of(ASRTask, given) != before  # so the default does make a difference


def test_what_was_given_is_kept_and_not_changed_in_place():
    conf = {"stride": 8, "score_bound": None}
    args = configuration(input_layer_conf=conf)
    ASRTask.build_model(args)
    recorded = args.encoder_conf["input_layer_conf"]
    assert conf == {"stride": 8, "score_bound": None}
    assert {word: recorded[word] for word in conf} == conf
    assert recorded["sigma_square"] == 5.0 and recorded["trunk"] == "conv1d"
    assert "method" not in recorded  # input_layer is the method
    again = copy.deepcopy(args)
    ASRTask.build_model(again)
    assert again == args


def test_espnets_own_input_layers_get_nothing():
    args = configuration(input_layer="conv2d")
    before = copy.deepcopy(args.encoder_conf)
    ASRTask.build_model(args)
    assert args.encoder_conf == before


def test_the_transducer_task_records_them_in_input_conf(monkeypatch):
    task = espnet.asr_transducer_task.ASRTransducerTask
    args = transducer_configuration(block_type="adastride", stride=8)
    before = loss_of(task, args)
    saved = written(args)
    other_defaults(monkeypatch)
    assert loss_of(task, saved) == before


def test_the_resnet_records_them_in_method_conf():
    args = resnet()
    CLSTask.build_model(args)
    assert args.encoder_conf["method_conf"] == method_defaults(["adastride_f"])


def test_the_vqvae_records_all_its_options():
    given = {"strides": [2, 2], "method": "adastride", "width": 16}
    args = argparse.Namespace(
        network_conf=dict(given, downsampler_conf={"sigma_square": 2.0}),
        features_conf={"n_mels": 20},
        stats_file=None,
        vp_weight=1.0,
    )
    VQVAETask.build_model(args)
    network = args.network_conf
    assert {word: network[word] for word in given} == given
    assert network["downsampler_conf"]["sigma_square"] == 2.0
    assert network["downsampler_conf"]["score_bound"] == 1.0
    assert network["codebook_size"] == 512 and args.features_conf["fs"] == 16000
    VQVAETask.build_model(written(args))


def test_defaults_that_differ_between_methods_are_left_out(monkeypatch):
    both = ["adastride", "adastride_f"]
    assert method_defaults(both)["score_bound"] == 1.0
    later = {**AdaStrideF.training_defaults, "score_bound": 0.25}
    monkeypatch.setattr(AdaStrideF, "training_defaults", later)
    assert "score_bound" not in method_defaults(both)
    assert method_defaults(both)["empty_slots"] == "nearest"


def test_espnet_writes_them_into_config_yaml(tmp_path):
    """Through ESPnet's main function, up to the training itself."""
    tokens, exp = tmp_path / "tokens.txt", tmp_path / "exp"
    tokens.write_text("<blank>\n<unk>\na\n<sos/eos>\n")
    ASRTask.main(
        cmd=["--token_list", str(tokens), "--token_type", "char"]
        + ["--output_dir", str(exp), "--input_size", "20", "--dry_run", "true"]
        + ["--encoder", "conformer", "--encoder_conf", "input_layer=adastride"]
        + ["--encoder_conf", "num_blocks=1", "--encoder_conf", "output_size=16"]
        + ["--encoder_conf", "input_layer_conf.stride=8", "--ngpu", "0"]
        + ["--model_conf", "ctc_weight=1.0"]
    )
    conf = yaml.safe_load((exp / "config.yaml").read_text())["encoder_conf"]
    assert conf["input_layer_conf"]["stride"] == 8
    assert conf["input_layer_conf"]["score_bound"] == 1.0
