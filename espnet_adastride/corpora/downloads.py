"""Download corpora from their publishers and unpack them; downloads resume.

:func:`download_part` makes a part of LibriSpeech from OpenSLR (SLR12), whose archive
must have the published MD5 sum; :func:`download_corpus` makes a corpus of classified
recordings, whose publisher gives no checksum. An archive is unpacked next to its
destination and moved there when complete.
"""

import contextlib
import gzip
import hashlib
import http.client
import os
import re
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple, Optional

from espnet_adastride.errors import UserError, is_disk_error
from espnet_adastride.progress import progress_bar

URL = "https://www.openslr.org/resources/12"

# https://www.openslr.org/resources/12/md5sum.txt
MD5 = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}

CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte
TRIES = 5  # failed connections in a row before it gives up


class Corpus(NamedTuple):
    """A published corpus.

    Attributes:
        url: address of a .tar.gz.
        size: download size, shown to the user.
        top: True to strip the archive's only top folder.
    """

    url: str
    size: str
    top: bool


CORPORA = {
    "speech_commands": Corpus(
        "https://storage.googleapis.com/download.tensorflow.org/data/"
        "speech_commands_v0.02.tar.gz",
        "2.3 GB",
        False,
    ),
    "fsdd": Corpus(
        "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/heads/"
        "master.tar.gz",
        "20 MB",
        True,
    ),
    "esc10": Corpus(
        "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.tar.gz",
        "600 MB",
        True,
    ),
}


