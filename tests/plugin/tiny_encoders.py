"""Encoders small enough for tests."""

import torch

#: an encoder of ESPnet's task asr: 20 features, width 16
TINY = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}


def tiny_encoder(kind, input_layer_conf, input_layer="adastride", **conf):
    """An encoder for evaluation with random weights; feature frames of 10 ms."""
    torch.manual_seed(0)
    conf = {**TINY, **conf, "input_layer_conf": input_layer_conf}
    encoder = kind(20, 16, input_layer=input_layer, **conf).eval()
    if encoder.embed.blocks is not None:
        encoder.embed.blocks.set_step(0.01)
    return encoder
