"""The configuration of a classifier: every number of a run, from one YAML file.

Such as ``conf/train_speech_commands.yaml``; no option has a default.
"""

import dataclasses
import math

from espnet_adastride.config import read_config
from espnet_adastride.corpora.clips import LAYOUTS, SPLITS
from espnet_adastride.errors import UserError, unknown_word
from espnet_adastride.networks.classifier import NetworkOptions


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """``data:`` of the YAML file; words of ``clips.LAYOUTS`` and ``clips.SPLITS``."""

    layout: str
    split: str


@dataclasses.dataclass(frozen=True)
class FeatureOptions:
    """``features:`` log-mel frames, Hann windows of ``n_fft`` samples."""

    sample_rate: int
    n_fft: int
    hop_length: int
    n_mels: int


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """``training:`` of :func:`train`."""

    epochs: int
    batch_size: int
    lr: float
    warmup_epochs: float
    decay: float
    weight_decay: float
    grad_clip: float
    label_smoothing: float
    vp_weight: float
    mask_mels: int
    mask_frames: int


#: words whose value must not be 0, by section
POSITIVE = [("features", field.name) for field in dataclasses.fields(FeatureOptions)]
POSITIVE += [("training", word) for word in "epochs batch_size lr grad_clip".split()]


@dataclasses.dataclass(frozen=True)
class Options:
    """A configuration file: all of its sections, all of their words, no defaults."""

    data: DataOptions
    features: FeatureOptions
    network: NetworkOptions
    training: TrainingOptions


def read_options(path) -> Options:
    """Read a configuration file.

    Raises:
        UserError: a word is unknown, missing or of another type; names the choices.
    """
    config = read_config(path)
    kinds = {field.name: field.type for field in dataclasses.fields(Options)}
    _check_words(path, "section", config, kinds)
    sections = {}
    for name, kind in kinds.items():
        section = config[name] if isinstance(config[name], dict) else {}
        types = {field.name: field.type for field in dataclasses.fields(kind)}
        _check_words(path, f"word of {name}", section, types)
        for word, wanted in types.items():
            value = section[word]
            allowed = (int, float) if wanted is float else wanted
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise UserError(
                    f"{path}: {name}.{word} must be of type {wanted.__name__}, "
                    f"got {value!r}"
                )
            if wanted in (int, float) and not 0 <= value < math.inf:
                raise UserError(
                    f"{path}: {name}.{word} must be a number of 0 or more, got {value}"
                )
        sections[name] = kind(**section)
    options = Options(**sections)
    for word, choices in (("layout", LAYOUTS), ("split", SPLITS)):
        given = getattr(options.data, word)
        if given not in choices:
            raise UserError(f"{path}: {unknown_word(word, given, choices)}")
    for name, word in POSITIVE:
        if getattr(getattr(options, name), word) == 0:
            raise UserError(f"{path}: {name}.{word} must be above 0")
    for name, word in (("training", "label_smoothing"), ("network", "dropout")):
        if getattr(getattr(options, name), word) >= 1:
            raise UserError(f"{path}: {name}.{word} must be below 1")
    return options


def _check_words(path, kind, given, known):
    for word in given:
        if word not in known:
            raise UserError(f"{path}: {unknown_word(kind, word, known)}")
    missing = [word for word in known if word not in given]
    if missing:
        raise UserError(f"{path}: {kind} is missing: {', '.join(missing)}")
