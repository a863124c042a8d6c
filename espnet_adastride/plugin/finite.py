"""Stop a training whose losses are not numbers, and name the utterances.

ESPnet skips an update whose gradient is not finite and continues: with one NaN in the
statistics, or in the parameters, a training "finishes" without having learned anything.
A single such step is skipped here, too: mixed precision overflows now and then.
"""

import contextlib
from typing import Iterable, Iterator, Sequence, Tuple

import torch

from espnet_adastride.errors import ModelError

#: consecutive steps without a finite loss that stop a training
MOST_STEPS = 10


class WatchedBatches:
    """An epoch's batches; counts losses that are not finite.

    Args:
        batches: (utterance ids, batch), as ESPnet's iterators give them.
        phase: ``training`` or ``validation``.
    """

    def __init__(self, batches: Iterable[Tuple[Sequence[str], dict]], phase: str):
        self.batches, self.phase = batches, phase
        self.ids: Sequence[str] = ()
        self.first_bad: Sequence[str] = ()
        self.bad = self.run = self.steps = self.count = 0

    def __iter__(self) -> Iterator[Tuple[Sequence[str], dict]]:
        for ids, batch in self.batches:
            self.ids, self.count = ids, self.count + 1
            yield ids, batch

    def __len__(self) -> int:
        return len(self.batches)  # TypeError if it has no length, as ESPnet expects

    def watch(self, module, inputs, output) -> None:
        """Check a step's loss: a forward hook of the model.

        Raises:
            ModelError: the last :data:`MOST_STEPS` losses of training were not finite.
        """
        loss = output["loss"] if isinstance(output, dict) else output[0]
        self.steps += 1
        if loss is None or bool(torch.isfinite(loss.detach()).all()):
            self.run = 0
            return
        self.bad, self.run = self.bad + 1, self.run + 1
        self.first_bad = self.first_bad or self.ids
        if module.training and self.run >= MOST_STEPS:
            raise self.stopped()

    def stopped(self) -> ModelError:
        """Return the error that says how many losses were not finite, and where."""
        more = ", ..." if len(self.first_bad) > 5 else ""
        return ModelError(
            f"{self.phase} stopped: {self.bad} of {self.steps} losses are not numbers "
            f"(NaN, infinite); the first batch of them: {', '.join(self.first_bad[:5])}"
            f"{more}; look for damaged recordings (stage 3 names them), or try a lower "
            "learning rate"
        )


@contextlib.contextmanager
def watched_losses(model: torch.nn.Module, iterator, phase: str):
    """Yield an epoch's batches; their losses are checked as they are computed.

    Args:
        model: that computes them.
        iterator: see :class:`WatchedBatches`, ``phase`` too.

    Raises:
        ModelError: see :meth:`WatchedBatches.watch`; at the end, if no loss of the
            training was finite; or one of the validation, which chooses the best epoch,
            was not.
    """
    batches = WatchedBatches(iterator, phase)
    hook = model.register_forward_hook(batches.watch)
    try:
        yield batches
    finally:
        hook.remove()
    if batches.bad and (phase == "validation" or batches.bad == batches.steps):
        raise batches.stopped()
