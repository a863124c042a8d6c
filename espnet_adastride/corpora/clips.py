"""Corpora of classified recordings: four layouts, and how to split them.

    layout            files                                  group        fold
    speech_commands   WORD/HASH_nohash_N.wav                 HASH         -
    fsdd              recordings/DIGIT_SPEAKER_N.wav         SPEAKER      -
    esc10             CLASS/FOLD-SOURCE-TAKE.ogg, or ESC-50  SOURCE       FOLD
                      (audio/, meta/esc50.csv: its 10 classes of ESC-10)
    table             anything, with a table                     columns ``group`` and
                      (``labels.csv`` or ``labels.tsv``)         ``fold``, optional

A *group* must not be on both sides of a split, because its recordings resemble each
other: a speaker, or the long recording from which clips were cut. Splits
(:data:`SPLITS`) put whole groups into ``train``, ``valid`` and ``test``, depending on
the seed of a run.

The table has a header: ``file`` (relative to the folder), ``label`` and, optionally,
``group``, ``fold`` and ``part`` (``train``, ``valid``, ``test``). Your own corpus needs
nothing else.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence

from espnet_adastride.corpora.separated import read_separated
from espnet_adastride.errors import UserError, counted, no_such, unknown_word
from espnet_adastride.files import AUDIO_SUFFIXES, shown
from espnet_adastride.options import name_seeds

PARTS = ("train", "valid", "test")
TABLES = ("labels.csv", "labels.tsv")
COLUMNS = ("file", "label", "group", "fold", "part")


class Clip(NamedTuple):
    """One recording.

    Attributes:
        id: LABEL/NAME, unique.
        path: its file.
        label: its class.
        group: recordings of a group stay together.
        fold: the corpus' own fold, or "".
        part: the corpus' own part, or "".
    """

    id: str
    path: Path
    label: str
    group: str
    fold: str = ""
    part: str = ""


# ---------------------------------------------------------------------------- layouts


def find_clips(folder, layout: str) -> List[Clip]:
    """Find the recordings of a corpus, sorted by id.

    Args:
        folder: the corpus, or (not for a table) a folder that contains it under the
            layout's name.
        layout: a key of :data:`LAYOUTS`; see the module docstring.

    Raises:
        UserError: no such folder, no files of the layout or no rows, an incomplete file
            name or table row, a file that is listed twice, or fewer than two classes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        fix = "give the folder of the corpus (--corpus)"
        raise UserError(no_such(folder, fix, "folder"))
    if layout != "table" and (folder / layout).is_dir():
        folder = folder / layout
    # ids, labels and groups are written to UTF-8 files; paths need not be UTF-8
    clips = sorted(
        clip._replace(**{k: shown(getattr(clip, k)) for k in ("id", "label", "group")})
        for clip in LAYOUTS[layout](folder)
    )
    once: Dict[str, Clip] = {}
    for clip in clips:
        first = once.setdefault(os.path.abspath(clip.path), clip)
        if first is not clip:  # the same clip could be in training and test
            labels = " and ".join(dict.fromkeys((first.label, clip.label)))
            raise UserError(
                f"{folder}: {shown(clip.path)} is listed twice ({labels}); keep one row"
            )
    labels = {clip.label for clip in clips}
    if not clips:
        raise UserError(f"{folder}: its table has no recordings; add a row for each")
    if len(labels) < 2:
        raise UserError(
            f"{folder}: all {len(clips)} recordings are {labels.pop()!r}; a classifier "
            "needs at least two classes"
        )
    for one, other in zip(clips, clips[1:]):
        if one.id == other.id:
            raise UserError(
                f"{one.path} and {other.path} are both {one.id}; rename one"
            )
    return clips


def identify_clips(clips: List[Clip]) -> str:
    """Return number and hash of the clips: their ids, groups, folds and parts."""
    ids = "\n".join("\t".join((c.id, c.group, c.fold, c.part)) for c in clips)
    return f"{len(clips)}, hash {hashlib.sha256(ids.encode()).hexdigest()[:16]}"


def _files(folder: Path, pattern: str, told: str) -> List[Path]:
    """Return the matching audio files; raise an error if there are none."""
    found = [p for p in folder.glob(pattern) if p.suffix.lower() in AUDIO_SUFFIXES]
    if not found:
        raise UserError(f"{folder}: no {told} in it; is it the right folder?")
    return found


def _matched(path: Path, pattern: str, form: str) -> re.Match:
    """Return the match of a file's name; raise an error if it has another form."""
    found = re.fullmatch(pattern, path.stem)
    if not found:
        raise UserError(
            f"{path}: the name is not {form}, so the speaker is unknown; rename it"
        )
    return found


