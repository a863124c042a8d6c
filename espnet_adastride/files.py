"""Files written whole or not at all, and locks on folders.

A lock is ``flock`` on an open file: it goes with the process that holds it, so it never
outlives a killed driver. The file names the holder, for the message only.
"""

import codecs
import fcntl
import hashlib
import io
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Mapping, Set, Union
from urllib.parse import quote

from espnet_adastride.errors import ESCAPED, UserError, located, no_such

PathLike = Union[str, Path]

#: suffixes of audio, and of films that have a sound track; taken from folders
AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .caf .w64 .rf64 .nist "
    ".sph .m4a .m4b .mp4 .m4v .mkv .mka .webm .mov .aac .wma .wmv .asf .amr .3gp .3g2 "
    ".avi .flv .mp2 .mpg .mpeg .ac3 .ape .wv .tta .ogv .ra .rm .dss".split()
)

#: options that name the folders of a recipe's run
TAGS = "--asr_tag or --inference_tag"


def short_name(name: str) -> str:
    """Return the name of a file as disks accept it: at most 220 bytes.

    They accept 255, which a suffix and a temporary name need.
    """
    content = os.fsencode(name)
    if len(content) <= 220:
        return name
    digest = hashlib.sha256(content).hexdigest()[:32]
    return content[:188].decode("utf-8", "ignore") + digest


def name_fits(path: PathLike) -> bool:
    """Return whether the disk accepts a file's name; its folder need not exist."""
    place = Path(os.path.abspath(path)).parent
    while not os.path.exists(place):
        place = place.parent
    return len(os.fsencode(Path(path).name)) <= os.pathconf(place, "PC_NAME_MAX")


def quoted_name(key: str) -> str:
    """Return an id as the name of a file, without suffix."""
    return short_name(quote(key, safe=""))


def shown(path) -> str:
    """Return a path, or a message with one, as it can be printed in one line."""
    return os.fsdecode(path).translate(ESCAPED)


def check_folder(folder: PathLike, option: str) -> None:
    """Check that files can be written to a folder, which need not exist; makes nothing.

    Args:
        folder: output folder.
        option: its option, for the message.

    Raises:
        UserError: a file is in the way, or there is no permission.
    """
    # abspath: the parents of "out" end at "."
    place = Path(os.path.abspath(folder))
    while not os.path.lexists(place):
        place = place.parent
    fix = "move it away, or give another"
    if not place.is_dir():
        raise UserError(f"{option} {folder}: {place} is not a folder; {fix}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{option} {folder}: no permission to write in {place}; change it, or give "
            "another"
        )


def refuse_device(path: PathLike) -> None:
    """Refuse to replace what is no file: ``/dev/full``, a terminal, a pipe.

    Raises:
        UserError: it is there, and neither a file nor a folder.
    """
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise UserError(f"{path}: a device or a pipe; give the name of a file")


def check_file(path: PathLike, option: str, inputs: Iterable[PathLike] = ()) -> None:
    """Check as :func:`check_folder` does that a file can be written.

    Args:
        path: the file.
        option: its option, for the message.
        inputs: what the command reads.

    Raises:
        UserError: also for a folder, a device, or one of the inputs.
    """
    if Path(path).is_dir():
        raise UserError(f"{option} {path}: is a folder; give a file")
    with located(option):
        refuse_device(path)
    if Path(path).resolve() in [Path(one).resolve() for one in inputs]:
        raise UserError(f"{option} {path}: is an input; give another file")
    check_folder(Path(path).parent, option)


