"""YAML configurations: read, merge, compare with the one a folder was made with.

Options are ESPnet's: nested in YAML, flat (``encoder_conf.num_blocks``) where they are
compared, and as words of a command line (``--encoder_conf num_blocks=2``).
"""

from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence

import yaml

from espnet_adastride.errors import UserError, no_such
from espnet_adastride.files import PathLike, read_utf8


def parse_yaml(text: str, where: object) -> Any:
    """Return what a YAML text holds; ``where``, its file or option, is for the error.

    Raises:
        UserError: It is no YAML; the message names the line and the column.
    """
    try:
        return yaml.safe_load(text)
    # ValueError: a date of month 13
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{where}: not YAML: {reason}{place}") from None


def read_yaml(path: PathLike) -> Any:
    """Return what a YAML file holds.

    Raises:
        UserError: It is missing, not UTF-8 or no YAML; the message names the line.
    """
    return parse_yaml(read_utf8(path), path)


def read_config(path: PathLike) -> dict:
    """Read a YAML configuration.

    Raises:
        UserError: It is missing, is no YAML, or is no mapping of options.
    """
    if not Path(path).is_file():
        raise UserError(no_such(path, what="configuration file"))
    config = read_yaml(path)
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise UserError(f"{path}: must hold 'option: value' lines")
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


def map_strings(value: Any, change: Callable[[str], Any]) -> Any:
    """Return a configuration with all of its strings changed, keys left alone."""
    if isinstance(value, dict):
        return {key: map_strings(one, change) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_strings(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def flatten(config: object, prefix: str = "") -> Dict[str, str]:
    """Turn nested options into ``{"encoder_conf.num_blocks": "12", ...}``."""
    if not isinstance(config, dict) or not config:
        return {prefix: str(config)} if prefix else {}
    flat: Dict[str, str] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def changes(before: Dict[str, str], after: Dict[str, str]) -> Iterator[tuple]:
    """Yield each word with its two values in flat configurations that differ."""
    for word in sorted({*before, *after}):
        if before.get(word) != after.get(word):
            yield word, before.get(word), after.get(word)


def refuse_changes(
    folder: PathLike, earlier: object, config: object, holds: str
) -> None:
    """Refuse a configuration that is not the one a folder's runs were started with.

    Args:
        folder: of the runs, for the message.
        earlier: the configuration that they have.
        config: the current one.
        holds: what the folder has, ``runs`` or ``a run``, for the message.

    Raises:
        UserError: naming the first word that was changed, and the fix.
    """
    for word, before, after in changes(flatten(earlier), flatten(config)):
        raise UserError(
            f"{folder} holds {holds} of another configuration: {word} was {before}, "
            f"is {after}; give this one another --exp, or remove {folder}"
        )


def split_options(words: Iterable[str]) -> Dict[str, List[str]]:
    """Return the values of each option: ``--a 1 2 --b=3`` is {a: [1, 2], b: [3]}.

    Raises:
        UserError: The first word is not an option.
    """
    options: Dict[str, List[str]] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            options.setdefault(name, []).extend([value] if equals else [])
        elif name is None:
            raise UserError(f"{word!r}: options start with --")
        else:
            options[name].append(word)
    return options


def override(config: Dict[str, Any], words: Sequence[str]) -> Dict[str, Any]:
    """Return a configuration overridden by nested command-line options.

    Args:
        config: as read from YAML.
        words: ``--max_epoch 3 --encoder_conf input_layer_conf.stride=8``.

    Raises:
        UserError: for words that are not options.
    """
    result = dict(config)
    for name, values in split_options(words).items():
        if not name.endswith("_conf"):
            result[name] = values[0] if len(values) == 1 else values
            continue
        for value in values:
            where = f"--{name} {value}"
            key, equals, setting = value.partition("=")
            if equals:
                _put(result, [name, *key.split(".")], parse_yaml(setting, where))
                continue
            options = parse_yaml(value, where)
            if not isinstance(options, dict):
                raise UserError(f"{where}: give KEY=VALUE")
            result[name] = {**(result.get(name) or {}), **options}
    return result


def _put(config: Dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        inner = config.get(key)
        config[key] = dict(inner) if isinstance(inner, dict) else {}
        config = config[key]
    config[path[-1]] = value


def training_options(config: PathLike, arguments: str) -> Dict[str, str]:
    """Return the flat options of a training: the configuration, then what overrides it.

    ``--max_epoch 3``, ``--max_epoch=3`` and ``--frontend_conf n_fft=400`` become
    ``{"max_epoch": "3", "frontend_conf.n_fft": "400"}``; an option given several times
    (``--init_param a --init_param b``) keeps its values in order.
    """
    given = override({}, arguments.split())
    words = {k: " ".join(v) if isinstance(v, list) else v for k, v in given.items()}
    return {**flatten(read_config(config) if config else {}), **flatten(words)}
