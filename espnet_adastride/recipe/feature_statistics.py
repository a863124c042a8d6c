"""Join the jobs' statistics into one folder (stages 6 and 10).

The files are ESPnet's: ``{train,valid}/{speech_shape,text_shape,...,feats_stats.npz}``;
a language model only has ``text_shape``.
"""

import ast
from pathlib import Path
from typing import Dict, List

from espnet_adastride.config import changes
from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike, replace_dir, write_text
from espnet_adastride.recipe import espnet_source as source
from espnet_adastride.recipe.stamps import Stamp, recorded_options

# Options of a training configuration on which the statistics depend.
OPTIONS = ("frontend", "frontend_conf", "input_size", "preprocessor_conf")


def statistics_options(options: Dict[str, str]) -> Dict[str, str]:
    """Select the flattened options that change features or shapes."""
    return {k: v for k, v in options.items() if k.split(".")[0] in OPTIONS}


def _feature_options(options: Dict[str, str]) -> Dict[str, str]:
    """Select the flattened options that change features; those with defaults are not.

    Nor are ``fs``, which the driver gives, and augmentation (``preprocessor_conf``),
    which is off in stage 10.
    """
    choice = source.class_choices("espnet2.tasks.asr")["frontend"]
    word = options.get("frontend", str(choice.default)).lower()
    defaults = {"frontend": choice.default, "frontend_conf": "{}", "input_size": "None"}
    if word in choice.classes:
        reference = source.find_class(*choice.classes[word])
        arguments = reference and source.constructor(reference)
        for name, argument in (arguments or {}).items():
            if isinstance(argument.default, ast.Constant):
                defaults[f"frontend_conf.{name}"] = str(argument.default.value)
    return {
        name: value
        for name, value in options.items()
        if name.split(".")[0] in ("frontend", "frontend_conf", "input_size")
        and name != "frontend_conf.fs"
        and defaults.get(name) != value
    }


def check_features(folder: PathLike, options: Dict[str, str]) -> None:
    """Check that statistics are those of the features that a training computes.

    Args:
        folder: ``asr_stats_dir``; one without a record of stage 10 passes.
        options: flattened options of the training.

    Raises:
        UserError: stage 10 computed other features; naming the first option.
    """
    recorded = recorded_options(Stamp(Path(folder) / ".stage_done"))
    if source.parse("espnet2.tasks.asr") is None:
        return  # ESPnet is missing: the commands that need it report that
    try:
        before = ast.literal_eval(recorded["configuration"])
    except (KeyError, SyntaxError, ValueError):
        return
    for name, old, new in changes(_feature_options(before), _feature_options(options)):
        raise UserError(
            f"{folder} has the statistics of other features: {name} was "
            f"{old or 'not set'}, is {new or 'not set'}; begin with --stage 10, and to "
            "keep these, give another --asr_stats_dir, too"
        )


def add_vocabulary_size(folder: Path, token_type: str, tokens: int) -> None:
    """Write ``text_shape.<token_type>``: the shapes with ``,tokens`` appended.

    The batch sampler ``numel`` counts length x vocabulary, so the batch sizes of
    ESPnet's published configurations only apply with it.
    """
    shapes = (folder / "text_shape").read_text(encoding="utf-8").splitlines()
    lines = "".join(f"{line},{tokens}\n" for line in shapes)
    write_text(folder / f"text_shape.{token_type}", lines)


def check_finite(path: PathLike) -> None:
    """Reject non-finite statistics of features.

    Raises:
        UserError: naming the file and the cause.
    """
    import numpy

    with numpy.load(path) as arrays:
        wrong = [k for k in arrays if not numpy.isfinite(arrays[k]).all()]
    if wrong:
        raise UserError(
            f"{path}: {' and '.join(wrong)} of the features are not finite (NaN, "
            "infinity): a training recording has such samples, or only "
            "zeros if the logarithm has no floor; run stage 3 again to find it"
        )


def finish(
    joined: PathLike,
    output: PathLike,
    token_type: str,
    token_list: PathLike,
    text_only: bool = False,
) -> str:
    """Complete joined statistics and move them into place.

    Args:
        joined: Folder written by ``aggregate_stats_dirs``.
        output: ``asr_stats_dir`` or ``lm_stats_dir``; its ``train`` and ``valid`` are
            replaced.
        text_only: The statistics of a language model: no speech, no features.

    Returns:
        One line about the result.
    """
    joined, output = Path(joined), Path(output)
    tokens = len(Path(token_list).read_text(encoding="utf-8").splitlines())
    counts: List[int] = []
    for mode in ("train", "valid"):
        add_vocabulary_size(joined / mode, token_type, tokens)
        with (joined / mode / "text_shape").open(encoding="utf-8") as file:
            counts.append(sum(1 for _ in file))
    if not text_only and not (joined / "train" / "feats_stats.npz").exists():
        raise UserError(
            f"{joined}/train: no feats_stats.npz from the jobs; run stage 10 again"
        )
    if not text_only:
        check_finite(joined / "train" / "feats_stats.npz")
    for mode in ("train", "valid"):
        replace_dir(joined / mode, output / mode)
    joined.rmdir()
    return f"{output}: shapes of {counts[0]} training and {counts[1]} validation " + (
        "sentences" if text_only else "utterances, feature statistics"
    )
