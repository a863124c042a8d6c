"""A learning-rate schedule that lasts as long as the training.

ESPnet's ``piecewiselinearwarmuplr`` lists updates, whose number depends on the amount
of speech. After the last one the rate jumps from the list's last value back up to
``lr`` and decays with the inverse square root; if the training ends long before it, the
rate hardly decays. Such a list is scaled to the end of the training. One that ends at
``lr`` is left alone: its rate neither jumps nor decays.
"""

from typing import Any, List, Mapping, Optional, Union

SCHEDULER = "piecewiselinearwarmuplr"


def count_steps(options: Mapping[str, Any], batches: int) -> int:
    """Return how often a training of so many batches an epoch changes the model."""
    batches = options["num_iters_per_epoch"] or batches
    return max(1, batches // options["accum_grad"]) * options["max_epoch"]


def fitted_steps(
    options: Mapping[str, Any], batches: int
) -> Optional[List[Union[int, float]]]:
    """Return ``warmup_steps_list`` scaled to the end of the training.

    Args:
        options: of the training, complete.
        batches: of an epoch.

    Returns:
        None: the schedule is another one, or the training ends in its last half.
    """
    conf, rate = options["scheduler_conf"], options["optim_conf"].get("lr")
    steps, rates = conf.get("warmup_steps_list"), conf.get("warmup_lr_list")
    if options["scheduler"] != SCHEDULER or None in (steps, rates, rate):
        return None
    if rates[-1] >= rate:
        return None
    total = count_steps(options, batches)
    if steps[-1] / 2 <= total <= steps[-1]:
        return None
    scaled = [round(step * total / steps[-1], 2) for step in steps]
    return [int(step) if step == int(step) else step for step in scaled]
