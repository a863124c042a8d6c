"""Untrained models small enough for a test, as an experiment's folder."""

import argparse
import re

import torch
import yaml
from espnet2.tasks.asr import ASRTask
from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

import espnet_adastride.plugin  # noqa: F401

RATE = 8000
TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "<sos/eos>"]


def make_experiment(
    folder, input_layer="adastride", conf=None, encoder_options=None, **options
):
    """Write config.yaml and parameters of a model whose strides follow the energy."""
    layer = {"stride": 4, "channels": 4, "score_bound": 2.0, "trunk": "conv1d"}
    encoder = {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 1,
        "input_layer": input_layer,
        **(encoder_options or {}),
    }
    if conf is not None or input_layer.startswith("adastride"):
        encoder["input_layer_conf"] = layer if conf is None else conf
    settings = {
        "encoder": "transformer",
        "encoder_conf": encoder,
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "linear_units": 8, "num_blocks": 1},
        "frontend_conf": {"fs": "8k", "n_fft": 256, "hop_length": 80, "n_mels": 20},
        "normalize": "utterance_mvn",
        "token_type": "char",
        "token_list": TOKENS,
        **options,
    }
    folder.mkdir(parents=True)
    (folder / "training.yaml").write_text(yaml.safe_dump(settings))
    args = ASRTask.get_parser().parse_args(
        ["--config", str(folder / "training.yaml"), "--output_dir", str(folder)]
    )
    args.token_list = settings["token_list"]
    # as ESPnet writes it: without aliases, which unpacking refuses
    (folder / "config.yaml").write_text(yaml_no_alias_safe_dump(vars(args)))
    # the same in any order of tests: this one transcribes noise as some tokens
    with torch.random.fork_rng():
        torch.manual_seed(20221)
        model = ASRTask.build_model(argparse.Namespace(**vars(args)))
    for name, value in model.named_parameters():
        if re.match(r"encoder\.embed\.conv\.\d+\.conv\.weight", name):
            value.data.abs_()  # more energy in, more activation out
        if name.endswith("score.weight"):
            value.data.fill_(1.0)
    torch.save(model.state_dict(), folder / "valid.acc.ave.pth")
    return folder
