"""When the frames of ESPnet's frontends are: hop, centre, receptive field, limits.

=================  ==================================  ===========================
frontend           frame l of n samples is centred on  frames
=================  ==================================  ===========================
default            hop l (without centring: half a     1 + floor(n / hop)
                   window later)
sliding_window     hop l + (window - 1) / 2            floor((n - window) / hop) + 1
wav2vec_cnn        320 l + 199.5 by default            its convolutions'
huggingface        the same for wav2vec 2.0, HuBERT,   its convolutions'
                   WavLM; 320 l + 279.5 for w2v-BERT
s3prl              the same                            ceil(n / 320): ESPnet's S3PRL
                                                       repeats the last frame
whisper            320 l                               ceil(floor(n / 160) / 2)
fused              the mean of its frontends'          the fewest
=================  ==================================  ===========================

The numbers are derived from the frontend's own convolutions and windows, not from its
name. Asking for the times of any other frontend raises :class:`UnknownTimesError`.
"""

import math
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional

import torch

from espnet_adastride.errors import ConfigurationError, UnknownTimesError
from espnet_adastride.plugin.espnet import (
    CNNFrontend,
    FusedFrontends,
    HuggingFaceFrontend,
    LightweightSincConvs,
    LinearProjection,
    S3prlFrontend,
    SlidingWindow,
    WhisperFrontend,
)
from espnet_adastride.plugin.layer_sum import LayerSum
from espnet_adastride.timing.convolutions import (
    Convolution,
    FrameRule,
    shortest,
    stack,
    stacked_length,
)

KNOWN = (
    "default, sliding_window, wav2vec_cnn, whisper, huggingface, s3prl with a "
    "convolutional upstream, and fused of these"
)
FIX = f"known are {KNOWN}; or train on extracted features (docs/pretrained.md)"

#: of S3PRL's models and of OpenAI's Whisper
PRETRAINED_RATE = 16000


@dataclass(frozen=True)
class FrontendFrames:
    """The frames that a frontend makes of samples.

    Attributes:
        words: for messages, e.g. ``huggingface (WavLMModel)``.
        rule: where its frames are, in samples.
        length: from samples to frames.
        rate: samples per second that it expects; None: unknown.
        least: the fewest samples of an utterance.
        least_in_training: the fewest samples of the longest utterance of a training
            batch, if more.
        most: samples that it reads at most; None: all.
        untrainable: why training would fail, with the fix; None: it would not.
    """

    words: str
    rule: FrameRule
    length: Callable[[int], int]
    rate: Optional[int] = None
    least: int = 1
    least_in_training: int = 1
    most: Optional[int] = None
    untrainable: Optional[str] = None

    def needed(self, training: bool) -> int:
        """Return the samples that the longest utterance of a batch needs."""
        return max(self.least, self.least_in_training) if training else self.least

    def describe(self, rate: float) -> str:
        """Return one line on its frames at ``rate`` samples per second."""
        milliseconds = 1000 / rate
        hop, centre, field = (value * milliseconds for value in self.rule)
        return (
            f"frontend {self.words}: {rate / self.rule.hop:.4g} frames a second, frame "
            f"l centred on {hop:.4g} l + {centre:.4g} ms, each made of {field:.4g} ms"
        )


def keeps_frames(preencoder: Optional[torch.nn.Module]) -> bool:
    """Return whether a preencoder keeps the number of frames; None does."""
    kinds = (LayerSum, LightweightSincConvs, LinearProjection)
    return preencoder is None or isinstance(preencoder, kinds)


def _unknown(words: str, why: str) -> UnknownTimesError:
    return UnknownTimesError(
        f"frontend {words}: when its frames are is not known ({why}); {FIX}"
    )


# ------------------------------------------------------------------ one by one
def _fourier(frontend) -> FrontendFrames:
    """A Fourier transform: a centred frame t is at t hops, others half a window later.

    With centring, half a window is reflected at the ends: an utterance needs as much.
    """
    stft = frontend.stft
    half = stft.n_fft // 2
    added = 2 * half if stft.center else 0

    def length(samples):
        return 1 + (samples + added - stft.n_fft) // stft.hop_length

    logmel = getattr(frontend, "logmel", None)
    return FrontendFrames(
        "default",
        FrameRule(stft.hop_length, 0.0 if stft.center else stft.n_fft / 2, stft.n_fft),
        length,
        None if logmel is None else int(logmel.mel_options["sr"]),
        least=half + 1 if stft.center else stft.n_fft,
    )


def _windows(frontend) -> FrontendFrames:
    window = Convolution(frontend.win_length, frontend.hop_length)
    return FrontendFrames(
        "sliding_window", stack([window]), window.length, least=frontend.win_length
    )


