"""Downloads: resumed, checked, unpacked; every failure is one line."""

import contextlib
import hashlib
import http.server
import io
import os
import resource
import shutil
import ssl
import tarfile
import threading

import numpy as np
import pytest

from espnet_adastride.bin import download_corpus, download_librispeech
from espnet_adastride.corpora import downloads
from espnet_adastride.corpora.clips import find_clips
from espnet_adastride.errors import UserError


def tarball(part, extra=()):
    """A part's archive as OpenSLR packs it, with one incompressible file."""
    data = io.BytesIO()
    noise = np.random.default_rng(1).bytes(300_000)
    members = [
        ("LibriSpeech/LICENSE.TXT", b"free"),
        (f"LibriSpeech/{part}/1/2/1-2.trans.txt", b"1-2-0000 X\n"),
        (f"LibriSpeech/{part}/1/2/1-2-0000.flac", noise),
        *extra,
    ]
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; drops the line after ``drop`` bytes of the first answers."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.drops, self.ranges, self.honour_range = {}, [], [], True
        self.url = f"http://127.0.0.1:{self.server_port}/resources/12"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        data = self.server.files.get(self.path.rsplit("/", 1)[-1])
        if data is None:
            self.send_error(404)
            return
        start = 0
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if wanted and self.server.honour_range:
            start = int(wanted[len("bytes=") : -1])
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        drop = self.server.drops.pop(0) if self.server.drops else None
        self.wfile.write(data[start:] if drop is None else data[start : start + drop])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        data = tarball("mini")
        server.files["mini.tar.gz"] = data
        server.files["md5sum.txt"] = (
            f"{hashlib.md5(b'x').hexdigest()}  other.tar.gz\n"
            f"{hashlib.md5(data).hexdigest()}  mini.tar.gz\n"
        ).encode()
        yield server
        server.shutdown()
        thread.join()


def get(server, where, *options, part="mini"):
    download_librispeech.main(
        ["--corpus", str(where), "--part", part, "--url", server.url, *options]
    )


def test_download_unpacks_and_leaves_nothing_else(server, tmp_path, capsys):
    get(server, tmp_path / "c")
    part = tmp_path / "c" / "LibriSpeech" / "mini"
    assert (part / "1" / "2" / "1-2.trans.txt").read_text() == "1-2-0000 X\n"
    assert (part.parent / "LICENSE.TXT").read_text() == "free"
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["LibriSpeech"]
    assert "\r" not in capsys.readouterr().err  # in a log, no bar
    requests = len(server.ranges)
    get(server, part.parent)  # LibriSpeech/ itself is understood too
    assert "already in" in capsys.readouterr().out
    assert len(server.ranges) == requests


def test_an_empty_folder_is_no_download(server, tmp_path):
    part = tmp_path / "LibriSpeech" / "mini"
    part.mkdir(parents=True)
    get(server, tmp_path)
    assert (part / "1" / "2" / "1-2.trans.txt").read_text() == "1-2-0000 X\n"


def test_download_goes_on_where_it_stopped(server, tmp_path):
    server.drops = [None, 100_000, 50_000]  # the first answer is md5sum.txt
    get(server, tmp_path, "--keep_archive")
    assert server.ranges[1:] == [None, "bytes=100000-", "bytes=150000-"]
    assert (tmp_path / "mini.tar.gz").read_bytes() == server.files["mini.tar.gz"]


@pytest.mark.parametrize("have", [1000, None, 10**6])
@pytest.mark.parametrize("honour", [True, False])
def test_download_takes_up_a_partial_file(server, tmp_path, have, honour):
    data = server.files["mini.tar.gz"]
    server.honour_range = honour
    # some of it, all of it, or something longer than it
    old = data if have is None else (data + bytes(10**6))[:have]
    (tmp_path / "mini.tar.gz.part").write_bytes(old)
    get(server, tmp_path)
    assert (tmp_path / "LibriSpeech" / "mini").is_dir()


def test_download_gives_up_but_keeps_what_came(server, tmp_path):
    server.drops = [None, 1000] + [0] * 10
    with pytest.raises(SystemExit, match="run again: 1000 bytes are kept") as stop:
        get(server, tmp_path)
    assert "\n" not in str(stop.value)
    assert not (tmp_path / "LibriSpeech").exists()
    server.drops = []
    get(server, tmp_path)
    assert server.ranges[-1] == "bytes=1000-"


