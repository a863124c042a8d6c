"""Determine the model files that a training will save before it runs.

ESPnet keeps the models of the best epochs by each criterion of ``best_model_criterion``
that the model reports, and averages ``keep_nbest_models`` of them::

    valid.acc.ave.pth          the average; a link to the next
    valid.acc.ave_10best.pth
    valid.acc.best.pth         of the best epoch
    latest.pth, 12epoch.pth
"""

import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike

# ESPnet's defaults
CRITERIA = (
    ("train", "loss", "min"),
    ("valid", "loss", "min"),
    ("train", "acc", "max"),
    ("valid", "acc", "max"),
)
KEPT, EPOCHS = 10, 40


class Criterion(NamedTuple):
    """One criterion of ``best_model_criterion``.

    Attributes:
        phase: ``train`` or ``valid``.
        statistic: e.g. ``acc``.
        mode: ``min`` or ``max``.
    """

    phase: str
    statistic: str
    mode: str

    def __str__(self):
        return f"{self.phase}.{self.statistic}"


def read_criteria(config: Dict[str, Any]) -> List[Criterion]:
    """Return the criteria of a configuration, by default ESPnet's own.

    Raises:
        UserError: for a criterion that is not a triple such as ``[valid, acc, max]``.
    """
    given = config.get("best_model_criterion")
    given = CRITERIA if given is None else given
    given = [given] if isinstance(given, str) else given
    criteria = []
    several = isinstance(given, (list, tuple)) and len(given) > 0
    for one in given if several else [given]:
        words = one.strip("()[]").split(",") if isinstance(one, str) else one
        if isinstance(words, (list, tuple)) and len(words) == 3:
            words = [str(word).strip() for word in words]
            if words[0] in ("train", "valid") and words[2] in ("min", "max"):
                criteria.append(Criterion(*words))
                continue
        raise UserError(
            f"best_model_criterion: {one!r} must have the form [valid, acc, max]: "
            "train or valid, a statistic, min or max"
        )
    return criteria


def read_kept(config: Dict[str, Any]) -> List[int]:
    """Return ``keep_nbest_models``.

    Raises:
        UserError: for values that are not whole numbers of at least 1.
    """
    given = config.get("keep_nbest_models")
    given = [KEPT] if given is None else given
    given = given if isinstance(given, (list, tuple)) else [given]
    try:
        kept = [int(str(word)) for word in given] or [1]
    except ValueError:
        kept = [0]
    if min(kept) < 1:
        raise UserError(
            f"keep_nbest_models: {config['keep_nbest_models']} must be whole numbers "
            "of at least 1: the number of averaged best epochs (1: only the best)"
        )
    return kept


def not_reported(config: Dict[str, Any], statistic: str) -> str:
    """Return why a model does not report a statistic; '': it does, or unknown.

    Args:
        config: training configuration of the task ``asr``.
    """
    if config.get("model", "espnet") != "espnet":
        return ""
    weight = (config.get("model_conf") or {}).get("ctc_weight", 0.5)
    decoder = config.get("decoder")
    if statistic in ("acc", "cer", "wer", "loss_att"):
        if weight == 1:
            return "model_conf: ctc_weight is 1, so there is no attention decoder"
        if decoder in (None, "none", "transducer"):
            return f"decoder is {decoder}, not one with attention"
    if statistic in ("cer_ctc", "loss_ctc") and weight == 0:
        return "model_conf: ctc_weight is 0, so there is no CTC"
    if statistic.endswith("_transducer") and decoder != "transducer":
        return f"decoder is {decoder}, not transducer"
    return ""


def default_model(config: Dict[str, Any]) -> str:
    """Return the model file to decode with: the average by the most relevant criterion.

    That is validation accuracy, as in ESPnet's recipes; otherwise the first statistic
    other than the loss; otherwise the loss.

    Raises:
        UserError: if the model reports none of its criteria: no model would be kept.
    """
    criteria = read_criteria(config)
    why = {c: not_reported(config, c.statistic) for c in criteria}
    kept = [c for c in criteria if not why[c]]
    if not kept:
        first = criteria[0]
        raise UserError(
            f"best_model_criterion: {first} is not reported ({why[first]}), and no "
            "other criterion is given, so no model would be kept; add e.g. [valid, "
            "cer_ctc, min]"
        )

    def preference(criterion: Criterion):
        valid = criterion.phase == "valid"
        return not valid, criterion.statistic != "acc", criterion.statistic == "loss"

    return f"{min(kept, key=preference)}.ave.pth"  # the first of equals


def saved_names(config: Dict[str, Any]) -> List[str]:
    """Return the names of averages and best models that a training will save."""
    last = int(config.get("max_epoch") or EPOCHS)
    kept = read_kept(config)
    averages = [n for n in kept if n <= last] or [1]
    names = []
    for criterion in read_criteria(config):
        if not not_reported(config, criterion.statistic):
            names += [f"{criterion}.ave.pth", f"{criterion}.best.pth"]
            names += [f"{criterion}.ave_{n}best.pth" for n in averages]
    return names


def refuse_model_that_will_not_be(
    name: str, config: Dict[str, Any], folder: Optional[PathLike] = None
) -> None:
    """Reject ``--inference_asr_model`` if the training will not save that file.

    Args:
        name: name of a file in the experiment's folder.
        config: training configuration.
        folder: folder of the experiment; existing files are accepted.

    Raises:
        UserError: naming the files that will be saved.
    """
    if folder is not None and (Path(folder) / name).exists():
        return
    last = int(config.get("max_epoch") or EPOCHS)
    epoch = re.fullmatch(r"(\d+)epoch\.pth", name)
    if name == "latest.pth" or epoch and 1 <= int(epoch[1]) <= last:
        return
    if re.search(r"\.till\d+epoch\.pth$", name) and config.get(
        "nbest_averaging_interval"
    ):
        return
    names = saved_names(config)
    if name not in names:
        raise UserError(
            f"--inference_asr_model {name}: the training will not save it "
            f"(best_model_criterion: {', '.join(map(str, read_criteria(config)))}; "
            f"keep_nbest_models: {', '.join(map(str, read_kept(config)))}); omit "
            f"it ({default_model(config)}), or give one of: {', '.join(names)}"
        )
