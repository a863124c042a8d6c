"""ESPnet's models, with the input layer's auxiliary losses in their training loss.

Stats it adds (all are in train.log and TensorBoard, and any can be a
``best_model_criterion``), if the input layer has positions:

* ``loss_vp``: the stages' positioning losses, summed, before weighting;
* ``empty_slots``: share of output slots that no input frame is nearest to;
* ``largest_jump``: the largest step between neighbouring frames, in slots. When the
  strides collapse (single frames span several slots) it rises from about 1 to 7 or
  more;
* ``largest_stride``: the most frames of a stage's input that one slot is nearest to;
* ``stride_entropy``: 1 where strides are uniform, 0 where one frame takes all.

and with other methods:

* ``loss_aux``: what they add to the loss (lift_pool's regularisers);
* their own stats: ``stride``, and ``stride_1`` ... of the stages, where
  strides are learned (diff_stride); ``beta_1`` ... (ada_pool);
* of stages after blocks, ``bypass_2`` ... (``restore``) and ``ctc_score_2`` ...
  (``score_from_ctc``).

Which of them appear depends only on the configuration.
"""

import functools
import importlib
import inspect

from espnet_adastride.downsampling.stages import (
    add_auxiliary_losses,
    auxiliary_losses,
    position_stats,
)
from espnet_adastride.errors import ConfigurationError, ModelError
from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.espnet import (
    LinearProjection,
    SlidingWindow,
    force_gatherable,
)
from espnet_adastride.plugin.frontends import (
    frontend_if_known,
    model_frames,
    why_unknown,
)
from espnet_adastride.plugin.resnet_encoder import ResNetEncoder
from espnet_adastride.plugin.rnnt_loss import stand_in
from espnet_adastride.plugin.short_audio import TooShortAudioError
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling

#: of global_mvn, which ESPnet reads from a file before it loads the parameters
STATISTICS = ("normalize.mean", "normalize.std")


def input_layer(model):
    """Return the model's AdaptiveSubsampling, or None if it has another input layer."""
    layer = getattr(model.encoder, "embed", None)
    return layer if isinstance(layer, AdaptiveSubsampling) else None


def reporting_part(model):
    """Return the part that downsamples and reports stats, or None.

    It has ``take_trace()``, ``reported_stats()`` and ``vp_weight``: the input layer, or
    the encoder ``resnet`` itself.
    """
    encoder = model.encoder
    return encoder if isinstance(encoder, ResNetEncoder) else input_layer(model)


def set_stride(model, args, stride: float) -> None:
    """Set a trained model's overall stride.

    Args:
        model: an ESPnet model.
        args: its options, for the message.
        stride: overall, a real number >= 1.

    Raises:
        ConfigurationError: if its input layer, or a stage of it, has a fixed stride.
    """
    layer = input_layer(model)
    if layer is None:
        word = getattr(args, "encoder_conf", {}).get("input_layer", "ESPnet's own")
        raise ConfigurationError(
            f"stride {stride:g}: this model's input_layer is {word}, whose rate is "
            "fixed; adastride and adastride_f take any"
        )
    layer.set_stride(stride)


def set_block(model, args, seconds: float) -> None:
    """Set the length of a trained model's blocks.

    Args:
        model: an ESPnet model.
        args: its options, for the message.
        seconds: of a block, > 0; longer than an utterance: the whole of it.

    Raises:
        ConfigurationError: if its input layer places whole utterances, or no block can
            have this length.
    """
    layer = input_layer(model)
    if layer is None or layer.blocks is None:
        word = getattr(args, "encoder_conf", {}).get("input_layer", "ESPnet's own")
        raise ConfigurationError(
            f"block {seconds:g}: this model's input_layer ({word}) was trained to place"
            " whole utterances; train it with input_layer_conf: {block: 2} "
            "(docs/streaming.md)"
        )
    layer.blocks.set_seconds(seconds)


def check_frontend(model) -> None:
    """Reject a frontend that does not work with the plugin's input layer.

    Raises:
        ConfigurationError: ESPnet counts its frames wrongly; its frames are windows of
            samples; or ``tell_strides`` and ``true_times`` need to know when they are.
    """
    layer = input_layer(model)
    if layer is None:
        return
    set_frame_step(model, layer)
    if getattr(model, "frontend", None) is None:
        return
    preencoder = getattr(model, "preencoder", None)
    flat = preencoder is None or isinstance(preencoder, LinearProjection)
    if isinstance(model.frontend, SlidingWindow) and flat:
        raise ConfigurationError(
            "frontend sliding_window gives windows of samples: put preencoder: sinc "
            "between it and the encoder"
        )
    frontend_if_known(model.frontend)  # it may be unknown: works without times
    told = [
        word
        for word, on in (
            ("tell_strides", layer.stride_vector is not None),
            ("true_times", layer.true_times),
        )
        if on
    ]
    reason = why_unknown(model)
    if told and reason is not None:
        raise ConfigurationError(
            f"encoder_conf: input_layer_conf: {' and '.join(told)} needs the times of "
            f"the frames, and {reason}"
        )


