"""A trained model's files: an experiment's folder, or a package.

:func:`find_files` finds configuration and parameters, :func:`read_options` and
:func:`read_parameters` read them, :func:`read_inference_config` reads the options of a
beam search. ``trained.py`` builds the model.

Parameters are loaded with ``weights_only``, so that they run no code, and a package is
unpacked into a temporary folder only (``networks/unpacking.py``).
"""

import inspect
import pickle
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import torch

from espnet_adastride.config import read_config, read_yaml
from espnet_adastride.errors import (
    GIVE_MODEL,
    ConfigurationError,
    ModelError,
    UserError,
    no_such,
    unknown_word,
)
from espnet_adastride.files import PathLike
from espnet_adastride.networks.saved_models import default_model
from espnet_adastride.networks.unpacking import unpack
from espnet_adastride.options import search_numbers
from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.espnet import asr_task

#: options of asr_inference that do not affect the decoding of one utterance
COMMAND_OPTIONS = (
    "allow_variable_data_keys batch_size config data_path_and_name_and_type key_file "
    "log_level ngpu num_workers output_dir seed"
).split()

#: options that name files, with or without a folder
FILE_OPTIONS = ("bpemodel", "stats_file", "token_list", "non_linguistic_symbols")


class ModelFiles(NamedTuple):
    """Where the parts of a model are.

    Attributes:
        config: config.yaml of the training.
        parameters: of the model.
        roots: folders that relative names in the config may start from, best first.
        lm_config: of a language model, or None.
        lm_parameters: or None.
    """

    config: Path
    parameters: Path
    roots: Tuple[Path, ...]
    lm_config: Optional[Path] = None
    lm_parameters: Optional[Path] = None


def _within(root: Path, name: object) -> Optional[Path]:
    """Return the file of that name below root, or None."""
    if not isinstance(name, str) or not name:
        return None
    path = (root / name.lstrip("/")).resolve()
    inside = path.is_relative_to(root.resolve())
    return path if inside and path.is_file() else None


def tails(name: str) -> Iterator[str]:
    """Yield a path and what is left without its first folders, one folder at least."""
    parts = Path(name).parts
    for first in range(len(parts) - 1):
        yield str(Path(*parts[first:]))


def _packed_files(root: Path, shown: PathLike, wanted: Optional[str]) -> ModelFiles:
    try:
        meta = read_yaml(root / "meta.yaml")
        names = {**meta["yaml_files"], **meta["files"]}
    except (UserError, KeyError, TypeError):
        raise ModelError(
            f"{shown}: no meta.yaml that espnet2.bin.pack writes; pack the model with "
            "adastride pack"
        ) from None
    found = {key: _within(root, name) for key, name in names.items()}
    for key in ("asr_train_config", "asr_model_file"):
        if found.get(key) is None:
            raise ModelError(
                f"{shown}: its meta.yaml names no {key} that is in it; pack an ASR "
                "model with adastride pack"
            )
    if wanted is not None:
        outside = Path(wanted) if Path(wanted).is_file() else None
        found["asr_model_file"] = _within(root, wanted) or outside
        if found["asr_model_file"] is None:
            raise ModelError(
                f"{shown}: {wanted} is not in it, nor a file: omit --asr_model_file, "
                "and the packed parameters are used"
            )
    return ModelFiles(
        found["asr_train_config"],
        found["asr_model_file"],
        (root,),
        found.get("lm_train_config"),
        found.get("lm_file"),
    )


def _choose_parameters(folder: Path, wanted: Optional[str]) -> Path:
    if wanted is not None:
        for path in (folder / wanted, Path(wanted)):
            if path.is_file():
                return path
    there = sorted(folder.glob("valid.*.ave.pth"))
    there = there or sorted(folder.glob("valid.*.ave_*best.pth"))  # ESPnet3's
    if wanted is None:
        try:  # the one with which the recipe decodes
            usual = folder / default_model(read_config(folder / "config.yaml"))
        except UserError:
            usual = folder / "valid.acc.ave.pth"
        if usual in there:
            return usual
    if wanted is None and len(there) == 1:
        return there[0]
    names = ", ".join(sorted(p.name for p in folder.glob("*.pth"))) or "none"
    if not there:
        check_task(folder / "config.yaml", read_config(folder / "config.yaml"))
    if wanted is not None:
        problem = f"{wanted} is not there"
    elif there:
        problem = "several averaged models"
    else:
        problem = "no averaged model (valid.*.ave.pth): train it to the end"
    raise ModelError(
        f"{folder}: {problem}; name one with --asr_model_file (there: {names})"
    )


