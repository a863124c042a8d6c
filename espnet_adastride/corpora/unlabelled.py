"""Split any folder of recordings by text into training, validation and test set.

    FOLDER/**.flac (or wav, ogg, mp3 ...), FOLDER/trans.txt (optional: NAME TEXT)
        -> OUTPUT/{train,valid,test}/{wav.scp,groups}, OUTPUT/audio/*.flac

Recordings of one text stay together, because a model may benefit from a sentence it has
seen in training. Without texts, every file is its own group, which keeps together the
pieces of long recordings, cut at pauses. ``groups`` has the group of each recording:
``ID GROUP``.

Mono recordings at the right rate that are short enough are used in place; all others
are converted.
"""

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Container, Dict, List, NamedTuple, Sequence

from espnet_adastride.corpora.audio import read_samples
from espnet_adastride.corpora.kaldi import (
    read_lines,
    read_scp,
    split_line,
    write_lines,
)
from espnet_adastride.corpora.recordings import (
    Source,
    cut_at_pauses,
    describe_unread,
    find_media,
    prepare,
)
from espnet_adastride.errors import UserError, counted, no_such
from espnet_adastride.files import (
    first_changed,
    fresh_dir,
    replace_dir,
    short_name,
    shown,
    write_flac,
    write_text,
)

PARTS = ("train", "valid", "test")
#: shares of the groups; at least one group each
SHARES = {"test": 0.1, "valid": 0.05}
#: seconds; longer recordings are cut, shorter ones left out
LONGEST, SHORTEST = 15.0, 0.25
#: in the output folder: what shows whether a recording was changed
AUDIO = "audio.json"


class Recording(NamedTuple):
    """One recording: its id, its path, and the text or file that groups it."""

    id: str
    path: str
    group: str


