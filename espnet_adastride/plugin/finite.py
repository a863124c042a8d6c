"""Stop a training whose losses are not numbers, and name the utterances.

ESPnet skips an update whose gradient is not finite and continues: with one NaN in the
statistics, or in the parameters, a training "finishes" without having learned anything.
A single such step is skipped here, too: mixed precision overflows now and then.
"""

from typing import Iterable, Iterator, List, Sequence, Tuple

import torch

from espnet_adastride.errors import ModelError

#: consecutive steps without a finite loss that stop a training
MOST_STEPS = 10


class WatchedBatches:
    """An epoch's batches; counts losses that are not finite.

    Args:
        batches: (utterance ids, batch), as ESPnet's iterators give them.
    """

    def __init__(self, batches: Iterable[Tuple[Sequence[str], dict]]):
        self.batches = batches
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
        """Check a step's loss: a forward hook of the model."""
        loss = output["loss"] if isinstance(output, dict) else output[0]
        self.steps += 1
        if loss is None or bool(torch.isfinite(loss.detach()).all()):
            self.run = 0
            return
        self.bad, self.run = self.bad + 1, self.run + 1
        if not self.first_bad:
            self.first_bad = self.ids

    def describe(self) -> str:
        """Return how many losses were not finite, and the first utterances."""
        names: List[str] = list(self.first_bad[:5])
        more = ", ..." if len(self.first_bad) > 5 else ""
        return (
            f"{self.bad} of {self.steps} losses are not numbers (NaN, infinite); the "
            f"first batch of them: {', '.join(names)}{more}"
        )


def refuse_run(watched: WatchedBatches) -> None:
    """Stop in the middle of an epoch.

    Raises:
        ModelError: the last :data:`MOST_STEPS` losses were not finite.
    """
    if watched.run >= MOST_STEPS:
        raise ModelError(
            f"training stopped: {watched.describe()}; look for damaged recordings "
            "(stage 3 names them), or try a lower learning rate"
        )


def refuse_epoch(watched: WatchedBatches, phase: str) -> None:
    """Stop at the end of an epoch.

    Args:
        watched: its batches.
        phase: ``training`` or ``validation``.

    Raises:
        ModelError: no loss of the training was finite; or one of the validation,
            which chooses the best epoch, was not.
    """
    if watched.bad and (phase == "validation" or watched.bad == watched.steps):
        raise ModelError(
            f"{phase} stopped: {watched.describe()}; look for damaged recordings "
            "(stage 3 names them), or try a lower learning rate"
        )
