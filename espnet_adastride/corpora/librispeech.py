"""Turn the layout of LibriSpeech into Kaldi-style data directories.

LibriSpeech keeps ``PART/SPK/CHAP/SPK-CHAP-UTT.flac`` next to
``PART/SPK/CHAP/SPK-CHAP.trans.txt`` (``ID TEXT`` per line). :func:`scan_librispeech`
finds and decodes the recordings; :mod:`espnet_adastride.corpora.kaldi` writes the data
directories, with SPK-CHAP as the speaker, as in Kaldi's and ESPnet's recipes. Unusable
entries are never dropped silently: they are returned as a list of :class:`Excluded`,
each with the file, the reason and the action taken.
"""

import codecs
import hashlib
import os
import re
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import soundfile

from espnet_adastride.corpora.kaldi import (
    LEFT_OUT,
    Excluded,
    PathLike,
    Utterance,
    shorten,
    split_line,
    write_data_dir,
)
from espnet_adastride.errors import UserError, counted
from espnet_adastride.files import files_in, shown
from espnet_adastride.progress import progress_bar

# Published number of utterances per part, to detect incomplete parts.
LIBRISPEECH_UTTERANCES = {
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
    "train-clean-100": 28539,
    "train-clean-360": 104014,
    "train-other-500": 148688,
}

# Reasons for exclusion, as printed and as written to excluded.txt.
EMPTY_AUDIO = "empty recording"
NOT_DECODABLE = "recording that does not decode"
WRONG_RATE = "recording at another sampling rate"
NOT_MONO = "recording that is not mono"
NO_TRANSCRIPT = "recording without transcript"
NO_AUDIO = "transcript without recording"
EMPTY_TRANSCRIPT = "empty transcript"
MALFORMED_TRANSCRIPT = "malformed transcript line"
DUPLICATE_ID = "id that occurs more than once"
MISPLACED = "name that does not fit its folder"


@dataclass
class Scan:
    """The result of :func:`scan_librispeech`.

    Attributes:
        utterances: Usable utterances, sorted by id.
        excluded: Everything else, sorted by kind and id.
        recordings: Number of flac files seen.
        transcripts: Number of transcript lines seen.
        ignored: Files that are neither flac nor ``*.trans.txt``.
        notes: Remarks on whole parts, one line each.
    """

    utterances: List[Utterance]
    excluded: List[Excluded]
    recordings: int = 0
    transcripts: int = 0
    ignored: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)


# ----------------------------------------------------------------------- LibriSpeech


def find_librispeech(corpus: PathLike) -> Tuple[Path, List[str]]:
    """Find the folder of the parts.

    Args:
        corpus: ``LibriSpeech`` or its parent folder.

    Returns:
        The folder, absolute, and the names of the parts in it, sorted.

    Raises:
        UserError: No path, no such folder, or no part in it.
    """
    fix = "set LIBRISPEECH=/path/to/LibriSpeech or edit db.sh"
    if not str(corpus).strip():
        raise UserError(f"the path of LibriSpeech is empty; {fix}")
    # abspath, not resolve: keep the user's links in the paths.
    root = Path(os.path.abspath(os.path.expanduser(corpus)))
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"the corpus folder {root} {what}; {fix}")
    for candidate in (root / "LibriSpeech", root):
        parts = _parts(candidate)
        if parts:
            return candidate, parts
    if next(root.glob("*/*/*.trans.txt"), None):
        fix = f"{root} is itself a part: give its parent folder, or {fix}"
    raise UserError(
        f"no part of LibriSpeech (PART/SPEAKER/CHAPTER/*.flac) in {root}; {fix}"
    )


def _parts(root: Path) -> List[str]:
    if not root.is_dir():
        return []
    return sorted(
        p.name
        for p in root.iterdir()
        if p.is_dir()
        and not p.name.startswith(".")
        and any(next(p.glob(f"*/*/*{s}"), None) for s in (".trans.txt", ".flac"))
    )