def connect_ctc(model) -> None:
    """Let the stages of ``score_from_ctc`` read the model's CTC.

    Raises:
        ConfigurationError: it has none, or does not train it after blocks.
    """
    layer = input_layer(model)
    stages = [] if layer is None else [one for one in layer.later if one.from_ctc]
    if not stages:
        return
    where = "encoder_conf: input_layer_conf: score_from_ctc needs"
    if getattr(model, "ctc", None) is None:
        raise ConfigurationError(f"{where} a CTC: set model_conf: ctc_weight above 0")
    if not getattr(model, "interctc_weight", 0.0):
        raise ConfigurationError(
            f"{where} an intermediate CTC that is trained: set model_conf: "
            "interctc_weight, such as 0.3 (tasks asr, slu and s2t)"
        )
    for stage in stages:
        stage.use_ctc(model.encoder, model.ctc)


def set_frame_step(model, layer) -> None:
    """Set the step of the feature frames in a layer that works block by block.

    Raises:
        ConfigurationError: the step is not known.
    """
    if layer.blocks is None:
        return
    where = "encoder_conf: input_layer_conf: block is in seconds"
    reason = why_unknown(model)
    known = None if reason is not None else model_frames(model)
    if known is None or known.rate is None:
        reason = reason or "the model has none"
        raise ConfigurationError(
            f"{where} and needs a frontend of known frame rate: {reason}"
        )
    layer.blocks.set_step(known.rule.hop / known.rate)


class DownsamplingModel:
    """Mixin before an ESPnet model that has an ``encoder``.

    With ESPnet's own input layers nothing changes.
    """

    def __init__(self, *args, **kwargs):
        with stand_in():
            super().__init__(*args, **kwargs)
        check_frontend(self)
        connect_ctc(self)

    def _calc_transducer_loss(self, *args, **kwargs):
        with stand_in():
            return super()._calc_transducer_loss(*args, **kwargs)

    def _extract_feats(self, speech, speech_lengths):
        """Return ESPnet's features; name recordings too short for the frontend.

        The error is the one for which ESPnet's decoders write an empty hypothesis. In a
        batch with longer ones such recordings have 0 frames, where the formula of the
        convolutions would give a negative number.
        """
        if getattr(self, "frontend", None) is None or input_layer(self) is None:
            return super()._extract_feats(speech, speech_lengths)
        self._check_length(speech.size(1))  # the lengths would wait for the GPU
        features, lengths = super()._extract_feats(speech, speech_lengths)
        return features, lengths.clamp(min=0)

    def _check_length(self, samples: int) -> None:
        known = frontend_if_known(self.frontend)
        if known is None:
            return
        if self.training and known.untrainable is not None:
            raise ConfigurationError(f"frontend {known.words}: {known.untrainable}")
        needed = known.needed(self.training)
        if samples < needed:
            raise TooShortAudioError(
                f"has {samples} samples, too short for frontend {known.words} (it "
                f"needs {needed}{' in training' if self.training else ''}; asr.sh: "
                "--min_wav_duration)",
                samples,
                needed,
            )

    def forward(self, *args, **kwargs):
        """Return the ESPnet model's (loss, stats, weight), auxiliary losses added."""
        loss, stats, weight = super().forward(*args, **kwargs)
        layer = reporting_part(self)
        if layer is None:
            return loss, stats, weight
        trace = layer.take_trace()
        losses = auxiliary_losses(trace)
        loss = add_auxiliary_losses(loss, losses, layer.vp_weight)
        stats.update({name: value.detach() for name, value in losses.items()})
        stats["loss"] = loss.detach()
        stats.update(position_stats(trace))
        stats.update(layer.reported_stats())
        return force_gatherable((loss, stats, weight), loss.device)

    def load_state_dict(self, state_dict, strict=True, assign=False):
        """Load parameters; reject keys that do not fit, even if not strict.

        ESPnet loads with ``strict=False`` at inference: with missing or renamed keys,
        some weights would silently stay random. With stock input layers, only the keys
        of the input layer itself are checked. For partial loading there is
        ``--init_param``; adapters (LoRA) are not checked.

        Statistics of the features are the checkpoint's, even if the file that the
        configuration names was made again for a frontend of another size.

        Raises:
            ModelError: with the keys.
        """
        own = self.state_dict()
        differ = [
            key
            for key, value in state_dict.items()
            if key in own and value.shape != own[key].shape
        ]
        if differ and set(differ) <= set(STATISTICS):
            for key in differ:
                values = own[key].new_zeros(state_dict[key].shape)
                setattr(self.normalize, key.split(".")[1], values)
            differ = []
        if strict or any("lora_" in key for key in own):
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        watched = "" if reporting_part(self) is not None else "encoder.embed."
        problems = [
            f"of another shape: {key} {tuple(state_dict[key].shape)} instead of "
            f"{tuple(own[key].shape)}"
            for key in differ
        ]
        if not problems:
            # checked by loading: ESPnet renames keys of older releases as it loads
            try:
                result = super().load_state_dict(
                    state_dict, strict=False, assign=assign
                )
            except RuntimeError as error:  # of another shape, once renamed
                problems = [" ".join(line.split()) for line in str(error).split("\n")]
            else:
                for kind, keys in zip(("missing", "not in the model"), result):
                    keys = [key for key in keys if key.startswith(watched)]
                    problems += [f"{kind}: {', '.join(keys)}"] if keys else []
                if not problems:
                    return result
        raise ModelError(
            "the checkpoint does not fit the configured model; use the config.yaml "
            f"it was trained with. Parameters {'; '.join(problems)}"
        )


