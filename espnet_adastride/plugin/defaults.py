"""The defaults that a training used, in its config.yaml.

ESPnet writes an encoder's own defaults into config.yaml, but not those inside
``input_layer_conf``. Built by a later version with other defaults, the model would then
place its frames differently. ESPnet writes the options after it has built the model, so
the tasks complete them there. Models trained before keep what they have; ESPnet3 writes
the options that it was given.
"""

import functools
import inspect
from typing import Any, Callable, Dict

from espnet_adastride.downsampling.registry import method_defaults
from espnet_adastride.plugin.layer_conf import OWN_WORDS
from espnet_adastride.plugin.resnet_encoder import ResNetEncoder
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling


def arguments_with_defaults(function: Callable) -> Dict[str, Any]:
    """Return the defaults of a function's arguments, ``{name: value}``."""
    parameters = inspect.signature(function).parameters.values()
    return {
        one.name: list(one.default) if isinstance(one.default, tuple) else one.default
        for one in parameters
        if one.default is not one.empty
    }


def completed_encoder_conf(encoder, conf: Dict[str, Any]) -> Dict[str, Any]:
    """Return ``encoder_conf`` with the defaults of its downsampling methods.

    Args:
        encoder: built from it.
        conf: as the user gave it; stays as it is.
    """
    if isinstance(encoder, ResNetEncoder):
        place, own, methods = "method_conf", {}, encoder.network.methods
    elif isinstance(getattr(encoder, "embed", None), AdaptiveSubsampling):
        place = "input_conf" if "input_conf" in conf else "input_layer_conf"
        own = arguments_with_defaults(AdaptiveSubsampling)
        # input_layer names the method
        own = {word: own[word] for word in OWN_WORDS if word != "method"}
        methods = encoder.embed.methods
    else:
        return conf
    given = conf.get(place) or {}
    return {**conf, place: {**given, **_missing(given, own, methods)}}


def completed_network_conf(network, conf: Dict[str, Any]) -> Dict[str, Any]:
    """Return a VQ-VAE's ``network_conf`` with the defaults of the network and methods.

    Args:
        network: built from it, a :class:`~espnet_adastride.networks.vqvae.VQVAE`.
        conf: as the user gave it; stays as it is.
    """
    whole = {**arguments_with_defaults(type(network)), **conf}
    given = whole["downsampler_conf"] or {}
    added = _missing(given, {}, network.encoder.methods)
    return {**whole, "downsampler_conf": {**given, **added}}


def _missing(given, own, methods) -> Dict[str, Any]:
    whole = {**own, **method_defaults(methods)}
    return {word: value for word, value in whole.items() if word not in given}


def record_defaults(task: type) -> None:
    """Make an ESPnet task complete ``encoder_conf`` of its options; idempotent."""
    build = task.build_model.__func__
    if getattr(build, "records_defaults", False):
        return

    @functools.wraps(build)
    def build_model(cls, args):
        model = build(cls, args)
        args.encoder_conf = completed_encoder_conf(model.encoder, args.encoder_conf)
        return model

    build_model.records_defaults = True
    task.build_model = classmethod(build_model)