def find_recordings(folder, output=None) -> List[Recording]:
    """Find the recordings of a folder, sorted by id.

    Args:
        folder: folder of the recordings.
        output: that of :func:`prepare_recordings`; what is in it, and the trainings'
            copies to listen to (``listen/``), are no recordings of the folder.

    Raises:
        UserError: no such folder, no recordings, two of one name, or a trans.txt that
            is malformed or names none of them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        fix = "give the folder of the recordings (--corpus, or RECORDINGS=)"
        raise UserError(no_such(folder, fix, "folder"))
    texts = read_texts(folder / "trans.txt")
    made: List[Path] = []
    if output is not None:
        made = [Path(output), *Path(output).parent.glob("*/listen")]
    sources, unread, _ = find_media([str(folder)], made)
    if unread:
        raise UserError(f"{folder}: {describe_unread(unread)}")
    if not sources:
        raise UserError(f"{folder}: no recordings (wav, flac, ogg, mp3 ...) in it")
    found = []
    for name, source in sorted(name_recordings(sources).items()):
        text = texts.get(Path(source.name).name)
        group = f"file {name}" if text is None else f"text {text}"
        found.append(Recording(name, source.path, group))
    if texts and all(recording.group.startswith("file ") for recording in found):
        name, own = next(iter(texts)), Path(sources[0].name).name
        raise UserError(
            f"{folder / 'trans.txt'}: none of its names, such as {name}, is a "
            f"recording's; write file names without suffix, such as {own}"
        )
    return found


def name_recordings(
    sources: Sequence[Source], suffixes: bool = False
) -> Dict[str, Source]:
    """Return recordings by their ids: their names as one word, which can name a file.

    Args:
        sources: the recordings.
        suffixes: accept names that only differ in the suffix, and keep it in these.

    Raises:
        UserError: two would have one id.
    """
    times = Counter(source.name for source in sources)
    found: Dict[str, Source] = {}
    for source in sources:
        name = source.full if suffixes and times[source.name] > 1 else source.name
        name = "_".join(shown(name).replace("/", " ").split())
        if name in found:
            raise UserError(
                f"{shown(source.path)} and {shown(found[name].path)} would have one "
                f"name, {name}: rename one"
            )
        found[name] = source
    return found


def read_texts(path) -> Dict[str, str]:
    """Read ``NAME TEXT`` lines, normalised; {} if there is no such file."""
    texts = {}
    if Path(path).is_file():
        for number, line in enumerate(read_lines(path), 1):
            name, text, _ = split_line(line.strip())
            if name and not text.strip():
                raise UserError(f"{path}, line {number}: write NAME TEXT")
            text = " ".join(text.lower().split())
            if name and texts.setdefault(name, text) != text:
                raise UserError(
                    f"{path}, line {number}: {name} has another text above; keep one"
                )
    return texts


def split_groups(groups) -> Dict[str, str]:
    """Return the part of every group: shares in the order of the groups' hashes.

    Raises:
        UserError: fewer than three groups.
    """
    order = sorted(set(groups), key=lambda g: hashlib.sha256(g.encode()).hexdigest())
    if len(order) < len(PARTS):
        raise UserError(
            f"{len(order)} recordings of different texts: training, validation and "
            "test need one each; give a folder with at least three"
        )
    parts, start = {}, 0
    for part, share in SHARES.items():
        number = max(1, math.floor(share * len(order)))
        parts.update(dict.fromkeys(order[start : start + number], part))
        start += number
    return {group: parts.get(group, "train") for group in order}


def prepare_recordings(folder, output, rate: int) -> str:
    """Write the three sets; return one line about them.

    A prepared folder is kept, unless its recordings have moved.

    Args:
        folder: folder of the recordings.
        output: output folder; must not have been made from other recordings.
        rate: target sampling rate in Hz.

    Raises:
        UserError: bad input; names the file and the fix.
    """
    recordings = find_recordings(folder, output)
    output = Path(output)
    seen = [(r.id, r.group, Path(r.path).stat().st_size) for r in recordings]
    record = {
        "digest": hashlib.sha256(repr((seen, rate, LONGEST)).encode()).hexdigest()[:16]
    }
    paths = {recording.id: recording.path for recording in recordings}
    done = output / "prepared.json"
    if done.is_file():
        before = json.loads(done.read_text(encoding="utf-8"))
        if before["digest"] != record["digest"]:
            raise UserError(
                f"{output} was prepared from other recordings; give another --exp, or "
                f"remove {output.parent}"
            )
        changed = first_changed(paths, output / AUDIO)
        if changed:
            raise UserError(
                f"{shown(paths[changed])} was changed after {output} was prepared from "
                f"it; give another --exp, or remove {output.parent}"
            )
        made = [one for part in PARTS for one in read_set(output / part)]
        if all(Path(recording.path).is_file() for recording in made):
            return before["told"]
    elif output.is_dir() and any(output.iterdir()):  # perhaps the recordings
        raise UserError(
            f"{output} was not made by this command, which would replace it; give "
            "another --exp"
        )
    part_of = split_groups(r.group for r in recordings)
    fresh = fresh_dir(output)
    (fresh / "audio").mkdir()
    first_changed(paths, fresh / AUDIO)  # records them
    parts: Dict[str, list] = {part: [] for part in PARTS}
    names = {recording.id for recording in recordings}
    short = 0
    for recording in recordings:
        cut = cut_recording(recording, fresh / "audio", rate, names)
        for name, path, duration in cut:
            if duration < SHORTEST:
                short += 1
                continue
            if path.parent == fresh / "audio":  # its final place
                path = output.resolve() / "audio" / path.name
            one = (name, path, recording.group, duration)
            parts[part_of[recording.group]].append(one)
    told = []
    for part, own in parts.items():
        if not own:
            raise UserError(
                f"{folder}: no recording of {SHORTEST} s or more is left for {part}; "
                "give more recordings"
            )
        write_lines(fresh / part / "wav.scp", {one[0]: str(one[1]) for one in own})
        write_lines(fresh / part / "groups", {one[0]: one[2] for one in own})
        hours = sum(duration for *_, duration in own) / 3600
        told.append(f"{part}: {counted(len(own), 'recording')}, {hours:.2f} h")
    told.append(f"{len(part_of)} texts or files, {short} below {SHORTEST} s left out")
    alone = sum(recording.group.startswith("file ") for recording in recordings)
    if alone and alone < len(recordings):
        told.append(f"{alone} of the files have no line in trans.txt")
    record["told"] = "; ".join(told)
    write_text(fresh / "prepared.json", json.dumps(record) + "\n")
    replace_dir(fresh, output)
    return record["told"]


def cut_recording(recording: Recording, folder: Path, rate: int, names: Container[str]):
    """Return [(id, path, seconds)] of the recordings made from one.

    Args:
        recording: to read.
        folder: existing folder for converted and cut files.
        rate: target sampling rate in Hz.
        names: ids of all recordings, which no part may have.

    Raises:
        AudioError: it cannot be read.
        UserError: a part would have the name of another recording.
    """
    wave, info = read_samples(recording.path)
    wave = prepare(wave, info.rate, rate, shown(recording.path))
    kept = info.format in ("WAV", "FLAC") and (info.rate, info.channels) == (rate, 1)
    kept = kept and shown(recording.path) == recording.path  # wav.scp is UTF-8
    if kept and info.seconds <= LONGEST:
        return [(recording.id, Path(recording.path).resolve(), info.seconds)]
    pieces = []
    segments = cut_at_pauses(wave, rate, LONGEST)
    for number, (begin, end) in enumerate(segments):
        name = recording.id if len(segments) == 1 else f"{recording.id}_{number:04d}"
        if name != recording.id and name in names:
            raise UserError(
                f"{shown(recording.path)} is cut, and a part would have the name of "
                f"another recording, {name}: rename one"
            )
        path = folder / f"{short_name(name)}.flac"
        write_flac(path, wave[begin:end], rate)
        pieces.append((name, path, (end - begin) / rate))
    return pieces


def read_set(folder) -> List[Recording]:
    """Return the recordings of a prepared set."""
    groups = read_scp(Path(folder) / "groups")
    waves = read_scp(Path(folder) / "wav.scp")
    return [Recording(name, path, groups[name]) for name, path in waves.items()]
