"""Your own recordings as Kaldi-style data directories: checked, cut, split.

    sources (espnet_adastride/corpora/layouts.py)
        -> OUTPUT/{train,valid,test}/{wav.scp,text,utt2spk,spk2utt}
        -> OUTPUT/SET/audio/*.flac    excerpts and converted files

Every recording is decoded. Mono WAV and FLAC files are used in place; anything else
(other containers, several channels, parts of recordings, pipes, names that are not
UTF-8) is written as mono FLAC. Unusable entries are counted and listed by name.
"""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import quote

from espnet_adastride.corpora.audio import AudioInfo, audio_info, read_samples
from espnet_adastride.corpora.kaldi import (
    Excluded,
    PathLike,
    Utterance,
    atomic_open,
    read_scp,
    shorten,
    write_data_dir,
    write_excluded,
)
from espnet_adastride.corpora.layouts import Problem, Row, Source, locate
from espnet_adastride.corpora.recordings import prepare as mix_down
from espnet_adastride.corpora.recordings import read_audio
from espnet_adastride.errors import AudioError, DataError
from espnet_adastride.files import fresh_dir, replace_dir, shown, write_flac
from espnet_adastride.progress import decoding_bar

PARTS = ("train", "valid", "test")
RECORD = "prepared.json"
BAD_LIST = "unusable.txt"
#: seconds by which an end time may exceed the recording, because of rounding
TOLERANCE = 0.05
#: longer speaker ids are abbreviated (Common Voice has 128 characters)
LONGEST_SPEAKER = 40


@dataclass
class Options:
    """Options of the preparation, as in the command.

    Attributes:
        fs: Sampling rate of written FLAC files in Hz.
        seed: Seed of the split.
        shares: Shares of utterances for valid and test.
        split: ``auto``, ``speaker``, ``utterance`` or ``none``.
        speaker_from: ``""``, ``folder`` or a regular expression on the path.
        audio_dir: Folder to which paths are relative, or "".
        run_pipes: Run commands in ``wav.scp``.
        skip_bad: Leave out unusable entries.
        overwrite: Replace sets with other content.
        nj: Number of threads.
    """

    fs: int = 16000
    seed: int = 0
    shares: Dict[str, float] = field(
        default_factory=lambda: {"valid": 0.1, "test": 0.1}
    )
    split: str = "auto"
    speaker_from: str = ""
    audio_dir: str = ""
    run_pipes: bool = False
    skip_bad: bool = False
    overwrite: bool = False
    nj: int = 1


class Planned(NamedTuple):
    """A row whose recording was found.

    Attributes:
        row: As read.
        id: Utterance id.
        path: The recording, absolute, or a command that ends in ``|``.
        speaker: "" if unknown.
    """

    row: Row
    id: str
    path: str
    speaker: str