def check_audio(path: PathLike, fs: int) -> Tuple[int, str, str]:
    """Decode a whole recording and compare it with its header.

    A FLAC header has the number of samples and the MD5 sum of the decoded signal, so
    truncated or altered files are detected reliably.

    Args:
        path: The recording.
        fs: The required sampling rate, in Hz.

    Returns:
        Number of samples, the reason for excluding it ("" if there is none), detail.
    """
    path = str(path)
    try:
        if os.path.getsize(path) == 0:
            return 0, EMPTY_AUDIO, "0 bytes"
        with soundfile.SoundFile(path) as f:
            digest = hashlib.md5()
            samples = 0
            while True:
                block = f.read(1 << 18, dtype="int16", always_2d=True)
                if len(block) == 0:
                    break
                samples += len(block)
                digest.update(block.astype("<i2", copy=False).tobytes())
            promised, rate, channels = f.frames, f.samplerate, f.channels
            bits16 = f.subtype == "PCM_16"
    except OSError as e:
        return 0, NOT_DECODABLE, f"cannot be opened ({e.strerror})"
    except (soundfile.SoundFileError, RuntimeError) as e:
        detail = str(getattr(e, "error_string", e)).strip()
        return 0, NOT_DECODABLE, re.sub(r"^Error : ", "", detail)
    if samples == 0:
        return 0, EMPTY_AUDIO, "no samples"
    if samples != promised:
        return samples, NOT_DECODABLE, f"{samples} of {promised} samples"
    # The sum covers 16-bit samples; other widths are only checked by the count above.
    expected = _flac_md5(path)
    if bits16 and expected is not None and expected != digest.hexdigest():
        return samples, NOT_DECODABLE, "the signal does not match the file's checksum"
    if rate != fs:
        return samples, WRONG_RATE, f"{rate} Hz instead of {fs} Hz"
    if channels != 1:
        return samples, NOT_MONO, f"{channels} channels"
    return samples, "", ""


def _flac_md5(path: str) -> Optional[str]:
    """MD5 sum of the signal in a flac file's STREAMINFO, None if it has none."""
    with open(path, "rb") as f:
        head = f.read(42)
    # "fLaC", block header (4 bytes; type 0 is STREAMINFO), 34 bytes ending in the sum.
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F != 0:
        return None
    md5 = head[26:42]
    return md5.hex() if any(md5) else None


def check_audio_files(
    paths: Sequence[str], fs: int, nj: int, progress: bool = True
) -> List[Tuple[int, str, str]]:
    """:func:`check_audio` on many files with ``nj`` processes and a progress bar.

    Raises:
        UserError: A process died (out of memory, killed).
    """
    check = partial(check_audio, fs=fs)
    results = []
    with progress_bar(len(paths), disable=not progress) as bar:
        if nj <= 1 or len(paths) < 64:
            for path in paths:
                results.append(check(path))
                bar.update()
            return results
        try:
            with ProcessPoolExecutor(nj) as pool:
                for result in pool.map(check, paths, chunksize=16):
                    results.append(result)
                    bar.update()
        except BrokenProcessPool:
            raise UserError(
                f"a decoding process died near {paths[len(results)]} (killed, or out "
                "of memory); run again with --nj 1 to find the file"
            ) from None
    return results