def _cnn(frontend) -> FrontendFrames:
    layers = [Convolution(one.kernel_size, one.stride) for one in frontend.layers]
    return FrontendFrames(
        "wav2vec_cnn",
        stack(layers),
        lambda samples: stacked_length(samples, layers),
        least=shortest(layers),
    )


def _whisper(frontend) -> FrontendFrames:
    """OpenAI's Whisper: two convolutions over centred mel frames, and 30 s at most."""
    encoder, hop = frontend.whisper.encoder, frontend.hop_length
    layers = [
        Convolution(one.kernel_size[0], one.stride[0], one.padding[0])
        for one in (encoder.conv1, encoder.conv2)
    ]
    positions = len(encoder.positional_embedding)

    def length(samples):
        return min(stacked_length(samples // hop, layers), positions)

    mels = FrameRule(hop, 0.0, frontend.n_fft)
    most = positions * hop * math.prod(one.stride for one in layers)
    return FrontendFrames(
        "whisper",
        stack(layers, mels),
        length,
        PRETRAINED_RATE,
        least=max(frontend.n_fft // 2 + 1, hop),
        most=most,
    )


def _huggingface(frontend) -> FrontendFrames:
    encoder, processor = frontend.encoder, frontend.processor
    words = f"huggingface ({type(encoder).__name__})"
    if not hasattr(frontend, "waveform_input"):
        raise ConfigurationError(
            f"frontend {words}: this ESPnet takes its samples for frames; use ESPnet "
            "202609 or later (Python 3.12 or later), or frontend s3prl"
        )
    config = encoder.config
    if not frontend.waveform_input:
        return _seamless(processor, config, words)
    kernels = getattr(config, "conv_kernel", None)
    strides = getattr(config, "conv_stride", None)
    if not kernels or not strides:
        raise _unknown(words, "its configuration names no convolutions")
    layers = list(map(Convolution, kernels, strides))
    above: List[Convolution] = []
    if getattr(config, "add_adapter", False):
        one = Convolution(config.adapter_kernel_size, config.adapter_stride, 1)
        above = [one] * config.num_adapter_layers

    def length(samples):
        if samples < shortest(layers):
            return 0  # transformers' own formula would go below 0
        return int(encoder._get_feat_extract_output_lengths(samples))

    return FrontendFrames(
        words,
        stack(layers + above),
        length,
        int(processor.sampling_rate),
        least=shortest(layers),
        least_in_training=shortest(layers, _masked_frames(config)),
    )


def _masked_frames(config) -> int:
    """Return the length in frames of a ``transformers`` model's masks in training.

    It rejects batches that are shorter.
    """
    masks = getattr(config, "apply_spec_augment", True)
    if not masks or not getattr(config, "mask_time_prob", 0) > 0:
        return 1
    return int(config.mask_time_length)


def _seamless(processor, config, words: str) -> FrontendFrames:
    """w2v-BERT: mel frames of 25 ms every 10 ms, two of which make a frame."""
    if type(processor).__name__ != "SeamlessM4TFeatureExtractor":
        raise _unknown(words, f"its frames are made by a {type(processor).__name__}")
    if getattr(config, "add_adapter", False):
        raise _unknown(words, "its adapter shortens what ESPnet counts")
    # what the package's extractor does, whatever its sampling rate
    mels = [Convolution(400, 160), Convolution(processor.stride, processor.stride)]
    return FrontendFrames(
        words,
        stack(mels),
        lambda samples: stacked_length(samples, mels),
        int(processor.sampling_rate),
        least=shortest(mels),
        # an odd mel frame at the end counts for the batch, not for the utterance
        least_in_training=shortest(
            mels[:1], (_masked_frames(config) - 1) * processor.stride + 1
        ),
    )


def _s3prl(frontend) -> FrontendFrames:
    """S3PRL: ceil(n / hop) frames; convolutions give fewer, the last is repeated."""
    upstream = frontend.upstream.upstream
    words = f"s3prl ({type(upstream).__module__.split('.')[-2:][0]})"
    if frontend.tile_factor != 1 and frontend.layer == -1:
        raise ConfigurationError(
            f"frontend {words}: with tile_factor ESPnet repeats frames and does not "
            "count them, and utterances would be cut short: leave it out"
        )
    hop = frontend.hop_length
    layers = _extractor(upstream)
    if layers is None or math.prod(one.stride for one in layers) != hop:
        raise _unknown(
            words, f"it has no convolutions over samples with a hop of {hop}"
        )
    configs = [getattr(module, "config", None) for module in upstream.modules()]
    masked = max((_masked_frames(one) for one in configs if one is not None), default=1)
    return FrontendFrames(
        words,
        stack(layers),
        lambda samples: -(-samples // hop),
        PRETRAINED_RATE,
        least_in_training=shortest(layers, masked) if masked > 1 else 1,
        untrainable=_dropped_layers(configs),
    )


def _dropped_layers(configs) -> Optional[str]:
    """Return why S3PRL cannot train: it counts layers, and transformers drops some."""
    if not any(getattr(config, "layerdrop", 0) for config in configs):
        return None
    return (
        "S3PRL stops in training whenever transformers leaves out a layer: set "
        "layerdrop to 0.0 in the model's config.json, or use frontend huggingface"
    )


def _extractor(upstream: torch.nn.Module) -> Optional[List[Convolution]]:
    """Return the convolutions of a ``feature_extractor``, or None if there is none.

    HuBERT's, wav2vec 2.0's, WavLM's ... of fairseq and of transformers alike: a list
    ``conv_layers``, in each of whose entries is one convolution.
    """
    found = [
        module.conv_layers
        for module in upstream.modules()
        if isinstance(getattr(module, "conv_layers", None), torch.nn.ModuleList)
    ]
    if len(found) != 1:
        return None
    layers = []
    for entry in found[0]:
        inside = [m for m in entry.modules() if isinstance(m, torch.nn.Conv1d)]
        if len(inside) != 1:
            return None
        (one,) = inside
        layers.append(Convolution(one.kernel_size[0], one.stride[0], one.padding[0]))
    return layers


def _fused(frontend) -> FrontendFrames:
    """Frontends side by side, each frame cut in as many as the common hop needs."""
    parts = [frontend_frames(one) for one in frontend.frontends]
    hop, factors = int(frontend.gcd), [int(one) for one in frontend.factors]
    centres = [
        part.rule.centre - (factor - 1) / 2 * hop
        for part, factor in zip(parts, factors)
    ]
    starts = [c - part.rule.field / 2 for c, part in zip(centres, parts)]
    ends = [c + part.rule.field / 2 for c, part in zip(centres, parts)]
    rates = {part.rate for part in parts if part.rate is not None}
    return FrontendFrames(
        f"fused ({', '.join(part.words for part in parts)})",
        FrameRule(hop, sum(centres) / len(centres), math.ceil(max(ends) - min(starts))),
        lambda n: min(part.length(n) * f for part, f in zip(parts, factors)),
        rates.pop() if len(rates) == 1 else None,
        least=max(part.least for part in parts),
        least_in_training=max(part.least_in_training for part in parts),
    )


_RULES: Dict[type, Callable] = {
    SlidingWindow: _windows,
    CNNFrontend: _cnn,
    WhisperFrontend: _whisper,
    HuggingFaceFrontend: _huggingface,
    S3prlFrontend: _s3prl,
    FusedFrontends: _fused,
}


# ------------------------------------------------------------------ of a model
def frontend_frames(frontend: torch.nn.Module) -> FrontendFrames:
    """Return the rules of a frontend's frames.

    Raises:
        UnknownTimesError: not known; the message lists the known frontends.
        ConfigurationError: ESPnet counts its frames wrongly.
    """
    if getattr(frontend, "stft", None) is not None:
        return _fourier(frontend)
    for kind, rule in _RULES.items():
        if isinstance(frontend, kind):
            return rule(frontend)
    raise _unknown(type(frontend).__name__, "it is none of those below")


def frontend_if_known(frontend: Optional[torch.nn.Module]) -> Optional[FrontendFrames]:
    """Return :func:`frontend_frames`; None: not known, or there is no frontend."""
    if frontend is None:
        return None
    try:
        return frontend_frames(frontend)
    except UnknownTimesError:
        return None


def model_frames(model: torch.nn.Module) -> Optional[FrontendFrames]:
    """Return the rules of the frames that a model's encoder reads.

    Returns:
        None for a model without a frontend, which reads features.

    Raises:
        UnknownTimesError, ConfigurationError: as :func:`frontend_frames`, or for a
            preencoder that may change the number of frames.
    """
    preencoder = getattr(model, "preencoder", None)
    if not keeps_frames(preencoder):
        raise UnknownTimesError(
            f"preencoder {type(preencoder).__name__}: when its frames are is not "
            "known; known are linear, sinc and layer_sum"
        )
    frontend = getattr(model, "frontend", None)
    return None if frontend is None else frontend_frames(frontend)


def why_unknown(model: torch.nn.Module) -> Optional[str]:
    """Return why the times of the frames before the encoder are unknown, or None."""
    try:
        model_frames(model)
    except (ConfigurationError, UnknownTimesError) as error:
        return str(error)
    return None