# ----------------------------------------------------------------- ids and speakers
def plan_rows(
    sources: Sequence[Source], options: Options
) -> Tuple[List[Planned], List[Problem]]:
    """Find every row's recording; give ids and speakers.

    Ids are those of the corpus or are derived from the path: ``anna/01.wav`` of speaker
    Anna becomes ``anna-anna_01`` (Kaldi requires speakers as prefixes), and an excerpt
    gets its
    milliseconds: ``-00001200-00003400``.

    Returns:
        Usable entries, sorted by id, and problems.
    """
    problems = [p for source in sources for p in source.problems]
    entries = [(source, row) for source in sources for row in source.rows]
    folders = {id(s): _folders(s, options) for s in sources}
    names = [_speaker(row, folders[id(s)], options) for s, row in entries]
    short = _abbreviate(names)
    found: Dict[Tuple[str, int], Optional[Path]] = {}
    planned: Dict[str, Planned] = {}
    for (source, row), name in zip(entries, names):
        speaker, path = short[name], row.path
        if path.endswith("|"):
            if not options.run_pipes:
                problems.append(_problem(row, *PIPE))
                continue
        else:
            place = (path, id(source))
            if place not in found:
                found[place] = locate(path, folders[id(source)])
            if found[place] is None:
                detail = _not_found(row, folders[id(source)])
                problems.append(_problem(row, "no such file", detail))
                continue
            path = os.path.abspath(found[place])
            if os.path.isdir(path):
                problems.append(_problem(row, "a folder instead of a file", path))
                continue
        key = row.id
        if not source.own_ids:
            key = _make_id(row, path, speaker, folders[id(source)])
            if not row.id and key in planned and planned[key].row.part != row.part:
                key = f"{row.part}_{key}"  # two sets may both have 0001.wav
        if re.search(r"\s", key):
            problems.append(_problem(row, "white space in the id", repr(key)))
        elif key in planned:
            other = planned[key].row.where
            problems.append(
                _problem(row, "an id that occurs twice", f"{key}, first in {other}")
            )
        else:
            planned[key] = Planned(row, key, path, speaker)
    for source in sources:
        source.notes += _relative_paths(source, folders[id(source)], found)
    return [planned[key] for key in sorted(planned)], problems


def _folders(source: Source, options: Options) -> List[Path]:
    own = [Path(options.audio_dir)] if options.audio_dir else []
    return own + source.folders


def _relative_paths(source: Source, folders, found) -> List[str]:
    """Report the folders to which the paths of a source are relative."""
    used = Counter()
    for (path, number), place in found.items():
        if number == id(source) and place is not None and not os.path.isabs(path):
            used.update([str(f) for f in folders if place == f / path][:1])
    if not used:
        return []
    starts = [os.path.abspath(name) for name in used]
    return [f"{source.path}: paths are relative to {' and '.join(starts)}"]


PIPE = (
    "a command instead of a file",
    "to run the commands in wav.scp, give --run_pipes true",
)


def _problem(row: Row, kind: str, detail: str) -> Problem:
    return Problem(row.id or "-", row.where, kind, shown(detail), row.part)


def _not_found(row: Row, folders: Sequence[Path]) -> str:
    if re.search(r"\.ark:\d+$", row.path):
        return f"{row.path} is a position in an archive; give audio files"
    if os.path.isabs(row.path):
        return f"{row.path}; correct the path"
    places = list(dict.fromkeys(os.path.abspath(folder) for folder in folders))
    there = [place for place in places if os.path.isdir(place)]
    return f"{row.path} (in {', '.join(there)}); correct it or give --audio_dir"


def _speaker(row: Row, folders: Sequence[Path], options: Options) -> str:
    """Return a row's speaker, without white space; "" if unknown."""
    speaker = row.speaker
    if options.speaker_from and not speaker:
        path = row.path.replace("\\", "/")
        for start in (os.path.abspath(folder) + "/" for folder in folders):
            path = path.removeprefix(start)
        if options.speaker_from == "folder":
            speaker = path.split("/")[0] if "/" in path else ""
        else:
            match = re.search(options.speaker_from, path)
            speaker = match[1] or "" if match else ""
    return _word(speaker)


def _word(name: str) -> str:
    """Return a name as part of an id: no white space, no slash, valid UTF-8."""
    name = re.sub("[\udc80-\udcff]", lambda m: f"%{ord(m[0]) - 0xDC00:02X}", name)
    return re.sub(r"[\s/\\]+", "_", name.strip())


def _abbreviate(speakers: Iterable[str]) -> Dict[str, str]:
    """Shorten hashes such as Common Voice's, if they remain distinct."""
    names = set(speakers)
    cut = {n: n[:12] if len(n) > LONGEST_SPEAKER else n for n in names}
    return cut if len(set(cut.values())) == len(names) else {n: n for n in names}


