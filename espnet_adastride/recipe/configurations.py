"""Check the configurations of training and decoding before a stage starts.

:func:`check` merges them as ESPnet will, has ``known_options.py`` find what is unknown,
and names the place of each word: a file, or the option that overrides it.
"""

import argparse
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from espnet_adastride.config import merge_configs, override, read_config
from espnet_adastride.errors import UserError, located
from espnet_adastride.files import PathLike
from espnet_adastride.networks.saved_models import (
    default_model,
    read_kept,
    refuse_model_that_will_not_be,
)
from espnet_adastride.options import parse_rate, refuse_wide_beam, search_numbers
from espnet_adastride.recipe.known_options import (
    refuse_unknown_decoding,
    refuse_unknown_options,
)


def find_place(files, arguments, option="--asr_args"):
    """Return a function from a word's path to its origin, for messages.

    Args:
        files: {path: configuration}, later ones override.
        arguments: words of the option that overrides them.
        option: its name.
    """
    with located(option):
        given = override({}, arguments)

    def holds(config, path):
        for key in path:
            if not isinstance(config, dict) or key not in config:
                return False
            config = config[key]
        return True

    def place(path):
        if holds(given, path):
            return option
        found = [file for file, config in files.items() if holds(config, path)]
        return found[-1] if found else next(reversed(files), option)

    return place


def read_given(path) -> dict:
    """Return a configuration that the user names.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    config = read_config(path)
    if not config:
        raise UserError(f"{path}: no options in it; fill it, or leave it out")
    return config


def check(args: argparse.Namespace) -> str:
    """Reject what cannot be trained or decoded; return the model file's name."""
    parse_rate(args.fs)
    if args.inference_command:
        files = {}
        if args.inference_config:
            files[args.inference_config] = read_given(args.inference_config)
        words = args.inference_args.split()
        place = find_place(files, words, "--inference_args")
        config = override(merge_configs(files.values()), words)
        refuse_unknown_decoding(config, args.inference_command, place)
    if not args.train:
        path = Path(args.exp, "config.yaml") if args.exp else None
        trained = read_config(path) if path is not None and path.is_file() else {}
        tokens = trained.get("token_list")
        searches = args.inference_command == "espnet2.bin.asr_inference"
        # the transducer's search narrows its beam
        known = searches and isinstance(tokens, list)
        if known and trained.get("decoder") != "transducer":
            numbers = search_numbers(config, lambda word: place([word]))
            beam = int(numbers.get("beam_size", 20))
            refuse_wide_beam(beam, len(tokens), place(["beam_size"]))
        pieces = Path(trained.get("bpemodel") or "")
        if known and pieces.is_file():  # ESPnet's command does not compare them
            # imports NumPy, which no other check needs
            from espnet_adastride.corpora.tokens import check_pieces

            check_pieces(pieces, tokens)
        if args.model or not trained:
            return args.model or "valid.acc.ave.pth"
        return default_model(trained)
    settings = dict(option.partition("=")[::2] for option in args.option)
    paths = [path for path in args.config if path]
    config = check_training(paths, args.arguments, args.task, settings)
    if args.task != "asr":
        return ""
    if args.model:
        refuse_model_that_will_not_be(args.model, config, args.exp)
    return args.model or default_model(config)


def check_training(
    paths: Sequence[PathLike],
    arguments: str,
    task: str = "asr",
    settings: Optional[Dict[str, str]] = None,
) -> Dict[str, Any]:
    """Reject what ESPnet or the plugin would reject; return the configuration.

    Args:
        paths: configurations, later ones override.
        arguments: options that override them (``--asr_args``, ``--lm_args``).
        task: ``asr`` or ``lm``.
        settings: options of the training that the driver sets.
    """
    files = {path: read_given(path) for path in paths}
    words, settings = arguments.split(), settings or {}
    own = find_place(files, words, f"--{task}_args")
    config = override(merge_configs(files.values()), words)

    def place(path):
        return f"--{path[0]}" if path[0] in settings else own(path)

    refuse_unknown_options({**config, **settings}, task, place)
    readers = {"keep_nbest_models": read_kept, "best_model_criterion": default_model}
    for name, read in readers.items() if task == "asr" else ():
        with located(place([name])):
            read(config)
    return config