def _speech_commands(folder: Path) -> Iterator[Clip]:
    """Folders whose names begin with _ (``_background_noise_``) are ignored."""
    for path in _files(folder, "[!_.]*/*.wav", "WORD/*.wav of Speech Commands"):
        found = _matched(path, r"([^_]+)_nohash_\d+", "HASH_nohash_N.wav")
        word = path.parent.name
        yield Clip(f"{word}/{path.stem}", path, word, found[1])


def _fsdd(folder: Path) -> Iterator[Clip]:
    if (folder / "recordings").is_dir():
        folder = folder / "recordings"
    for path in _files(folder, "*.wav", "DIGIT_SPEAKER_INDEX.wav"):
        found = _matched(path, r"(\d)_(.+)_\d+", "DIGIT_SPEAKER_INDEX.wav")
        yield Clip(f"{found[1]}/{path.stem}", path, found[1], found[2])


def _esc10(folder: Path) -> Iterator[Clip]:
    table = folder / "meta" / "esc50.csv"
    if table.is_file():
        for number, row in _read_table(table, ("filename", "fold", "category")):
            if row.get("esc10", "").lower() == "true":
                path = folder / "audio" / row["filename"]
                yield _esc_clip(path, row["category"], f"{table}, line {number}")
        return
    for path in _files(folder, "*/*", "CLASS/FOLD-SOURCE-TAKE recordings of ESC-10"):
        # the first release numbers its folders: "001 - Dog bark"
        label = re.sub(r"^\d+ - ", "", path.parent.name)
        yield _esc_clip(path, label, str(path))


def _esc_clip(path: Path, label: str, where: str) -> Clip:
    found = re.fullmatch(r"(\d)-(\d+)-.+", path.stem)
    if not found:
        raise UserError(
            f"{where}: {path.name} is not named FOLD-SOURCE-TAKE, so its "
            "fold is unknown"
        )
    if not path.is_file():
        raise UserError(f"{where}: {path} is missing; copy the corpus again")
    return Clip(f"{label}/{path.stem}", path, label, found[2], found[1])


def _table(folder: Path) -> Iterator[Clip]:
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) != 1:
        found = " and ".join(TABLES) if tables else "no labels.csv"
        raise UserError(
            f"{folder}: {found} in it; give one table labels.csv (or .tsv) with the "
            "columns file and label, and optionally group, fold or part"
        )
    for number, row in _read_table(tables[0], COLUMNS[:2], COLUMNS):
        where = f"{tables[0]}, line {number}"
        name, label = row["file"], row["label"]
        if not name or not label or "/" in label:
            raise UserError(
                f"{where}: file {name!r}, label {label!r}; both are required, and the "
                "label must not contain /"
            )
        path = folder / name
        if not path.is_file():
            raise UserError(f"{where}: {no_such(path)}")
        stem = str(Path(name).with_suffix(""))
        part = row.get("part", "")
        if part and part not in PARTS:
            raise UserError(f"{where}: {unknown_word('part', part, PARTS)}")
        group = row.get("group") or stem
        yield Clip(f"{label}/{stem}", path, label, group, row.get("fold", ""), part)


def _read_table(path: Path, needed: Sequence[str], known: Sequence[str] = ()):
    """Yield (line number, {column: value}) of a table with a header.

    Args:
        path: CSV, or TSV by its suffix.
        needed: required columns.
        known: if given, all allowed columns.
    """
    header, separator, rows = read_separated(path)
    missing = [name for name in needed if name not in header]
    if missing:
        raise UserError(
            f"{path}: no column {' and '.join(missing)}; its first line is "
            f"{separator.join(header)!r}"
        )
    for name in header if known else ():
        if name not in known:
            raise UserError(f"{path}: {unknown_word('column', name, known)}")
    for number, values in rows:
        if len(values) != len(header):
            raise UserError(
                f"{path}, line {number}: {counted(len(values), 'column')}, the header "
                f"has {len(header)}"
            )
        yield number, dict(zip(header, values))


LAYOUTS: Dict[str, Callable[[Path], Iterator[Clip]]] = {
    "speech_commands": _speech_commands,
    "fsdd": _fsdd,
    "esc10": _esc10,
    "table": _table,
}


# ----------------------------------------------------------------------------- splits


def rotating_split(group: str, seed: int) -> str:
    """Return the part of a group in the runs of a seed.

    SHA-256 of the group's name modulo 10 gives ten folds. Seed k tests on fold k,
    validates on fold k + 5 and trains on the other eight (modulo 10). Each of ten seeds
    is therefore tested on different speakers, and choices made on the validation sets
    of seeds 0 to 4 are tested on speakers that had no part in them. The fold depends
    only on the name, so any subset of the corpus has speakers in all folds.
    """
    fold = int(hashlib.sha256(group.encode()).hexdigest(), 16) % 10
    return {seed % 10: "test", (seed + 5) % 10: "valid"}.get(fold, "train")