def _make_id(row: Row, path: str, speaker: str, folders: Sequence[Path]) -> str:
    key = row.id
    if not key:
        for folder in folders:
            start = os.path.abspath(folder) + os.sep
            if path.startswith(start):
                key = path[len(start) :]
                break
        else:
            key = os.path.basename(path)
        key = os.path.splitext(key)[0]
        if row.cut:
            key += f"-{round(1000 * row.start):08d}"
            key += f"-{round(1000 * row.end):08d}" if row.end is not None else "-end"
    key = _word(key)
    return key if not speaker or key.startswith(speaker) else f"{speaker}-{key}"


# ---------------------------------------------------------------------------- split
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
        DataError: Fewer utterances, or (with ``speaker``) speakers, than sets.
    """
    held_out = [p for p in wanted if p != "train" and options.shares.get(p, 0) > 0]
    if not held_out:
        return {p.id: "train" for p in planned}, "not split"
    speakers = {p.speaker for p in planned} - {""}
    unknown = sum(not p.speaker for p in planned)
    needed = len(held_out) + 1
    if len(planned) < needed:
        raise DataError(
            f"{len(planned)} utterances: {', '.join(['train', *held_out])} need one "
            "each; give more recordings, or --split none for one set"
        )
    enough = len(speakers) >= needed and not unknown
    if options.split == "speaker" and not enough:
        raise DataError(
            f"--split speaker: {len(speakers)} speakers, and {unknown} utterances "
            f"without one; {needed} sets need one speaker each: give the speakers (a "
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


# ---------------------------------------------------------------------------- audio
class Checked(NamedTuple):
    """Result for the utterances of one recording: files by id, seconds, problems."""

    files: Dict[str, str]
    seconds: Dict[str, float]
    problems: List[Problem]


def check_recording(path: str, rows: Sequence[Planned], folder: Path, fs: int):
    """Decode a recording; cut or convert it if it cannot be used in place.

    Args:
        path: The recording, or a command that ends in ``|``.
        rows: The utterances in it.
        folder: For FLAC files; their names are the quoted ids.
        fs: Their sampling rate in Hz.
    """
    checked = Checked({}, {}, [])

    def refuse(p: Planned, kind: str, detail: str) -> None:
        checked.problems.append(_problem(p.row._replace(id=p.id), kind, detail))

    try:
        info = None if path.endswith("|") else audio_info(path)
        as_it_is = info is not None and _usable_in_place(path, info)
        if as_it_is and not any(p.row.cut for p in rows):
            fs = info.rate  # nothing is written
        wave = _run(path, fs) if info is None else read_audio(path, fs)
    except AudioError as error:
        for p in rows:
            refuse(p, "a recording that cannot be used", str(error))
        return checked
    length = len(wave) / fs
    for p in rows:
        start, end = p.row.start, p.row.end
        if start >= length or (end is not None and end > length + TOLERANCE):
            until = "the end" if end is None else f"{end:g}"
            refuse(
                p,
                "a part beyond the recording's end",
                f"{start:g} to {until} s of {path}, which has {length:.2f} s; correct "
                "the times (seconds)",
            )
            continue
        piece = wave
        if p.row.cut:
            last = len(wave) if end is None else min(round(end * fs), len(wave))
            piece = wave[round(start * fs) : last]
        if len(piece) == 0:
            detail = f"{start:g} to {end:g} s has no sample at {fs} Hz"
            refuse(p, "an empty part", detail)
            continue
        checked.seconds[p.id] = len(piece) / fs
        if as_it_is and not p.row.cut:
            checked.files[p.id] = path
        else:
            target = folder / file_name(p.id)
            write_flac(target, piece.clip(-1.0, 1.0 - 2.0**-15), fs)
            checked.files[p.id] = str(target)
    return checked


def file_name(key: str) -> str:
    """Return the name of an utterance's FLAC file, at most 255 bytes."""
    name = quote(key, safe="")
    if len(name) > 240:
        name = name[:200] + hashlib.sha256(key.encode()).hexdigest()[:32]
    return name + ".flac"


