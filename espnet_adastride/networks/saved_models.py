"""Which model files a training will leave: found out before it runs.

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

from espnet_adastride.errors import RecipeError
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
    """One of ``best_model_criterion``.

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
    """Return the criteria of a configuration, ESPnet's own where it has none.

    Raises:
        RecipeError: for one that is no triple such as ``[valid, acc, max]``.
    """
    given = config.get("best_model_criterion")
    given = CRITERIA if given is None else given
    given = [given] if isinstance(given, str) else given
    criteria = []
    for one in given if isinstance(given, (list, tuple)) else [given]:
        words = one.strip("()[]").split(",") if isinstance(one, str) else one
        if isinstance(words, (list, tuple)) and len(words) == 3:
            words = [str(word).strip() for word in words]
            if words[0] in ("train", "valid") and words[2] in ("min", "max"):
                criteria.append(Criterion(*words))
                continue
        raise RecipeError(
            f"best_model_criterion: {one!r} must be such as [valid, acc, max]: train "
            "or valid, a statistic, min or max"
        )
    return criteria


def read_kept(config: Dict[str, Any]) -> List[int]:
    """Return ``keep_nbest_models``.

    Raises:
        RecipeError: for other than whole numbers from 1 on.
    """
    given = config.get("keep_nbest_models")
    given = [KEPT] if given is None else given
    given = given if isinstance(given, (list, tuple)) else [given]
    try:
        kept = [int(str(word)) for word in given] or [1]
    except ValueError:
        kept = [0]
    if min(kept) < 1:
        raise RecipeError(
            f"keep_nbest_models: {config['keep_nbest_models']} must be whole numbers "
            "from 1 on: so many of the best epochs are averaged (1: the best alone)"
        )
    return kept


def not_reported(config: Dict[str, Any], statistic: str) -> str:
    """Return why a model does not report a statistic; '': it does, or that is unknown.

    Args:
        config: of a training of the task ``asr``.
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


def default_model(config: Dict[str, Any], task: str = "asr") -> str:
    """Return the model file to decode with: the average by the criterion that matters.

    That is the accuracy in validation, as ESPnet's recipes have it; else the first
    other statistic than the loss, else the loss.

    Raises:
        RecipeError: if the model reports none of its criteria: nothing would be kept.
    """
    criteria = read_criteria(config)
    why = {
        c: not_reported(config, c.statistic) if task == "asr" else "" for c in criteria
    }
    kept = [c for c in criteria if not why[c]]
    if not kept:
        first = criteria[0]
        raise RecipeError(
            f"best_model_criterion: {first} is not reported ({why[first]}), and no "
            "other is named: no model would be kept; name e.g. [valid, cer_ctc, min]"
        )

    def preference(criterion: Criterion):
        valid = criterion.phase == "valid"
        return not valid, criterion.statistic != "acc", criterion.statistic == "loss"

    return f"{min(kept, key=preference)}.ave.pth"  # the first among equals


def saved_names(config: Dict[str, Any]) -> List[str]:
    """Return the names of averages and best models that a training will leave."""
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
    """Refuse ``--inference_asr_model`` if the training will leave no such file.

    Args:
        name: of a file in the experiment's folder.
        config: of the training.
        folder: the experiment's; what is there already is taken.

    Raises:
        RecipeError: naming what there will be.
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
        raise RecipeError(
            f"--inference_asr_model {name}: the training will not save it "
            f"(best_model_criterion: {', '.join(map(str, read_criteria(config)))}; "
            f"keep_nbest_models: {', '.join(map(str, read_kept(config)))}); leave it "
            f"out ({default_model(config)}), or name one of: {', '.join(names)}"
        )
