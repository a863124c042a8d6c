"""What classifiers and VQ-VAEs check and complete in an ESPnet configuration."""

from typing import Any, Dict, Iterable

from espnet_adastride.config import merge_configs
from espnet_adastride.errors import UserError, unknown_word
from espnet_adastride.networks.saved_models import Criterion, read_criteria
from espnet_adastride.recipe.espnet_source import command_options
from espnet_adastride.recipe.known_options import refuse_unknown_options


def shared_options() -> Iterable[str]:
    """Return the options that every task of ESPnet has, such as ``optim_conf``."""
    return command_options("espnet2.tasks.abs_task") or ()


def complete_options(task, config: Dict[str, Any]) -> Dict[str, Any]:
    """Return a training's options: a configuration over the defaults of ESPnet's task.

    Raises:
        UserError: an option is unknown, an option that all tasks have is of the wrong
            type, or a number of steps is no whole number.
    """
    options = vars(task.get_parser().parse_args([]))
    for word in config:
        if word not in options:
            raise UserError(unknown_word("option of the training", word, options))
    shared = shared_options()
    refuse_unknown_options(
        {word: value for word, value in config.items() if word in shared},
        "abs_task",
        lambda path: "options of the training",
    )
    options = merge_configs([options, config])
    for word in ("max_epoch", "accum_grad", "batch_size", "num_iters_per_epoch"):
        value = options[word]
        if value is None and word == "num_iters_per_epoch":
            continue  # as many as there are batches
        if not str(value).isdecimal() or not int(value):
            raise UserError(f"{word}: give a whole number, 1 or more, got {value!r}")
        options[word] = int(value)
    return options


def check_criterion(options: Dict[str, Any], criterion: Criterion) -> None:
    """Reject options with which ESPnet does not keep the model that is tested.

    Raises:
        UserError: with the missing entry of ``best_model_criterion``.
    """
    if criterion not in read_criteria(options):
        raise UserError(
            f"best_model_criterion: the model with the best {criterion.phase} "
            f"{criterion.statistic} is tested; add [{', '.join(criterion)}]"
        )