def _run(pipe: str, fs: int):
    """Return the samples that a command writes to its standard output."""
    command = pipe[:-1].strip()
    done = subprocess.run(["bash", "-c", command], capture_output=True)
    if done.returncode or not done.stdout:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        said = lines[-1] if lines else "no output"
        raise AudioError(f"{command}: status {done.returncode}: {said}")
    wave, rate = read_samples(done.stdout, name=command)
    if len(wave) == 0:
        raise AudioError(f"{command}: no samples")
    return mix_down(wave, rate, fs, command)


def _usable_in_place(path: str, info: AudioInfo) -> bool:
    """Whether ESPnet's tools can read the file: mono WAV or FLAC."""
    if shown(path) != path or re.search(r"[\r\n]", path):
        return False
    plain = info.format in ("WAV", "FLAC") and info.channels == 1
    return plain and info.reader == "libsndfile"


def check_recordings(
    planned: Sequence[Planned], folder: Path, options: Options
) -> Checked:
    """:func:`check_recording` on all recordings, in threads."""
    jobs: Dict[str, List[Planned]] = defaultdict(list)
    for p in planned:
        jobs[p.path].append(p)
    total = Checked({}, {}, [])
    with (
        decoding_bar(len(jobs)) as bar,
        ThreadPoolExecutor(max(1, options.nj)) as pool,
    ):
        results = [
            pool.submit(check_recording, path, rows, folder, options.fs)
            for path, rows in jobs.items()
        ]
        try:
            for result in results:
                checked = result.result()
                total.files.update(checked.files)
                total.seconds.update(checked.seconds)
                total.problems.extend(checked.problems)
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return total


# --------------------------------------------------------------------------- prepare
def prepare(
    named: Sequence[Tuple[str, Source]], output: PathLike, options: Options
) -> List[str]:
    """Write the data directories; return lines about them.

    Args:
        named: (set, source); the set is "" if the sources define it or are split.
        output: Output folder, with one folder per set.
        options: See :class:`Options`.

    Raises:
        DataError: An unusable entry (without ``skip_bad``), or a set with other
            content exists (without ``overwrite``).
    """
    output = Path(output)
    for name, source in named:
        if name:
            source.rows = [row._replace(part=name) for row in source.rows]
            source.problems = [p._replace(part=name) for p in source.problems]
    sources = [source for _, source in named]
    planned, problems = plan_rows(sources, options)
    lines = [line for source in sources for line in _introduce(source)]
    if not planned or (problems and not options.skip_bad):
        raise DataError(_refuse(problems, planned, output))
    parts = _part_names(planned, options)
    _refuse_own_output(sources, planned, [output / part for part in parts])
    record = _record(sources, planned, options)
    if _all_done(output, parts, record, options):
        return lines + [
            f"{output / part}: prepared before, unchanged" for part in parts
        ]
    staging = fresh_dir(output / "prepare")
    try:
        checked = check_recordings(planned, staging, options)
        problems += checked.problems
        usable = [p for p in planned if p.id in checked.files]
        if not usable or (problems and not options.skip_bad):
            raise DataError(_refuse(problems, planned, output))
        part_of, told = _parts(usable, options)
        for part in sorted(set(part_of.values()), key=_order):
            used = [p for p in usable if part_of[p.id] == part]
            bad = [p for p in problems if _is_listed_in(part, p, parts)]
            told.append(_write_set(output / part, used, checked, bad, record))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    (output / BAD_LIST).unlink(missing_ok=True)
    told += _left_out(problems)
    if any(p.row.part for p in usable):
        told += _shared_speakers(usable, part_of)
    return lines + told


def _is_listed_in(part: str, problem: Problem, parts: Sequence[str]) -> bool:
    """Whether a problem is listed in the excluded.txt of a set."""
    return part == (problem.part if problem.part in parts else parts[0])