def download_part(
    corpus: Path, part: str, url: str = URL, keep_archive: bool = False
) -> Path:
    """Make ``corpus/LibriSpeech/part``, downloading its archive where needed.

    Args:
        corpus: Folder that holds or will hold ``LibriSpeech/``, or ``LibriSpeech/``
            itself.
        part: E.g. ``dev-clean``.
        url: Folder of ``PART.tar.gz`` and ``md5sum.txt``: OpenSLR or a mirror.
        keep_archive: Keep ``corpus/PART.tar.gz`` after unpacking.

    Returns:
        The part's folder.

    Raises:
        UserError: No connection, an unknown part, no space, a wrong MD5 sum, or an
            archive without that part.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", part):
        raise UserError(
            f"{part!r} is not a part of LibriSpeech; parts: {', '.join(MD5)}"
        )
    corpus = Path(os.path.expanduser(corpus)).absolute()
    if corpus.name == "LibriSpeech":
        corpus = corpus.parent  # the archives begin with LibriSpeech/
    url = url.rstrip("/")
    target = corpus / "LibriSpeech" / part
    if _filled(target):
        print(f"{part}: already in {target}")
        return target
    corpus.mkdir(parents=True, exist_ok=True)
    archive = corpus / f"{part}.tar.gz"
    md5 = MD5.get(part) or published_md5(url, part)
    if archive.exists():
        print(f"{part}: unpacking {archive}, downloaded before")
    else:
        partial = corpus / f"{part}.tar.gz.part"
        fetch(f"{url}/{part}.tar.gz", partial)
        os.replace(partial, archive)
    found = md5sum(archive)
    if found != md5:
        damaged = archive.with_name(f"{archive.name}.damaged")
        os.replace(archive, damaged)
        raise UserError(
            f"{archive.name} has the MD5 sum {found}, not the published {md5}; it is "
            f"now {damaged}: delete it and run again, or try another mirror with --url"
        )
    unpack(archive, part, corpus)
    if not keep_archive:
        archive.unlink()
    print(f"{part}: in {target}")
    return target


def download_corpus(name: str, folder, url: str = "") -> Path:
    """Download and unpack a corpus into ``folder``.

    Args:
        name: a key of :data:`CORPORA`.
        folder: destination; left alone if there is something in it.
        url: address of another .tar.gz, e.g. a mirror's.

    Raises:
        UserError: no connection, no space, or an archive that cannot be unpacked.
    """
    # realpath: a link to a larger disk stays
    corpus, folder = CORPORA[name], Path(os.path.realpath(os.path.expanduser(folder)))
    if _filled(folder):
        print(f"{name}: already in {folder}")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.with_name(f"{folder.name}.tar.gz.part")
    print(f"{name}: {corpus.size} from {url or corpus.url}")
    fetch(url or corpus.url, archive)
    with unpacked(archive, folder.with_name(f".{folder.name}.unpacking")) as staging:
        inside = list(staging.iterdir())
        if corpus.top and len(inside) != 1:
            raise UserError(
                f"{archive}: contains {len(inside)} top folders instead of one; delete "
                "it, and give another --url"
            )
        os.replace(inside[0] if corpus.top else staging, folder)
    archive.unlink()
    print(f"{name}: in {folder}")
    return folder


def _filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def published_md5(url: str, part: str) -> str:
    """Look up a part's MD5 sum in the publisher's ``md5sum.txt``.

    Raises:
        UserError: The list cannot be read or does not name the part.
    """
    try:
        with urllib.request.urlopen(f"{url}/md5sum.txt", timeout=TIMEOUT) as response:
            lines = response.read().decode("utf-8", "replace").splitlines()
    except (OSError, ValueError) as e:
        raise UserError(
            f"{part} is not a part of LibriSpeech known here ({', '.join(MD5)}), and "
            f"{url}/md5sum.txt cannot be read ({_reason(e)})"
        ) from None
    for line in lines:
        fields = line.split()
        if len(fields) == 2 and fields[1].lstrip("*") == f"{part}.tar.gz":
            return fields[0].lower()
    raise UserError(f"{url}/md5sum.txt does not name {part}.tar.gz; misspelt part?")


def _bar(what: str, total: Optional[int], done: int = 0):
    return progress_bar(total, what, "byte", done, unit_scale=True)


def fetch(address: str, path: Path) -> None:
    """Download to ``path``, resuming after the bytes it already holds.

    Raises:
        UserError: The server rejects the request, the disk is too small, or
            :data:`TRIES` connections in a row failed; the partial download is kept for
            the next run.
        OSError: The disk is full, or refuses it otherwise.
    """
    failures = 0
    while True:
        before = path.stat().st_size if path.exists() else 0
        try:
            _fetch_once(address, path)
            return
        except urllib.error.HTTPError as e:
            if e.code < 500:
                raise UserError(
                    f"{address}: the server answered {e.code} {e.reason}; give another "
                    "address with --url"
                )
            reason = _reason(e)
        except (OSError, EOFError, http.client.HTTPException) as e:
            # an SSLError has numbers of its own
            if is_disk_error(e) and not isinstance(e, ssl.SSLError):
                e.filename = str(path)
                raise
            reason = _reason(e)
        after = path.stat().st_size if path.exists() else 0
        failures = 0 if after > before else failures + 1
        if failures >= TRIES:
            raise UserError(
                f"{address}: no data ({reason}); check the network and run again: "
                f"{after} bytes are kept in {path}"
            )
        print(f"{address}: {reason}; trying again")
        time.sleep(min(2.0**failures, 30.0) if failures > 1 else 0.5)


def _fetch_once(address: str, path: Path) -> None:
    """Download over one connection; raise EOFError if it ends too early."""
    have = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(address)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as e:
        whole = re.fullmatch(r"bytes \*/(\d+)", e.headers.get("Content-Range", ""))
        if e.code == 416 and whole and int(whole.group(1)) == have:
            return  # nothing is missing
        if e.code == 416:
            path.unlink()  # longer than the file: from another version
            raise EOFError(
                "the partial download does not match; starting over"
            ) from None
        raise
    with response:
        if have and response.status != 206:
            have = 0  # the server sends everything again
        rest: Optional[int] = None
        if response.headers.get("Content-Length"):
            rest = int(response.headers["Content-Length"])
            free = shutil.disk_usage(path.parent).free
            # The archive and its contents, which are about as large (FLAC).
            if free < rest + (have + rest):
                raise UserError(
                    f"{path.parent}: {free / 1e9:.1f} GB free, "
                    f"{(2 * rest + have) / 1e9:.1f} GB needed for {path.name} and "
                    "unpacking it; free some space or choose another folder"
                )
        with (
            open(path, "ab" if have else "wb") as f,
            _bar(path.name[: -len(".part")], rest and have + rest, have) as bar,
        ):
            got = 0
            while block := response.read(CHUNK):
                f.write(block)
                got += len(block)
                bar.update(len(block))
    if rest is not None and got < rest:
        raise EOFError(f"the connection ended {rest - got} bytes early")


def md5sum(path: Path) -> str:
    """MD5 sum of a file, in hexadecimal."""
    digest = hashlib.md5()
    with (
        open(path, "rb") as f,
        _bar(f"checking {path.name}", path.stat().st_size) as bar,
    ):
        while block := f.read(CHUNK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def unpack(archive: Path, part: str, corpus: Path) -> None:
    """Unpack beside the corpus, then move ``LibriSpeech/part`` into place.

    Raises:
        UserError: Damaged archive, members outside the folder, or no such part.
    """
    with unpacked(archive, corpus / f".{part}.unpacking") as staging:
        source = staging / "LibriSpeech"
        if not (source / part).is_dir():
            raise UserError(
                f"{archive}: holds no LibriSpeech/{part}; delete it and give another "
                "--url"
            )
        root = corpus / "LibriSpeech"
        root.mkdir(exist_ok=True)
        for path in source.iterdir():
            # The licence and the speaker list come with every part.
            if path.is_file() and not (root / path.name).exists():
                os.replace(path, root / path.name)
        os.replace(source / part, root / part)


@contextlib.contextmanager
def unpacked(archive: Path, staging: Path):
    """Unpack an archive into the folder ``staging``, which is removed at the end.

    Raises:
        UserError: A damaged archive, or members outside the folder.
        OSError: The disk is full, or refuses it otherwise; the archive is good.
    """
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        _extract(archive, staging)
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    try:
        with (
            progress_bar(None, f"unpacking {archive.name}") as bar,
            tarfile.open(archive, "r:gz") as tar,
        ):
            for member in tar:
                # "data" rejects absolute paths, "..", devices and links outside.
                tar.extract(member, folder, filter="data")
                bar.update()
            while tar.fileobj.read(CHUNK):  # gzip's check sum is behind the last byte
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{archive}: cannot be unpacked ({_reason(error)}); delete it and run again"
        ) from None
    except OSError as error:  # that of a full disk has no name
        error.filename = error.filename or str(folder)
        raise


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)
