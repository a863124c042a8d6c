"""The record of the options with which an experiment was started.

ESPnet resumes from ``checkpoint.pth`` whatever the options are, so a changed
configuration would resume from another model's weights. The driver therefore writes the
options into ``<exp>/.training.json`` first and rejects other options later.
"""

import json
import re
import zipfile
from pathlib import Path

from espnet_adastride.config import changes
from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike, write_text

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


def _describe_change(name: str, before: dict, after: dict) -> str:
    if name.startswith("file ") and name in before and name in after:
        return f"the {name} changed"
    # an option without a value, such as pretrained_model, is recorded as ""
    return (
        f"{name} was {before.get(name) or 'not set'}, is {after.get(name) or 'not set'}"
    )


def _whole(path: Path) -> bool:
    """Return whether a PyTorch file is complete, without loading PyTorch."""
    with path.open("rb") as file:
        if file.read(2) not in (b"PK", b""):  # an older format, which cannot be checked
            return True
    return zipfile.is_zipfile(path)


def check_checkpoint(checkpoint: PathLike) -> None:
    """Check that a training can resume from its checkpoint.

    Raises:
        UserError: It is truncated; names the remaining models.
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
    fix = f"remove {folder} to start over"
    if found:
        last = found[max(found)]
        fix = (
            f"the newest complete model is {last}: start from it with another name, "
            f"--asr_tag NAME --pretrained_model {last}, or remove {folder} to start "
            "again"
        )
    raise UserError(
        f"{checkpoint} is truncated, so training cannot resume from it; {fix}"
    )


def _holds_models(folder: Path) -> bool:
    """Return whether a training has saved models: of epochs, best ones or averages."""
    patterns = ("*epoch.pth", "*.best.pth", "*.ave*.pth")
    return any(path for pattern in patterns for path in folder.glob(pattern))


def start_or_resume(record: PathLike, checkpoint: PathLike, options: dict) -> str:
    """Write the record of a new training, or check that an old one may resume.

    Args:
        record: ``.training.json`` in the experiment's folder.
        checkpoint: ``checkpoint.pth`` next to it; without it a training starts over.
        options: Options of the training: names and values.

    Returns:
        One line about the next step.

    Raises:
        UserError: The folder holds a training with other options, or a checkpoint
            that is truncated; or a training with any other option would start over
            and replace its models.
    """
    record, options = Path(record), {k: str(v) for k, v in options.items()}
    text = json.dumps(options, indent=1, sort_keys=True) + "\n"
    resumes = Path(checkpoint).exists()
    if resumes:
        check_checkpoint(checkpoint)
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if before is None or not (resumes or _holds_models(record.parent)):
        write_text(record, text)
        if not resumes:
            return "a new training"
        return f"resumes from {checkpoint}, whose options were not recorded"
    changed = list(changes(before, options))
    fixed = [w for w, _, _ in changed if not resumes or w.split(".")[0] not in FREE]
    if fixed:
        more = f" (and {len(fixed) - 1} more: {', '.join(fixed[1:])})"
        why = "" if resumes else f", and {checkpoint}, to resume from, is missing"
        raise UserError(
            f"{record.parent} holds a training with another configuration: "
            f"{_describe_change(fixed[0], before, options)}"
            f"{more if len(fixed) > 1 else ''}{why}; give this training another name "
            f"(--asr_tag) or remove {record.parent}"
        )
    write_text(record, text)
    if not resumes:
        return "a new training"
    words = [f"; {word} {old} -> {new}" for word, old, new in changed]
    return "the configuration it was started with" + "".join(words)