def check_task(config: Path, options: Dict[str, Any]) -> None:
    """Raise a ModelError for a configuration that is not that of an ASR model."""
    if "joint_network_conf" in options:
        raise ModelError(
            f"{config}: a model of the task asr_transducer, which this command does "
            "not read: decode it with espnet2.bin.asr_transducer_inference, or train "
            "decoder: transducer in the task asr (examples/asr_rnnt.yaml)"
        )
    if "encoder" not in options or not options.get("token_list"):
        raise ModelError(
            f"{config}: not the config of an ASR model (no encoder, or no token_list); "
            "give an experiment of the task asr, or copy the file again if it was cut"
        )
    for choices in asr_task.ASRTask.class_choices_list:
        given = options.get(choices.name)
        if given is not None and str(given).lower() not in choices.classes:
            raise ModelError(
                f"{config}: the task asr, whose models this command reads, has no "
                f"{choices.name} {given}; decode models of other tasks with their own "
                "ESPnet commands, or correct the word"
            )


def find_files(model: PathLike, asr_model_file: Optional[str], scratch: Path):
    """Return the ModelFiles of a folder, a .pth file in it, or a package.

    Args:
        model: an experiment's folder, one of its parameter files, a package of
            ``espnet2.bin.pack`` (zip or tar), or the folder that it was unpacked to.
        asr_model_file: parameters in the folder or package, or elsewhere; None: the
            averaged or packed ones.
        scratch: folder to unpack to.

    Raises:
        ModelError: not found, or not a model.
    """
    path = Path(model)
    if not str(model):  # it would be the current folder
        raise ModelError(no_such("", option="the model's name"))
    if path.is_file() and path.suffix == ".onnx":
        raise ModelError(
            f"{model}: an exported model, which deployment.recogniser.OnnxTranscriber "
            f"reads; {GIVE_MODEL}"
        )
    if path.is_file() and path.suffix == ".pth":
        if asr_model_file is not None:
            raise ModelError(
                f"{model}: names the parameters already; omit --asr_model_file "
                f"{asr_model_file}, or give the folder"
            )
        path, asr_model_file = path.parent, path.name
    if path.is_dir():
        if (path / "config.yaml").is_file():
            parameters = _choose_parameters(path, asr_model_file)
            # a recipe's folder is two or more above its experiment's
            parents = path.resolve().parents
            above = [*parents[1:4], parents[0], path.resolve()]
            return ModelFiles(path / "config.yaml", parameters, (*above, Path.cwd()))
        if (path / "meta.yaml").is_file():
            return _packed_files(path, model, asr_model_file)
        raise ModelError(f"{model}: no config.yaml in it; {GIVE_MODEL}")
    if not path.exists():
        raise ModelError(no_such(model, GIVE_MODEL, "file or folder"))
    try:
        unpack(path, scratch / "model")
    except UserError as error:
        raise ModelError(
            f"{error}; give an experiment's folder, or a package"
        ) from None
    return _packed_files(scratch / "model", model, asr_model_file)