def _order(part: str):
    return PARTS.index(part) if part in PARTS else len(PARTS), part


def _part_names(planned, options: Options) -> List[str]:
    """Return the names of the resulting sets, in order.

    Raises:
        DataError: Some utterances have a set and others have none.
    """
    names = {p.row.part for p in planned}
    if "" in names and len(names) > 1:
        where = next(p.row.where for p in planned if not p.row.part)
        raise DataError(
            f"{where}: no set, while others have one; give all sources as "
            "NAME=SOURCE, or none"
        )
    if names == {""}:
        names = {"train"}
    if "train" in names and options.split != "none":
        # missing sets are taken from the training set
        names |= {part for part, share in options.shares.items() if share > 0}
    return sorted(names, key=_order)


def _parts(planned, options: Options) -> Tuple[Dict[str, str], List[str]]:
    """Return the set of every utterance, and lines about it."""
    part_of = {p.id: p.row.part or "train" for p in planned}
    given = {p.row.part for p in planned} - {""}
    missing = [part for part in _part_names(planned, options) if part not in given]
    missing = [part for part in missing if part != "train"]
    if not missing:
        return part_of, []
    own = [p for p in planned if part_of[p.id] == "train"]
    taken, told = split(own, options, ["train", *missing])
    if given:
        told = f"{' and '.join(missing)} from train: {told}"
    return {**part_of, **taken}, [told]


def _introduce(source: Source) -> List[str]:
    count = len(source.rows) + len(source.problems)
    return [f"{source.path}: {source.kind}, {count} entries", *source.notes]


def _refuse_own_output(sources, planned, targets: Sequence[Path]) -> None:
    """Reject an output folder that would replace its source."""
    places = [s.path for s in sources] + [f for s in sources for f in s.files]
    places += [Path(p.path) for p in planned if not p.path.endswith("|")]
    goals = {target.resolve(): target for target in targets}
    for folder in dict.fromkeys(p.parent if p.is_file() else p for p in places):
        for place in (folder.resolve(), *folder.resolve().parents):
            if place in goals:
                raise DataError(
                    f"{shown(folder)} would be overwritten by {goals[place]}: "
                    "give another --output"
                )


def _refuse(problems: Sequence[Problem], planned, output: Path) -> str:
    """List the unusable entries; return one line about them."""
    output.mkdir(parents=True, exist_ok=True)
    with atomic_open(output / BAD_LIST) as file:
        file.writelines(f"{shown(str(problem))}\n" for problem in problems)
    total = len({p.row.where for p in planned} | {p.where for p in problems})
    return (
        f"{len(problems)} of {total} entries cannot be used; the first: {problems[0]}; "
        f"all are listed in {output / BAD_LIST}: correct them, or leave them out with "
        "--skip_bad true"
    )


def _left_out(problems: Sequence[Problem]) -> List[str]:
    kinds: Dict[str, List[str]] = defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem.where)
    return [
        f"left out: {len(places)} x {kind} ({shorten(places, 3)}); listed in "
        "excluded.txt of the set"
        for kind, places in sorted(kinds.items())
    ]


def _shared_speakers(planned, part_of) -> List[str]:
    """Report speakers that are in the training set and in another set."""
    sets: Dict[str, set] = defaultdict(set)
    for p in planned:
        if p.speaker:
            sets[part_of[p.id]].add(p.speaker)
    lines = []
    for part in sorted(sets.keys() - {"train"}, key=_order):
        both = sorted(sets[part] & sets.get("train", set()))
        if both:
            lines.append(
                f"note: {len(both)} of the {len(sets[part])} speakers of {part} are "
                f"also in train ({shorten(both, 3)})"
            )
    return lines