@contextlib.contextmanager
def largest_file(size):
    """Let no file of this process grow beyond ``size`` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("have", ["archive", "nothing"])
def test_a_full_disk_is_no_damaged_archive(server, tmp_path, have):
    """It is told at once, and what was downloaded stays; then it is unpacked."""
    archive, data = tmp_path / "mini.tar.gz", server.files["mini.tar.gz"]
    if have == "archive":
        archive.write_bytes(data)
    with largest_file(100_000), pytest.raises(SystemExit) as caught:
        get(server, tmp_path)
    line = str(caught.value)
    refused = ".mini.unpacking" if have == "archive" else "mini.tar.gz.part"
    assert f"/{refused} cannot be written or read: files may not become as l" in line
    assert "then give the same command again" in line and "delete" not in line
    assert [p.name for p in tmp_path.iterdir()] == [
        "mini.tar.gz" if have == "archive" else "mini.tar.gz.part"
    ]
    assert len(server.ranges) == (1 if have == "archive" else 2)  # with md5sum.txt
    get(server, tmp_path)
    assert (tmp_path / "LibriSpeech" / "mini" / "1" / "2").is_dir()


def test_a_broken_connection_is_no_full_disk(server, tmp_path, monkeypatch):
    """Numbers 1 and 5 are EPERM and EIO of disks, but not here."""
    broken = [ssl.SSLError(1, "bad record"), ssl.SSLError(5, "ended")]
    fetch_once = downloads._fetch_once

    def at_the_third_try(address, path):
        if broken:
            raise broken.pop()
        fetch_once(address, path)

    monkeypatch.setattr(downloads, "_fetch_once", at_the_third_try)
    get(server, tmp_path)
    assert (tmp_path / "LibriSpeech" / "mini").is_dir() and not broken


def test_a_damaged_archive_is_named(tmp_path):
    """Bytes changed at its begin, within it, or in its check sum."""
    good = tarball("mini")
    for place in (0, 12, len(good) // 2, len(good) - 8):
        archive = tmp_path / "a.tar.gz"
        archive.write_bytes(good[:place] + b"\0\xff\0\xff" + good[place + 4 :])
        with pytest.raises(UserError, match="a.tar.gz: cannot be unpacked .*delete it"):
            with downloads.unpacked(archive, tmp_path / "staging"):
                pass
        assert not (tmp_path / "staging").exists()


def test_what_is_done_with_an_unpacked_archive_does_not_damage_it(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(tarball("mini"))
    with pytest.raises(PermissionError, match="there"):
        with downloads.unpacked(tmp_path / "a.tar.gz", tmp_path / "staging"):
            raise PermissionError(13, "Permission denied", "there")


def test_download_refuses_a_wrong_md5_sum(server, tmp_path):
    server.files["mini.tar.gz"] = tarball("mini", [("LibriSpeech/x", b"y")])
    with pytest.raises(SystemExit, match="MD5 sum .* not the published") as stop:
        get(server, tmp_path)
    assert "\n" not in str(stop.value)
    assert [p.name for p in tmp_path.iterdir()] == ["mini.tar.gz.damaged"]


def test_published_md5_sums_are_used_for_published_parts(server, tmp_path):
    server.files["dev-clean.tar.gz"] = tarball("dev-clean")
    with pytest.raises(SystemExit, match=downloads.MD5["dev-clean"]):
        get(server, tmp_path, part="dev-clean")


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/adastride-evil.txt"])
def test_archives_cannot_write_elsewhere(server, tmp_path, name):
    data = tarball("mini", [(name, b"evil")])
    server.files["mini.tar.gz"] = data
    server.files["md5sum.txt"] = (
        f"{hashlib.md5(data).hexdigest()}  mini.tar.gz".encode()
    )
    where = tmp_path / "a" / "b"
    if name.startswith("/"):
        # the filter strips the leading slash: it lands in the staging folder
        get(server, where)
    else:
        with pytest.raises(SystemExit, match="cannot be unpacked"):
            get(server, where)
        assert not (where / "LibriSpeech").exists()
    assert not list(tmp_path.rglob("*evil*")) and not os.path.exists(name)


def test_download_errors_are_one_line(server, tmp_path):
    for part, pattern in (
        ("none", "md5sum.txt does not name none.tar.gz"),
        ("../x", "is not a part of LibriSpeech"),
        ("dev-clean", "the server answered 404"),
    ):
        with pytest.raises(SystemExit, match=pattern) as stop:
            get(server, tmp_path, part=part)
        assert "\n" not in str(stop.value)
    with pytest.raises(SystemExit, match="--corpus is empty"):
        get(server, "")
    data = tarball("other")
    server.files["mini.tar.gz"] = data
    server.files["md5sum.txt"] = (
        f"{hashlib.md5(data).hexdigest()}  mini.tar.gz".encode()
    )
    with pytest.raises(SystemExit, match="holds no LibriSpeech/mini"):
        get(server, tmp_path)
    assert not (tmp_path / "LibriSpeech").exists()


def test_a_corpus_is_downloaded_and_unpacked(tmp_path):
    archive = tmp_path / "master.tar.gz"
    source = tmp_path / "free-spoken-digit-dataset-master"
    (source / "recordings").mkdir(parents=True)
    (source / "recordings" / "0_ann_0.wav").write_bytes(b"RIFF")
    (source / "recordings" / "1_ann_0.wav").write_bytes(b"RIFF")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, source.name)
    folder = tmp_path / "downloads" / "fsdd"
    folder.mkdir(parents=True)  # an empty one is filled
    url = ["--url", archive.as_uri()]
    download_corpus.main(["--name", "fsdd", "--corpus", str(folder), *url])
    assert len(find_clips(folder, "fsdd")) == 2
    assert (folder / "recordings").is_dir()
    (tmp_path / "link").symlink_to("larger_disk/fsdd")  # not there yet
    download_corpus.main(["--name", "fsdd", "--corpus", f"{tmp_path}/link", *url])
    assert (tmp_path / "larger_disk" / "fsdd" / "recordings").is_dir()
    assert [path.name for path in folder.parent.iterdir()] == ["fsdd"]
    archive.write_bytes(archive.read_bytes()[:60])  # an archive cut off
    download_corpus.main(["--name", "fsdd", "--corpus", str(folder), *url])  # is there
    shutil.rmtree(folder)
    for _ in range(2):
        with pytest.raises(SystemExit) as caught:
            download_corpus.main(["--name", "fsdd", "--corpus", str(folder), *url])
        line = str(caught.value)
        assert "cannot be unpacked" in line and "delete it" in line and "\n" not in line
    assert not folder.exists()