def scan_librispeech(
    root: PathLike,
    parts: Sequence[str],
    fs: int = 16000,
    nj: int = 1,
    progress: bool = True,
) -> Scan:
    """Read parts of LibriSpeech and decode every recording.

    Args:
        root: The folder of the parts, from :func:`find_librispeech`.
        parts: Names of parts; several are read as one set.
        fs: Sampling rate, in Hz.
        nj: Number of decoding processes.
        progress: Show a progress bar on standard error.

    Returns:
        Usable utterances, and all excluded entries with the reasons.

    Raises:
        UserError: A part is missing.
    """
    root = Path(root)
    scan = Scan([], [])
    audio: Dict[str, List[str]] = defaultdict(list)
    texts: Dict[str, List[Tuple[str, str]]] = defaultdict(list)  # (text, file:line)
    for part in parts:
        if not (root / part).is_dir():
            raise UserError(
                f"no part {part!r} in {root}, which has {', '.join(_parts(root))}"
            )
        before = scan.recordings
        for file in files_in(root / part, hidden=True):
            path, rel, name = str(file), file.relative_to(root / part).parts, file.name
            if shown(path) != path:
                # It cannot be written to wav.scp.
                problem = "the path is not UTF-8, or has control characters"
                scan.excluded.append(Excluded("-", shown(path), MISPLACED, problem))
                scan.recordings += name.endswith(".flac")
                continue
            # SPK-CHAP if the file is at the right depth, otherwise nothing matches.
            speaker = "-".join(rel[:2]) if len(rel) == 3 else None
            if name.endswith(".flac"):
                scan.recordings += 1
                key = name[: -len(".flac")]
                problem = _misplaced(key, speaker)
                if problem:
                    scan.excluded.append(Excluded(key, path, MISPLACED, problem))
                else:
                    audio[key].append(path)
            elif name.endswith(".trans.txt"):
                _read_transcripts(path, speaker, texts, scan)
            else:
                scan.ignored.append(path)
        found, published = scan.recordings - before, LIBRISPEECH_UTTERANCES.get(part)
        if published is not None and found != published:
            scan.notes.append(
                f"{part} has {found} recordings here; LibriSpeech publishes "
                f"{published}: a subset, or not fully unpacked"
            )

    duplicates = {k for k, v in audio.items() if len(v) > 1}
    duplicates |= {k for k, v in texts.items() if len(v) > 1}
    for key in duplicates:
        places = audio.pop(key, []) + [where for _, where in texts.pop(key, [])]
        # Use none of them, because the right one is unknown.
        detail = "all of them: " + ", ".join(places)
        scan.excluded.append(Excluded(key, places[0], DUPLICATE_ID, detail))
    for key in sorted(texts.keys() - audio.keys()):
        scan.excluded.append(Excluded(key, texts[key][0][1], NO_AUDIO))

    keys = sorted(audio)
    paths = [audio[key][0] for key in keys]
    for key, path, (samples, kind, detail) in zip(
        keys, paths, check_audio_files(paths, fs, nj, progress)
    ):
        text, where = texts[key][0] if key in texts else (None, path)
        if kind:
            scan.excluded.append(Excluded(key, path, kind, detail))
        elif text is None:
            scan.excluded.append(Excluded(key, path, NO_TRANSCRIPT))
        elif not text:
            scan.excluded.append(Excluded(key, where, EMPTY_TRANSCRIPT))
        else:
            # An id that passed _misplaced begins with the SPK-CHAP- of its folders.
            chapter = Path(path).parent
            speaker = f"{chapter.parent.name}-{chapter.name}"
            scan.utterances.append(Utterance(key, path, text, speaker, samples))
    scan.excluded.sort(key=lambda e: (e.kind, e.id, e.file))
    scan.ignored.sort()
    return scan


def _misplaced(key: str, speaker: Optional[str]) -> str:
    """The problem of an id in the folders SPK/CHAP; "" if none."""
    if speaker is None:
        return "not in SPEAKER/CHAPTER/"
    if not re.fullmatch(r"\S+", key):
        return "white space in the id"
    if not key.startswith(f"{speaker}-"):
        return f"does not begin with {speaker}-"
    return ""


