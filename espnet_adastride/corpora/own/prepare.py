"""The data directories: checked, split, written, and left alone if they are current."""

import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from espnet_adastride.corpora.kaldi import (
    Excluded,
    Utterance,
    read_scp,
    shorten,
    write_data_dir,
    write_excluded,
)
from espnet_adastride.corpora.own.audio import Checked, check_recordings, state
from espnet_adastride.corpora.own.rows import Options, plan_rows
from espnet_adastride.corpora.own.source import Problem, Source
from espnet_adastride.corpora.own.split import PARTS, split
from espnet_adastride.errors import UserError, counted
from espnet_adastride.files import (
    PathLike,
    alone,
    fresh_dir,
    replace_dir,
    shown,
    write_text,
)

RECORD = "prepared.json"
BAD_LIST = "unusable.txt"


def written_before(output: PathLike) -> List[Path]:
    """Return what earlier calls wrote into the output folder, which is no source."""
    output = Path(output)
    sets = [folder for folder in output.glob("*") if _read_record(folder) is not None]
    return [output / BAD_LIST, *sets]


def prepare(
    named: Sequence[Tuple[str, Source]], output: PathLike, options: Options
) -> List[str]:
    """Write the data directories; return lines about them.

    Args:
        named: (set, source); the set is "" if the sources define it or are split.
        output: Output folder, with one folder per set.
        options: See :class:`Options`.

    Raises:
        UserError: An unusable entry (without ``skip_bad``), or a set with other
            content exists (without ``overwrite``).
    """
    output = Path(output)
    for name, source in named:
        if name:
            source.rows = [row._replace(part=name) for row in source.rows]
            source.problems = [p._replace(part=name) for p in source.problems]
    sources = [source for _, source in named]
    planned, problems = plan_rows(sources, options)
    lines = []
    for source in sources:
        count = len(source.rows) + len(source.problems)
        lines += [f"{source.path}: {source.kind}, {count} entries", *source.notes]
    if not planned or (problems and not options.skip_bad):
        raise UserError(_refuse(problems, planned, output))
    _check_sets(planned, problems, output)
    parts = _part_names(planned, options)
    _refuse_own_output(sources, planned, [output / part for part in parts])
    record = _record(sources, planned, options)
    piped = any(p.path.endswith("|") for p in planned)
    again = piped and options.overwrite  # what a command writes may have changed
    if _all_done(output, parts, record, options) and not again:
        hint = "; --overwrite true runs the commands again" if piped else ""
        told = [f"{output / part}: prepared before, unchanged{hint}" for part in parts]
        return lines + told + _left_behind(output, parts, record)
    staging = output / ".prepare"  # stays after an interruption: the next call goes on
    if again:
        shutil.rmtree(staging, ignore_errors=True)
    with alone(staging, "--output"):
        checked = check_recordings(planned, staging, options)
        problems += checked.problems
        usable = [p for p in planned if p.id in checked.files]
        if not usable or (problems and not options.skip_bad):
            raise UserError(_refuse(problems, planned, output))
        _check_sets(usable, problems, output)
        part_of, told = _parts(usable, options)
        for part in sorted(set(part_of.values()), key=_order):
            used = [p for p in usable if part_of[p.id] == part]
            bad = [
                p for p in problems if (p.part if p.part in parts else parts[0]) == part
            ]
            told.append(_write_set(output / part, used, checked, bad, record))
        shutil.rmtree(staging)
    (output / BAD_LIST).unlink(missing_ok=True)
    told += _left_out(problems)
    if any(p.row.part for p in usable):
        told += _shared_speakers(usable, part_of)
    return lines + told + _left_behind(output, parts, record)


def _order(part: str):
    return PARTS.index(part) if part in PARTS else len(PARTS), part


