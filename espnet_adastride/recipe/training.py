"""The record of what an experiment was started with.

ESPnet resumes from ``checkpoint.pth`` whatever the options are, so a changed
configuration would go on from another model's weights. The driver writes the options
into ``<exp>/.training.json`` first and refuses to go on with others.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Dict, Iterable, List

import yaml

from espnet_adastride.corpora.kaldi import read_utf8
from espnet_adastride.recipe.errors import RecipeError
from espnet_adastride.recipe.files import PathLike, write_text

# Options that may change between two parts of one training.
FREE = {
    "max_epoch",
    "patience",
    "keep_nbest_models",
    "nbest_averaging_interval",
    "num_workers",
    "num_att_plot",
    "log_interval",
    "log_level",
    "use_matplotlib",
    "use_tensorboard",
    "use_wandb",
}


def read_config(path: PathLike) -> dict:
    """Read a YAML configuration.

    Raises:
        RecipeError: It is missing, is no YAML, or is no mapping of options.
    """
    if not Path(path).is_file():
        raise RecipeError(f"{path}: there is no such configuration file")
    try:
        config = yaml.safe_load(read_utf8(path, RecipeError))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise RecipeError(f"{path}: must hold 'option: value' lines")
    return config


def merge_configs(configs: Iterable[dict]) -> dict:
    """Return configurations laid over each other: later ones override.

    Mappings are merged option by option, everything else is replaced.
    """
    merged: dict = {}
    for config in configs:
        for key, value in config.items():
            before = merged.get(key)
            if isinstance(before, dict) and isinstance(value, dict):
                value = merge_configs([before, value])
            merged[key] = value
    return merged


def flatten(config: object, prefix: str = "") -> Dict[str, str]:
    """Turn nested options into ``{"encoder_conf.num_blocks": "12", ...}``."""
    if not isinstance(config, dict) or not config:
        return {prefix: str(config)}
    flat: Dict[str, str] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def refuse_changes(path: PathLike, config: object, holds: str) -> None:
    """Refuse a configuration that is not the one a folder's runs were started with.

    Args:
        path: the file in the folder that the earlier configuration was written to.
        config: the one of now.
        holds: what the folder has, ``runs`` or ``a run``, for the message.

    Raises:
        RecipeError: naming the first word that was changed, and the fix.
    """
    folder = Path(path).parent
    before, after = flatten(read_config(path)), flatten(config)
    for word in sorted({*before, *after}):
        if before.get(word) != after.get(word):
            raise RecipeError(
                f"{folder} holds {holds} of another configuration: {word} was "
                f"{before.get(word)}, is {after.get(word)}; give this one another "
                f"--exp, or remove {folder}"
            )


def claim_run(folder: PathLike, config: dict, result: str) -> None:
    """Write a run's ``training.yaml``, or see that it is the one it was started with.

    Args:
        folder: of the run.
        config: ESPnet's options.
        result: name of the file that says that the run is finished.

    Raises:
        RecipeError: naming what was changed.
    """
    path = Path(folder) / "training.yaml"
    if path.is_file() and any(
        (Path(folder) / name).exists() for name in ("checkpoint.pth", result)
    ):
        refuse_changes(path, config, "a run")
    write_text(path, yaml.safe_dump(config, sort_keys=False))


def read_options(words: List[str]) -> Dict[str, str]:
    """Read command-line options as ESPnet takes them.

    ``--max_epoch 3``, ``--max_epoch=3`` and ``--frontend_conf n_fft=400`` become
    ``{"max_epoch": "3", "frontend_conf.n_fft": "400"}``; an option given several
    times (``--init_param a --init_param b``) keeps its values in order.
    """
    options: Dict[str, str] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if equals:
                _add_option(options, name, value)
        elif name is None:
            raise RecipeError(f"{word!r}: options start with --")
        else:
            _add_option(options, name, word)
    return options


def _add_option(options: Dict[str, str], name: str, value: str) -> None:
    key, equals, setting = value.partition("=")
    if name.endswith("_conf") and equals:
        options[f"{name}.{key}"] = str(yaml.safe_load(setting))
    else:
        options[name] = f"{options[name]} {value}" if name in options else value


def training_options(config: PathLike, arguments: str) -> Dict[str, str]:
    """Return the options of a training: the configuration, then what overrides it."""
    options = flatten(read_config(config)) if config else {}
    options.pop("", None)
    options.update(read_options(arguments.split()))
    return options


def _describe_change(name: str, before: dict, after: dict) -> str:
    if name.startswith("file ") and name in before and name in after:
        return f"the {name} changed"
    return f"{name} was {before.get(name, 'not set')}, is {after.get(name, 'not set')}"


def _whole(path: Path) -> bool:
    """Return whether a file of PyTorch's has its end, without PyTorch."""
    with path.open("rb") as file:
        if file.read(2) not in (b"PK", b""):  # of an older PyTorch: nothing to go by
            return True
    return zipfile.is_zipfile(path)


def check_checkpoint(checkpoint: PathLike) -> None:
    """See that a training can go on from its checkpoint.

    Raises:
        RecipeError: It is cut off; tells what is left of the training.
    """
    checkpoint = Path(checkpoint)
    if _whole(checkpoint):
        return
    folder = checkpoint.parent
    found = {}
    for path in folder.glob("*epoch.pth"):
        number = re.fullmatch(r"(\d+)epoch", path.stem)
        if number and _whole(path):
            found[int(number[1])] = path
    fix = f"remove {folder}: the training starts anew"
    if found:
        last = found[max(found)]
        fix = (
            f"the newest whole model is {last}: start from it under another name, "
            f"--asr_tag NAME --pretrained_model {last}, or remove {folder} to start "
            "anew"
        )
    raise RecipeError(f"{checkpoint} is cut off, and nothing can go on from it; {fix}")


def start_or_resume(record: PathLike, checkpoint: PathLike, options: dict) -> str:
    """Write the record of a new training, or see that an old one may go on.

    Args:
        record: ``.training.json`` in the experiment's folder.
        checkpoint: ``checkpoint.pth`` beside it; without it nothing can be lost.
        options: What the training depends on: names and values.

    Returns:
        One line on what will happen.

    Raises:
        RecipeError: The folder holds a training with other options, or a checkpoint
            that is cut off.
    """
    record, options = Path(record), {k: str(v) for k, v in options.items()}
    text = json.dumps(options, indent=1, sort_keys=True) + "\n"
    if not Path(checkpoint).exists():
        write_text(record, text)
        return "a new training"
    check_checkpoint(checkpoint)
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        write_text(record, text)
        return f"goes on from {checkpoint}, whose options were not recorded"
    names = sorted({*before, *options})
    changed = [k for k in names if before.get(k) != options.get(k)]
    fixed = [k for k in changed if k.split(".")[0] not in FREE]
    if fixed:
        more = f" (and {len(fixed) - 1} more: {', '.join(fixed[1:])})"
        raise RecipeError(
            f"{record.parent} holds a training with another configuration: "
            f"{_describe_change(fixed[0], before, options)}"
            f"{more if len(fixed) > 1 else ''}; give this one another name "
            f"(--asr_tag) or remove {record.parent}"
        )
    write_text(record, text)
    words = [f"{k} {before.get(k)} -> {options.get(k)}" for k in changed]
    return "the configuration it was started with" + "".join(f"; {w}" for w in words)