#: modules of ESPnet's models -> the names of ours
NAMES = {
    "espnet2.asr.espnet_model": "AdaStrideASRModel",
    "espnet2.asr.maskctc_model": "AdaStrideMaskCTCModel",
    "espnet2.asr_transducer.espnet_transducer_model": "AdaStrideTransducerModel",
    "espnet2.cls.espnet_model": "AdaStrideCLSModel",
    "espnet2.s2t.espnet_ctc_model": "AdaStrideS2TCTCModel",
    "espnet2.s2t.espnet_model": "AdaStrideS2TModel",
    "espnet2.slu.espnet_model": "AdaStrideSLUModel",
    "espnet2.st.espnet_model": "AdaStrideSTModel",
}


@functools.cache
def adaptive_model(stock: type) -> type:
    """Return a model of NAMES, or a user's subclass, with :class:`DownsamplingModel`.

    Others reject the plugin's input layer: they would train without its losses.
    """
    if issubclass(stock, DownsamplingModel) or getattr(stock, "refuses", False):
        return stock
    if stock.__module__ in NAMES:
        members = {"__doc__": f"ESPnet's {stock.__name__}.", "__module__": __name__}
        return type(NAMES[stock.__module__], (DownsamplingModel, stock), members)
    espnets = stock.__module__.startswith("espnet2.")  # such as several speakers'
    if espnets or not any(kind.__module__ in NAMES for kind in stock.__mro__):
        return _refusing(stock)
    members = {"__doc__": stock.__doc__, "__module__": stock.__module__}
    return type(stock.__name__, (DownsamplingModel, stock), members)


class AdaptiveModels(dict):
    """A task's models, ``{word: class}``, as :func:`adaptive_model` returns them.

    Those that users add later are, too.
    """

    def __getitem__(self, word):
        return adaptive_model(super().__getitem__(word))


def _refusing(stock: type) -> type:
    """Return a model that rejects the plugin's input layer in one line."""

    def __init__(self, *args, **kwargs):
        stock.__init__(self, *args, **kwargs)
        if reporting_part(self) is not None:
            raise ConfigurationError(
                f"model: {stock.__module__}.{stock.__name__} would train without the "
                "losses of the plugin's input layers; take model: espnet or maskctc, "
                "or one of ESPnet's input layers"
            )

    members = {"__init__": __init__, "__signature__": inspect.signature(stock)}
    members.update(__module__=stock.__module__, __doc__=stock.__doc__, refuses=True)
    return type(stock.__name__, (stock,), members)


AdaStrideASRModel = adaptive_model(espnet.ESPnetASRModel)


def __getattr__(name):
    """Return another model of NAMES, for ``import`` and for pickled models."""
    for module, ours in NAMES.items():
        if ours == name:
            kinds = vars(importlib.import_module(module)).values()
            kinds = (kind for kind in kinds if isinstance(kind, type))
            return adaptive_model(next(k for k in kinds if k.__module__ == module))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