def _part_names(planned, options: Options) -> List[str]:
    """Return the names of the resulting sets, in order.

    Raises:
        UserError: Some utterances have a set and others have none.
    """
    names = {p.row.part for p in planned}
    if "" in names and len(names) > 1:
        where = next(p.row.where for p in planned if not p.row.part)
        raise UserError(
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


def _refuse_own_output(sources, planned, targets: Sequence[Path]) -> None:
    """Reject an output folder that would replace its source."""
    places = [s.path for s in sources] + [f for s in sources for f in s.files]
    places += [Path(p.path) for p in planned if not p.path.endswith("|")]
    goals = {target.resolve(): target for target in targets}
    for folder in dict.fromkeys(p.parent if p.is_file() else p for p in places):
        for place in (folder.resolve(), *folder.resolve().parents):
            if place in goals:
                raise UserError(
                    f"{shown(folder)} would be overwritten by {goals[place]}: "
                    "give another --output"
                )


def _refuse(problems: Sequence[Problem], planned, output: Path) -> str:
    """List the unusable entries; return one line about them."""
    total = len({p.row.where for p in planned} | {p.where for p in problems})
    return (
        f"{len(problems)} of {total} entries cannot be used; "
        f"{_listed(problems, output)}, or leave them out with --skip_bad true"
    )


def _listed(problems: Sequence[Problem], output: Path) -> str:
    problems = sorted(problems, key=_line)
    listed = "".join(f"{shown(str(problem))}\n" for problem in problems)
    write_text(output / BAD_LIST, listed)
    where = f"all are listed in {output / BAD_LIST}"
    return f"the first: {problems[0]}; {where}: correct them"


def _check_sets(usable, problems: Sequence[Problem], output: Path) -> None:
    """Reject a set without a usable entry; part of train would take its place."""
    empty = {p.part for p in problems} - {p.row.part for p in usable} - {""}
    for part in sorted(empty, key=_order):
        own = [problem for problem in problems if problem.part == part]
        raise UserError(
            f"{part}: none of its {len(own)} entries can be used; "
            f"{_listed(own, output)}, or leave out the set"
        )


def _left_behind(output: Path, parts: Sequence[str], record) -> List[str]:
    """Report sets that an earlier call made from the same sources, unlike this one."""
    lines = []
    for folder in sorted(output.iterdir()):
        before = None if folder.name in parts else _read_record(folder)
        if before is not None and before["sources"] == record["sources"]:
            lines.append(
                f"note: {folder} is from an earlier command with the same source and "
                "was not updated: its recordings may also be in the sets above; "
                "remove it"
            )
    return lines


def _line(problem: Problem) -> Tuple[str, int]:
    file, _, line = problem.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (problem.where, 0)


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
        row = [p.id, shown(p.path), state(p.path), p.row.text, p.speaker, p.row.start]
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
        UserError: A set with other content exists, and ``overwrite`` is not given.
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
            raise UserError(
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
            # the set may be a link to another disk
            shutil.move(checked.files[p.id], fresh / "audio" / Path(path).name)
            made += 1
        # as in Kaldi, an utterance with an unknown speaker is its own speaker
        utterances.append(Utterance(p.id, path, p.row.text, p.speaker or p.id))
    write_data_dir(fresh, utterances)
    if bad:
        excluded = [Excluded(b.id, b.where, b.kind, b.detail) for b in bad]
        write_excluded(fresh / "excluded.txt", excluded)
    if not made:
        (fresh / "audio").rmdir()
    content = {**record, "files": _hashes(fresh)}
    write_text(fresh / RECORD, json.dumps(content, indent=1) + "\n")
    text = folder / "text"
    before = text.read_bytes().count(b"\n") if text.is_file() else None
    replace_dir(fresh, folder)
    seconds = sum(checked.seconds[p.id] for p in used)
    speakers = Counter(p.speaker for p in used)
    known = len(speakers) - ("" in speakers)
    span = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    line = f"{folder}: {counted(len(used), 'utterance')}, {span}, "
    line += counted(known, "speaker") if known else "speakers unknown"
    if made:
        line += f"; {made} cut out or converted, in {folder / 'audio'}"
    if before is not None:
        line += f"; replaces an earlier version of {counted(before, 'utterance')}"
    return line
