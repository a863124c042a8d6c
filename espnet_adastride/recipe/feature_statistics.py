"""Joining the jobs' statistics into one folder (stages 6 and 10).

The files are ESPnet's: ``{train,valid}/{speech_shape,text_shape,...,feats_stats.npz}``;
those of a language model are ``text_shape`` alone.
"""

from pathlib import Path
from typing import Dict, List

from espnet_adastride.errors import RecipeError
from espnet_adastride.files import PathLike, replace_dir, write_text

# What of a training configuration the statistics depend on.
OPTIONS = ("frontend", "frontend_conf", "input_size", "preprocessor_conf")


def statistics_options(options: Dict[str, str]) -> Dict[str, str]:
    """Pick from flattened options those that change features or shapes."""
    return {k: v for k, v in options.items() if k.split(".")[0] in OPTIONS}


def add_vocabulary_size(folder: Path, token_type: str, tokens: int) -> None:
    """Write ``text_shape.<token_type>``: the shapes with ``,tokens`` appended.

    The batch sampler ``numel`` counts length x vocabulary, so the batch sizes of
    ESPnet's published configurations hold only with it.
    """
    shapes = (folder / "text_shape").read_text(encoding="utf-8").splitlines()
    lines = "".join(f"{line},{tokens}\n" for line in shapes)
    write_text(folder / f"text_shape.{token_type}", lines)


def check_finite(path: PathLike) -> None:
    """Refuse statistics of features that are not numbers.

    Raises:
        RecipeError: naming the file and what leads to it.
    """
    import numpy

    with numpy.load(path) as arrays:
        wrong = [k for k in arrays if not numpy.isfinite(arrays[k]).all()]
    if wrong:
        raise RecipeError(
            f"{path}: {' and '.join(wrong)} of the features are not numbers (NaN, "
            "infinite): a recording of the training set holds such samples, or all "
            "zeros where the logarithm has no floor; run stage 3 again, which names it"
        )


def finish(
    joined: PathLike,
    output: PathLike,
    token_type: str,
    token_list: PathLike,
    text_only: bool = False,
) -> str:
    """Complete joined statistics and put them into their place.

    Args:
        joined: Folder that ``aggregate_stats_dirs`` wrote.
        output: ``asr_stats_dir`` or ``lm_stats_dir``; its ``train`` and ``valid`` are
            replaced.
        text_only: The statistics of a language model: no speech, no features.

    Returns:
        One line on what was made.
    """
    joined, output = Path(joined), Path(output)
    tokens = len(Path(token_list).read_text(encoding="utf-8").splitlines())
    counts: List[int] = []
    for mode in ("train", "valid"):
        add_vocabulary_size(joined / mode, token_type, tokens)
        with (joined / mode / "text_shape").open(encoding="utf-8") as file:
            counts.append(sum(1 for _ in file))
    if not text_only and not (joined / "train" / "feats_stats.npz").exists():
        raise RecipeError(f"{joined}/train: the jobs wrote no feats_stats.npz")
    if not text_only:
        check_finite(joined / "train" / "feats_stats.npz")
    for mode in ("train", "valid"):
        replace_dir(joined / mode, output / mode)
    joined.rmdir()
    return f"{output}: shapes of {counts[0]} training and {counts[1]} validation " + (
        "sentences" if text_only else "utterances, feature statistics"
    )