@contextmanager
def written_whole(path: PathLike) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, which is renamed to ``path`` at the end.

    If that fails, nothing is left, and the error names ``path`` (that of a full disk
    does not by itself).

    Raises:
        UserError: ``path`` is a device, which the file would replace.
    """
    path = Path(path)
    refuse_device(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{short_name(path.name)}.tmp{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def files_in(
    folder: PathLike, hidden: bool = False, leave_out: Iterable[PathLike] = ()
) -> List[Path]:
    """Return the files below a folder, sorted.

    Links to folders are followed, except to one that contains the link. Each folder is
    read once. Named pipes and sockets are left out: reading one would wait forever.

    Args:
        folder: an existing folder.
        hidden: include files and folders whose names begin with a dot.
        leave_out: files and folders below it, e.g. what a command writes there.
    """
    found: List[Path] = []
    left_out = {os.path.realpath(path) for path in leave_out}
    seen: Set[str] = left_out - {os.path.realpath(folder)}
    starts = [str(folder)]
    while starts:
        links: List[str] = []
        for here, folders, files in os.walk(starts.pop(0)):
            place = os.path.realpath(here)
            if place in seen:
                folders[:] = []
                continue
            seen.add(place)
            if not hidden:
                folders[:] = [name for name in folders if not name.startswith(".")]
                files = [name for name in files if not name.startswith(".")]
            for path in (os.path.join(here, name) for name in folders):
                if os.path.islink(path):
                    target = os.path.join(os.path.realpath(path), "")
                    if not place.startswith(target):
                        links.append(path)
            for name in files:
                path = os.path.join(here, name)
                if os.path.join(place, name) in left_out:
                    continue
                if os.path.isfile(path) or os.path.islink(path):
                    found.append(Path(path))
        starts += sorted(links)
    return sorted(found)


def read_utf8(path: PathLike) -> str:
    """Return a text file's content, without a byte order mark, lines ending in LF.

    UTF-16 (Praat, spreadsheets) is read, too, without such a mark if the first
    character is ASCII.

    Raises:
        UserError: No such file, it cannot be read, or it is not UTF-8; the message
            names the file and the line.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(no_such(path)) from None
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from None
    try:
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        unmarked = "utf-16-le" if content[1:2] == b"\0" else "utf-8-sig"
        text = content.decode("utf-16" if marked else unmarked)
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise UserError(
            f"{path}:{line}: not UTF-8; convert the file, e.g. from Latin-1: "
            f"iconv -f latin1 -t utf-8 FILE > NEW"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def write_text(path: PathLike, text: str) -> None:
    """Write ``text`` to a temporary name beside ``path`` and rename it."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_flac(path: PathLike, wave, rate: int) -> None:
    """Write 16-bit FLAC, whole or not at all.

    It is encoded in memory, because libsndfile does not report a full disk.
    """
    import soundfile

    content = io.BytesIO()
    soundfile.write(content, wave, rate, subtype="PCM_16", format="FLAC")
    with written_whole(path) as temporary:
        temporary.write_bytes(content.getvalue())


def keep_if_made_from(work: dict, folder: PathLike, record: PathLike) -> None:
    """Remove a folder that an interrupted run made from something else.

    Args:
        work: fingerprint of the current input, written to ``record``.
        folder: need not exist.
        record: file with the fingerprint of what is in the folder.
    """
    record, text = Path(record), json.dumps(work, sort_keys=True)
    if not record.exists() or record.read_text(encoding="utf-8") != text:
        shutil.rmtree(folder, ignore_errors=True)
        write_text(record, text)


def fresh_dir(final: PathLike) -> Path:
    """Make the empty folder in which the content of ``final`` is prepared.

    It is beside the folder, or beside what a link to one leads to, perhaps on another
    disk.
    """
    final = Path(os.path.realpath(final))
    temporary = final.with_name(f".{final.name}.tmp")
    _remove(temporary)  # left by an interrupted run
    temporary.mkdir(parents=True)
    return temporary


def replace_dir(temporary: PathLike, final: PathLike) -> None:
    """Put a prepared folder in the place of ``final``; a link to a folder stays."""
    final = Path(os.path.realpath(final))
    old = final.with_name(f".{final.name}.old")
    _remove(old)
    if final.exists():
        os.replace(final, old)
    os.replace(temporary, final)
    _remove(old)


def _remove(folder: Path) -> None:
    """Remove a folder, or a link to one, if it is there."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def sha256_of(*paths: PathLike) -> str:
    """Return the SHA-256 of the content of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(os.fsencode(path), "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def first_changed(files: Mapping[str, PathLike], record: PathLike) -> str:
    """Return the key of the first file whose content has changed; "" if none has.

    A file with the size and time in the record is not read. Files may be moved.

    Args:
        files: existing files by key.
        record: JSON file, made or updated if nothing has changed: keys with size, time
            and SHA-256.
    """
    record = Path(record)
    before: Dict[str, list] = {}
    if record.is_file():
        before = json.loads(record.read_text(encoding="utf-8"))
    now: Dict[str, list] = {}
    for key, path in files.items():
        status = os.stat(os.fsencode(path))
        now[key] = [status.st_size, status.st_mtime_ns]
        known = before.get(key, [])
        if known[:2] == now[key]:
            now[key] = known
            continue
        now[key].append(sha256_of(path))
        if known and known[2] != now[key][2]:
            return key
    if now != before:
        write_text(record, json.dumps(now) + "\n")
    return ""


# ------------------------------------------------------------------------------- locks
def _taken(descriptor: int, wait: bool = False) -> bool:
    """Lock an open file or folder; False: another process has it (and not ``wait``)."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except (BlockingIOError, PermissionError):  # PermissionError: over NFS
        return False


def lock(fd: int, path: Path, wait: bool, who: str, name: str = TAGS) -> None:
    """Lock the file ``path`` that is open for appending as ``fd``.

    The lock belongs to the open file description: taken here on an inherited ``fd``,
    it stays with the shell that opened it.

    Args:
        wait: Wait for the other driver instead of refusing.
        who: What to write into the file, e.g. ``process 1234 since 12:30``.
        name: The option that gives this run a folder of its own, for the message.

    Raises:
        UserError: Another driver works there and ``wait`` is false.
    """
    if not _taken(fd):
        other = path.read_text(encoding="utf-8").strip() or "unknown process"
        place = f"another driver works in {path.parent} ({other})"
        if not wait:
            raise UserError(
                f"{place}: wait for it, stop it, or give this run another {name}"
            )
        print(f"waiting: {place}", flush=True)
        _taken(fd, wait)
    os.ftruncate(fd, 0)
    os.write(fd, (who + "\n").encode())


@contextmanager
def alone(folder: PathLike, name: str) -> Iterator[None]:
    """Hold the lock of an experiment's folder, which is made if needed.

    Raises:
        UserError: Another process has it; ``name`` is that of :func:`lock`.
    """
    path = Path(folder) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        lock(file.fileno(), path, False, f"process {os.getpid()}", name)
        yield


@contextmanager
def locked(path: PathLike, wait: bool = True) -> Iterator[bool]:
    """Hold a lock; yields False if another process has it (and ``wait`` is false).

    Args:
        path: A lock file, made if needed, or an existing folder.
        wait: Wait for the other process.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDONLY if path.is_dir() else os.O_WRONLY | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        yield _taken(descriptor, wait)
    finally:
        os.close(descriptor)
