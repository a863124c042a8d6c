"""Safe unpacking of ESPnet's model archives: no files outside, no code is run.

An archive (zip or tar) contains ``meta.yaml``, which names configurations and parameter
files by the options of ESPnet's inference tools, these files, and others such as the
tokeniser. ESPnet's own ``unpack`` writes to any path that a member names, and its
loader runs the code in a pickle (``weights_only=False``). Here:

1. every member is a plain file or folder below the target, otherwise nothing is
unpacked; 2. YAML is data, and ``.pth`` files must load as plain tensors; 3. the target
folder is created completely or not at all.
"""

import errno
import os
import shutil
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Callable, Dict, Iterator, List, NamedTuple, Set

import yaml

from espnet_adastride.config import map_strings
from espnet_adastride.errors import UserError, describe_os_error, no_such
from espnet_adastride.files import PathLike, fresh_dir, replace_dir

try:
    from lzma import LZMAError
except ImportError:  # a Python without it opens no such archive
    LZMAError = zlib.error

WEIGHTS = (".pth", ".pt", ".ckpt", ".bin")
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
    EOFError,
    OSError,
    NotImplementedError,  # a zip's compression
    RuntimeError,  # an encrypted zip
    ValueError,
)
#: what the disk or its permissions refuse: the archive may be intact
_DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.EIO),
)


class Member(NamedTuple):
    """A file of an archive, its size in bytes, and how to read it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def _refuse(archive: Path, what: str) -> UserError:
    return UserError(f"{archive} is not unpacked: {what}")


@contextmanager
def opened(archive: Path) -> Iterator[List[Member]]:
    """Yield the members that are files; reject links, devices etc."""
    # check the first bytes: zipfile.is_zipfile also finds a model (a zip) inside a tar
    with archive.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if not zipped and not tarfile.is_tarfile(archive):
        raise _refuse(archive, "it is not a zip or tar archive, or is truncated")
    with (zipfile.ZipFile if zipped else tarfile.open)(archive) as packed:
        members = []
        for info in packed.infolist() if zipped else packed.getmembers():
            if zipped:
                name, size, folder = info.filename, info.file_size, info.is_dir()
                kind = info.external_attr >> 16 & 0o170000  # as on Unix
                plain, opens = kind in (0, 0o100000, 0o040000), packed.open
            else:
                name, size, folder = info.name, info.size, info.isdir()
                plain, opens = folder or info.isfile(), packed.extractfile
            if not plain:
                raise _refuse(
                    archive,
                    f"{name!r} is not a plain file (a link?); pack the model again "
                    "without it",
                )
            if not folder:
                members.append(Member(name, size, partial(opens, info)))
        yield members


def check_archive(archive: PathLike) -> None:
    """Read an archive to its end, and write nothing.

    Raises:
        UserError: it is not an archive of a model, is broken or truncated.
    """
    archive = Path(archive)
    with _intact(archive), opened(archive) as members:
        for member in members:
            with member.open() as file:
                while file.read(2**20):
                    pass
        _check_meta(archive, {str(PurePosixPath(member.name)) for member in members})


@contextmanager
def _intact(archive: Path) -> Iterator[None]:
    """Report what a broken archive raises."""
    try:
        yield
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise _refuse(archive, describe_os_error(error)) from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _refuse(archive, f"it is broken ({reason}); get the file again") from None


def _check_meta(archive: Path, names: Set[str]) -> None:
    if "meta.yaml" not in names:
        raise _refuse(
            archive, "it has no meta.yaml: truncated, or not made by espnet2.bin.pack"
        )


def safe_name(name: str) -> bool:
    """Return whether a member's name stays below the target folder."""
    path = PurePosixPath(name)
    return (
        bool(name)
        and not name.startswith(("/", "~"))
        and "\\" not in name
        and ":" not in name.split("/")[0]  # a drive
        and "\0" not in name
        and ".." not in path.parts
        and str(path) not in ("", ".")
    )


def _check_members(archive: Path, members: List[Member], free: int) -> None:
    for member in members:
        if not safe_name(member.name):
            raise _refuse(
                archive,
                f"{member.name!r} points outside the folder; such archives are "
                "designed to overwrite files: ask who sent it",
            )
    needed = sum(member.size for member in members)
    if needed > free:
        raise _refuse(
            archive,
            f"it needs {needed} bytes, but {free} are free on the disk: free some",
        )