# ----------------------------------------------------------- sets prepared before
def _record(sources, planned, options: Options) -> Dict[str, object]:
    """Return a fingerprint of the sets' input."""
    rows = []
    for p in planned:
        state = None
        if not p.path.endswith("|"):
            status = os.stat(p.path)
            state = [status.st_size, status.st_mtime_ns]
        row = [p.id, shown(p.path), state, p.row.text, p.speaker, p.row.start]
        rows.append([*row, p.row.end, p.row.part])
    chosen = [options.fs, options.skip_bad, options.split, options.seed, options.shares]
    problems = [str(problem) for source in sources for problem in source.problems]
    content = json.dumps((rows, problems, chosen), sort_keys=True)
    return {
        "sources": sorted({shown(s.path.resolve()) for s in sources}),
        "content": hashlib.sha256(content.encode()).hexdigest()[:24],
    }


def _all_done(output: Path, parts, record, options: Options) -> bool:
    """Whether the sets exist and are up to date.

    Raises:
        DataError: A set with other content exists, and ``overwrite`` is not given.
    """
    done = True
    for part in parts:
        folder = output / part
        if not folder.exists() or not any(folder.iterdir()):
            done = False
            continue
        before = _read_record(folder)
        if before is None:
            problem = "was not made by this command"
        elif before["sources"] != record["sources"]:
            problem = f"was made from {shorten(before['sources'], 3)}"
        elif before["files"] != _hashes(folder):
            problem = "was changed by hand since it was made"
        else:
            done = done and before["content"] == record["content"]
            audio = read_scp(folder / "wav.scp").values()
            done = done and all(map(os.path.exists, audio))
            continue
        done = False
        if not options.overwrite:
            raise DataError(
                f"{folder} exists and {problem}: give another --output, or "
                "--overwrite true to replace it"
            )
    return done


def _read_record(folder: Path) -> Optional[dict]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if {"sources", "content", "files"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _hashes(folder: Path) -> Dict[str, str]:
    found = {}
    for name in ("wav.scp", "text", "utt2spk", "spk2utt"):
        path = folder / name
        content = path.read_bytes() if path.is_file() else b""
        found[name] = hashlib.sha256(content).hexdigest()[:24]
    return found


def _write_set(folder: Path, used, checked: Checked, bad, record) -> str:
    """Write one set, replacing an existing one; return a line about it."""
    fresh = fresh_dir(folder)
    goal = folder.resolve()
    utterances = []
    made = 0
    (fresh / "audio").mkdir()
    for p in used:
        path = checked.files[p.id]
        if path != p.path:  # excerpt or converted
            path = str(goal / "audio" / Path(path).name)
            os.replace(checked.files[p.id], fresh / "audio" / Path(path).name)
            made += 1
        # as in Kaldi, an utterance with an unknown speaker is its own speaker
        utterances.append(Utterance(p.id, path, p.row.text, p.speaker or p.id))
    write_data_dir(fresh, utterances)
    if bad:
        excluded = [Excluded(b.id, b.where, b.kind, b.detail) for b in bad]
        write_excluded(fresh / "excluded.txt", excluded)
    if not made:
        (fresh / "audio").rmdir()
    with atomic_open(fresh / RECORD) as file:
        json.dump({**record, "files": _hashes(fresh)}, file, indent=1)
        file.write("\n")
    before = _count(folder)
    replace_dir(fresh, folder)
    seconds = sum(checked.seconds[p.id] for p in used)
    speakers = Counter(p.speaker for p in used)
    known = len(speakers) - ("" in speakers)
    span = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    line = f"{folder}: {len(used)} utterances, {span}, "
    line += f"{known} speaker{'s' * (known != 1)}" if known else "speakers unknown"
    if made:
        line += f"; {made} cut out or converted, in {folder / 'audio'}"
    if before is not None:
        line += f"; replaces an earlier version of {before} utterances"
    return line


def _count(folder: Path) -> Optional[int]:
    """Return the number of utterances of an existing set; None: no set."""
    try:
        return (folder / "text").read_bytes().count(b"\n")
    except OSError:
        return None