def _read_transcripts(
    path: str,
    speaker: Optional[str],
    texts: Dict[str, List[Tuple[str, str]]],
    scan: Scan,
) -> None:
    """Add a ``*.trans.txt`` to ``texts``, its bad lines to ``scan.excluded``."""
    try:
        content = Path(path).read_bytes()
    except OSError as e:
        scan.excluded.append(
            Excluded("-", path, MALFORMED_TRANSCRIPT, f"unreadable ({e.strerror})")
        )
        return
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        scan.excluded.append(Excluded("-", path, MALFORMED_TRANSCRIPT, "empty file"))
    for number, raw in enumerate(lines, 1):
        where = f"{path}:{number}"
        scan.transcripts += 1
        try:
            key, text, problem = split_line(raw.decode("utf-8"))
        except UnicodeDecodeError:
            key, text, problem = raw.split(b" ")[0].decode("utf-8", "replace"), "", ""
            problem = "not UTF-8; convert the file"
        if problem:
            key = re.split(r"\s", key)[0] or "-"
            scan.excluded.append(Excluded(key, where, MALFORMED_TRANSCRIPT, problem))
            continue
        problem = _misplaced(key, speaker)
        if problem:
            scan.excluded.append(Excluded(key, where, MISPLACED, problem))
        else:
            texts[key].append((text, where))


def summarise(scan: Scan, limit: int = 5) -> List[str]:
    """One line per kind of exclusion with up to ``limit`` names, then the notes."""
    kinds = defaultdict(list)
    for e in scan.excluded:
        kinds[e.kind].append(e.id if e.id != "-" else e.file)
    lines = [
        f"{LEFT_OUT}: {len(names)} x {kind} ({shorten(names, limit)})"
        for kind, names in sorted(kinds.items())
    ]
    if scan.ignored:
        names = [os.path.basename(p) for p in scan.ignored]
        lines.append(
            f"ignored: {len(names)} files that are neither .flac nor .trans.txt "
            f"({shorten(names, limit)})"
        )
    return lines + [f"note: {note}" for note in scan.notes]


def prepare_librispeech(
    corpus: str,
    part,
    output: str,
    fs: int = 16000,
    nj: int = 1,
    strict: bool = False,
    skip_missing_parts: bool = False,
    max_names: int = 5,
    progress: bool = True,
) -> None:
    """Write ``output`` from the named parts; the options are those of the command.

    Raises:
        UserError: The corpus or a part is missing, no usable utterance is left, or
            ``strict`` is set and something would have been left out.
    """
    started = time.time()
    root, available = find_librispeech(corpus)
    # A part named twice is read once.
    part = list(dict.fromkeys(part))
    missing = [p for p in part if p not in available]
    if missing:
        line = (
            f"not in {root}: {', '.join(missing)}; "
            f"parts found there: {', '.join(available)}"
        )
        part = [p for p in part if p in available]
        if strict or not skip_missing_parts or not part:
            raise UserError(
                f"{line}. Download the missing parts (python -m "
                "espnet_adastride.bin.download_librispeech), name an available "
                "part, or set LIBRISPEECH= (db.sh) to another copy"
            )
        print(f"{output}: {line}; continuing with {', '.join(part)} only")

    scan = scan_librispeech(root, part, fs=fs, nj=nj, progress=progress)
    print(
        f"{output}: {' + '.join(part)}: {counted(scan.recordings, 'recording')}, "
        f"{scan.transcripts} transcripts in {root}"
    )
    for line in summarise(scan, max_names):
        print(f"{output}: {line}")
    if strict and (scan.excluded or scan.notes):
        why = [f"{e.id} ({e.kind})" for e in scan.excluded] + scan.notes
        raise UserError(
            f"--strict: not prepared because of {shorten(why, max_names)}; fix the "
            "corpus, or run without --strict to leave them out"
        )
    if not scan.utterances:
        raise UserError(
            f"no usable utterance in {', '.join(part)} of {root}; "
            "the lines above say why (standard output)"
        )
    write_data_dir(output, scan.utterances, scan.excluded)
    seconds = sum(u.samples for u in scan.utterances) / fs
    speakers = len({u.speaker for u in scan.utterances})
    listed = (
        f", {len(scan.excluded)} exclusions listed in {Path(output) / 'excluded.txt'}"
        if scan.excluded
        else ", nothing left out"
    )
    print(
        f"{output}: {counted(len(scan.utterances), 'utterance')}, "
        f"{seconds / 3600:.2f} h, {speakers} speaker-chapters{listed} "
        f"[{time.time() - started:.1f} s]"
    )