def _copy(archive: Path, member: Member, target: Path) -> None:
    if target.is_file():
        _compare(archive, member, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with member.open() as source, target.open("wb") as file:
        while block := source.read(2**20):
            written += len(block)
            if written > member.size:
                break
            file.write(block)
    if written != member.size:
        raise _refuse(
            archive,
            f"{member.name!r} does not have its declared size: truncated, or "
            "designed to fill the disk; get the file again",
        )


def _compare(archive: Path, member: Member, target: Path) -> None:
    """Accept identical duplicate members: asr.sh packs RESULTS.md twice."""
    with member.open() as source, target.open("rb") as file:
        block = b"first"
        while block:
            block = source.read(2**20)
            if file.read(len(block) or 1) != block:
                raise _refuse(
                    archive,
                    f"{member.name!r} occurs twice with different content; pack the "
                    "model again",
                )


def _read_yaml(archive: Path, path: Path, name: str) -> dict:
    loader = yaml.SafeLoader  # libyaml's loader can be made to exhaust the stack
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(text, loader)):
            # a few lines of aliases can expand beyond the memory
            raise _refuse(archive, f"{name} is not plain YAML: it has aliases")
        content = yaml.load(text, loader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise _refuse(archive, f"{name} is not plain YAML: {reason}") from None
    if not isinstance(content, dict):
        raise _refuse(archive, f"{name} has no options")
    return content


def check_weights(path: PathLike) -> None:
    """Check that a parameter file only has tensors and containers, running no code.

    Raises:
        UserError: Loading it would run code, or it is truncated.
    """
    import torch

    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise UserError(
            f"{path} has other objects than tensors, or is truncated "
            f"({type(error).__name__}: {reason[:200]}); loading it could run code: do "
            "not use it"
        ) from None


def _check_arrays(path: Path) -> None:
    import numpy

    try:
        with numpy.load(path, allow_pickle=False) as arrays:
            for name in arrays:
                arrays[name]
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} has other objects than arrays: {reason}") from None


def unpack(archive: PathLike, output: PathLike) -> Dict[str, str]:
    """Unpack a model packed by ``espnet2.bin.pack``.

    Args:
        archive: A zip or tar file (also compressed).
        output: A folder that is empty or does not exist.

    Returns:
        {option of the inference tool: path}, e.g. ``asr_train_config``.

    Raises:
        UserError: The archive is broken or has unexpected content: one line that
            names the member. Nothing is left in ``output`` then.
    """
    archive, output = Path(archive), Path(output)
    if not archive.is_file():
        raise UserError(no_such(archive))
    if os.path.realpath(output) == os.getcwd():  # it is replaced as a whole
        raise UserError(
            f"{output} is the current folder: give a new one, e.g. {archive.stem}"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} already exists: give an empty or a new folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = fresh_dir(output)
    try:
        with _intact(archive), opened(archive) as members:
            free = shutil.disk_usage(temporary).free
            _check_members(archive, members, free)
            for member in members:
                _copy(archive, member, temporary / member.name)
        names = {str(PurePosixPath(member.name)) for member in members}
        files = _settle(archive, temporary, output, names)
        replace_dir(temporary, output)
        return files
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _settle(archive: Path, temporary: Path, output: Path, names: Set[str]) -> dict:
    """Check the unpacked files, and update the paths in the configurations."""
    _check_meta(archive, names)
    meta = _read_yaml(archive, temporary / "meta.yaml", "meta.yaml")
    files: Dict[str, str] = {}

    def moved(word: str) -> str:
        return (
            str(output / word) if word and str(PurePosixPath(word)) in names else word
        )

    for kind in ("yaml_files", "files"):
        table = meta.get(kind)
        if not isinstance(table, dict):
            raise _refuse(archive, f"meta.yaml has no {kind}")
        for option, name in table.items():
            if not isinstance(name, str) or str(PurePosixPath(name)) not in names:
                raise _refuse(
                    archive, f"meta.yaml names {name!r} ({option}), which is not in it"
                )
            files[str(option)] = os.path.join(output, name)
    for name in meta["yaml_files"].values():
        config = map_strings(_read_yaml(archive, temporary / name, name), moved)
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        (temporary / name).write_text(text, encoding="utf-8")
    for name in sorted(names):
        if name.endswith(WEIGHTS) or name in meta["files"].values():
            check_weights(temporary / name)
        elif name.endswith((".npz", ".npy")):
            _check_arrays(temporary / name)
    return files
