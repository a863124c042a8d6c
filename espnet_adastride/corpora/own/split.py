"""Training, validation and test sets without a speaker, or a recording, in common."""

import random
from collections import defaultdict
from typing import Dict, List, Sequence, Tuple

from espnet_adastride.corpora.own.rows import Options, Planned
from espnet_adastride.errors import UserError

PARTS = ("train", "valid", "test")


def split(
    planned: Sequence[Planned], options: Options, wanted: Sequence[str] = PARTS
) -> Tuple[Dict[str, str], str]:
    """Return the set of every utterance, and a description of the split.

    If there are enough speakers, the split is by speaker: no speaker is in two sets.
    Speakers are drawn in an order that depends on the seed, and a set takes them until
    it has its share of the utterances. Otherwise the split is by utterance.

    Args:
        planned: Utterances to split.
        options: ``seed``, ``shares`` and ``split`` are used.
        wanted: train and the sets to split off.

    Raises:
        UserError: Fewer utterances, or (with ``speaker``) speakers, than sets.
    """
    held_out = [p for p in wanted if p != "train" and options.shares.get(p, 0) > 0]
    if not held_out:
        return {p.id: "train" for p in planned}, "not split"
    speakers = {p.speaker for p in planned} - {""}
    unknown = sum(not p.speaker for p in planned)
    needed = len(held_out) + 1
    if len(planned) < needed:
        raise UserError(
            f"{len(planned)} utterances: {', '.join(['train', *held_out])} need one "
            "each; give more recordings, or --split none for one set"
        )
    enough = len(speakers) >= needed and not unknown
    if options.split == "speaker" and not enough:
        raise UserError(
            f"--split speaker: {len(speakers)} speakers; {unknown} utterances have "
            f"no speaker; {needed} sets need one speaker each: give the speakers (a "
            "column speaker, utt2spk, --speaker_from folder) or --split utterance"
        )
    by_speaker = enough and options.split != "utterance"
    # all excerpts of a recording are in the same set
    by_recording = len({p.path for p in planned}) >= needed
    groups: Dict[str, List[str]] = defaultdict(list)
    for p in planned:
        own = p.path if by_recording else p.id
        groups[p.speaker if by_speaker else own].append(p.id)
    order = sorted(groups)
    random.Random(options.seed).shuffle(order)
    part_of: Dict[str, str] = {}
    left = dict.fromkeys(order)
    for number, part in enumerate(reversed(held_out)):  # test first
        # leave enough for the later sets and training
        most = len(left) - (len(held_out) - number)
        target = options.shares[part] * len(planned)
        for group in _draw(left, groups, target, most):
            del left[group]
            part_of.update(dict.fromkeys(groups[group], part))
    for group in left:
        part_of.update(dict.fromkeys(groups[group], "train"))
    told = f"split by speaker, seed {options.seed}: no speaker is in two sets"
    if not by_speaker:
        why = "as requested"
        if unknown == len(planned):
            why = "the speakers are unknown (a column speaker, utt2spk, --speaker_from)"
        elif unknown:
            why = f"{unknown} of them have no speaker"
        elif len(speakers) == 1:
            why = "there is only one speaker"
        elif not enough:
            why = f"there are only {len(speakers)} speakers for {needed} sets"
        told = f"split by utterance, seed {options.seed}: {why}"
        if len(speakers) != 1:
            told += "; speakers of the test set may also be in the training set, "
            told += "so the WER says little about new speakers"
        else:
            told += ", so the WER says nothing about others"
    return part_of, told


def _draw(order, groups, target: float, most: int) -> List[str]:
    """Take groups in their order until they hold the target number of utterances.

    A group that would exceed the target by more than half of it is skipped; if none is
    small enough, the smallest one is taken.
    """
    taken: List[str] = []
    count = 0
    for group in order:
        if len(taken) >= most or count >= target:
            break
        if count + len(groups[group]) <= max(1.5 * target, 1):
            taken.append(group)
            count += len(groups[group])
    return taken or [min(order, key=lambda group: len(groups[group]))]