def published_split(group: str) -> str:
    """Return the part of a speaker by the rule in the README of Speech Commands.

    SHA-1 modulo 2^27, as a percentage: below 10 valid, below 20 test. It reproduces
    ``validation_list.txt`` and ``testing_list.txt``.
    """
    most = 2**27 - 1
    number = int(hashlib.sha1(group.encode()).hexdigest(), 16) % (most + 1)
    percent = number * (100.0 / most)
    return "valid" if percent < 10 else "test" if percent < 20 else "train"


def _in_turn(names: Sequence[str], seed: int) -> List[str]:
    """Test on the seed-th of the sorted names, validate on the next one."""
    order = sorted(set(names))
    if len(order) < 3:
        raise UserError(
            f"groups or folds of the clips: {len(order)} ({', '.join(order)}); "
            "training, validation and test need at least three"
        )
    test, valid = order[seed % len(order)], order[(seed + 1) % len(order)]
    return [{test: "test", valid: "valid"}.get(name, "train") for name in names]


def _own(clips, column: str, split: str, fix: str = "") -> List[str]:
    """Return the corpus' own value for every clip.

    Clips without one are rejected, and groups with two, because the test would reward
    memorisation.
    """
    without = [clip for clip in clips if not getattr(clip, column)]
    if without:
        more = len(without) - 1
        others = f"; the same holds for {more} others" if more else ""
        raise UserError(
            f"data.split: {split}, but {without[0].path} has no {column}{others}{fix}"
        )
    values = [getattr(clip, column) for clip in clips]
    place: Dict[str, str] = {}
    for clip, own in zip(clips, values):
        first = place.setdefault(clip.group, own)
        if first != own:
            raise UserError(
                f"group {clip.group} is in two {column}s, {first} and {own}; put all "
                "of its clips into one"
            )
    return values


#: how the runs of a seed split the clips: (clips, seed) -> their parts
SPLITS: Dict[str, Callable[[List[Clip], int], List[str]]] = {
    "rotating": lambda clips, seed: [rotating_split(c.group, seed) for c in clips],
    "fixed": lambda clips, seed: [rotating_split(c.group, 0) for c in clips],
    "published": lambda clips, seed: [published_split(c.group) for c in clips],
    "leave_one_out": lambda clips, seed: _in_turn([c.group for c in clips], seed),
    "folds": lambda clips, seed: _in_turn(_own(clips, "fold", "folds"), seed),
    "given": lambda clips, seed: _own(clips, "part", "given", "; fill the column part"),
}


def folds_in_a_round(clips: List[Clip], split: str) -> int:
    """Return how many consecutive seeds test every clip once; 1 for random splits.

    ``folds`` and ``leave_one_out`` are cross-validations: seeds 0 .. F-1 are round 0,
    and a round's accuracy is over all clips.
    """
    if split == "folds":
        return len({clip.fold for clip in clips})
    if split == "leave_one_out":
        return len({clip.group for clip in clips})
    return 1


def split_clips(clips: List[Clip], split: str, seed: int) -> Dict[str, List[int]]:
    """Return the indices of the clips of every part, for the runs of a seed.

    Args:
        clips: clips from :func:`find_clips`.
        split: a key of :data:`SPLITS`.
        seed: seed of the run.

    Raises:
        UserError: a part is empty, or a group is divided.
    """
    parts: Dict[str, List[int]] = {part: [] for part in PARTS}
    for index, part in enumerate(SPLITS[split](clips, seed)):
        parts[part].append(index)
    for part, indices in parts.items():
        if not indices:
            groups = len({clip.group for clip in clips})
            fix = (
                "its column part does not contain it"
                if split == "given"
                else "for few groups use leave_one_out, which tests each in turn"
            )
            raise UserError(
                f"data.split: {split} leaves no {part} clips among {len(clips)} in "
                f"{groups} groups (seed {seed}); {fix}"
            )
    known = {clips[index].label for index in parts["train"]}
    for part in ("valid", "test"):
        for index in parts[part]:
            if clips[index].label not in known:
                label = repr(clips[index].label)
                raise UserError(
                    f"data.split: {split}, seed {seed}: {clips[index].path} has "
                    f"class {label}, which has no training clips"
                )
    return parts


def describe_clips(clips: List[Clip], split: str, seeds: List[int]) -> str:
    """Return one line: the numbers of clips, classes and groups, and their split.

    Raises:
        UserError: see :func:`split_clips`.
    """
    labels = {clip.label for clip in clips}
    groups = {clip.group for clip in clips}
    numbers: Dict[str, List[int]] = {}
    for seed in seeds:
        parts = split_clips(clips, split, seed)
        key = "/".join(str(len(parts[part])) for part in PARTS)
        numbers.setdefault(key, []).append(seed)
    told = "; ".join(
        f"{key} (seed{'s' * (len(own) > 1)} {name_seeds(own)})"
        for key, own in numbers.items()
    )
    return (
        f"{len(clips)} clips of {len(labels)} classes in {len(groups)} groups; "
        f"{'/'.join(PARTS)}: {told}"
    )