def read_options(path: Path, roots: Sequence[Path]) -> Dict[str, Any]:
    """Return a config.yaml's options; what they name is found below the roots.

    A relative name of a file, or one with a ``/`` of a folder (a pretrained encoder's),
    becomes that of the first root that has it.

    Raises:
        UserError, ModelError: if it cannot be read, or a file that the model needs is
            missing.
    """
    options = read_yaml(path)
    if not isinstance(options, dict):
        raise ModelError(f"{path}: holds no options; give a training's config.yaml")

    def fix(key, value):
        if isinstance(value, dict):
            return {name: fix(name, v) for name, v in value.items()}
        if not isinstance(value, str) or not ("/" in value or key in FILE_OPTIONS):
            return value
        if not Path(value).is_absolute():
            places = (root / value for root in roots)
        elif Path(value).is_file():
            return value
        else:  # packed by its full name, or moved together with the configuration
            places = (
                _within(root, tail) for root in roots[:1] for tail in tails(value)
            )

        def there(path):
            return path.is_file() or (path.is_dir() and key not in FILE_OPTIONS)

        return next((str(p) for p in places if p is not None and there(p)), value)

    options = fix("", options)
    options["init"] = None  # parameters come from a file; 202611 lacks some values
    leave_out_unknown(options)
    statistics = (options.get("normalize_conf") or {}).get("stats_file")
    for name in (statistics, options.get("bpemodel")):
        if isinstance(name, str) and not Path(name).is_file():
            raise ModelError(
                f"{path} names {name}, which is not there: copy it with the model, or "
                "pack the model where it was trained (adastride pack)"
            )
    return options


#: options of ESPnet 202611 that change no result: part, option
NEW_OPTIONS = (("decoder", "use_sdpa"), ("preprocessor", "text_length_warning_thres"))


def leave_out_unknown(options: Dict[str, Any]) -> None:
    """Remove, in place, options that change no result and that this ESPnet lacks."""
    for part, word in NEW_OPTIONS:
        choices = getattr(asr_task, f"{part}_choices").classes
        conf, kind = options.get(f"{part}_conf"), choices.get(options.get(part))
        if isinstance(conf, dict) and word in conf and kind is not None:
            if word not in inspect.signature(kind).parameters:
                options[f"{part}_conf"] = {k: v for k, v in conf.items() if k != word}


def read_parameters(path: Path) -> Dict[str, torch.Tensor]:
    """Return the parameters in a file, which may hold only tensors.

    Raises:
        ModelError: if it cannot be read, or holds more than parameters.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = str(error).splitlines()[0]
        raise ModelError(
            f"{path}: not loaded: it is damaged or holds more than parameters "
            f"({first[:80]}); copy it again, or save the model's state_dict alone"
        ) from None
    except Exception as error:  # a damaged file can raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{path}: cannot be read as a model ({first[:80]}); copy it again"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("module"), dict):
        state = state["module"]  # deepspeed's
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]  # Lightning's, by ESPnet3
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise ModelError(f"{path}: holds no model's parameters; give valid.*.ave.pth")
    return state


def read_inference_config(source) -> Dict[str, Any]:
    """Return options of ESPnet's Speech2Text from a YAML file or a dict.

    Raises:
        UserError: the file cannot be read.
        ConfigurationError: naming a wrong key and the choices, or a number out of
            range.
    """
    where = source if isinstance(source, (str, Path)) else "inference_config"
    if isinstance(source, (str, Path)):
        options = read_yaml(source) or {}
    else:
        options = source
    if not isinstance(options, dict):
        raise ConfigurationError(f"{where}: give options such as beam_size: 10")
    own = ("self", "asr_train_config", "asr_model_file", "device", "nbest")
    known = [
        w
        for w in inspect.signature(espnet.Speech2Text.__init__).parameters
        if w not in own
    ]
    for word in options:
        if word not in known and word not in COMMAND_OPTIONS and word not in own:
            raise ConfigurationError(f"{where}: {unknown_word('key', word, known)}")
    for word in ("quantize_asr_model", "quantize_lm", "streaming", "multi_asr"):
        if options.get(word):
            raise ConfigurationError(
                f"{where}: {word} is not supported here; leave it out"
            )
    if options.get("dtype") not in (None, "float32"):
        raise ConfigurationError(
            f"{where}: dtype: {options['dtype']!r} is not supported here; leave it out "
            "(float32)"
        )
    options = {**options, **search_numbers(options, lambda word: where)}
    return {
        word: value
        for word, value in options.items()
        if word in known and word not in COMMAND_OPTIONS
    }
