"""Untrusted archives: what is rejected, and that nothing is left behind."""

import errno
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
import yaml

from espnet_adastride.bin import unpack_model
from espnet_adastride.errors import UserError
from espnet_adastride.networks import unpacking
from espnet_adastride.networks.unpacking import check_weights, safe_name, unpack

META = {
    "yaml_files": {"asr_train_config": "exp/asr/config.yaml"},
    "files": {"asr_model_file": "exp/asr/valid.acc.ave.pth"},
}
CONFIG = {
    "bpemodel": "data/bpe.model",
    "normalize_conf": {"stats_file": "exp/stats/feats_stats.npz"},
    "token_list": ["<blank>", "a"],
}


def weights(content=None):
    file = io.BytesIO()
    torch.save({"w": torch.arange(3)} if content is None else content, file)
    return file.getvalue()


def arrays(**content):
    file = io.BytesIO()
    np.savez(file, **(content or {"count": np.ones(1)}))
    return file.getvalue()


def members(**changed):
    """The files of a good archive, some changed."""
    content = {
        "meta.yaml": yaml.safe_dump(META).encode(),
        "exp/asr/config.yaml": yaml.safe_dump(CONFIG).encode(),
        "exp/asr/valid.acc.ave.pth": weights(),
        "data/bpe.model": b"pieces",
        "exp/stats/feats_stats.npz": arrays(),
    }
    return {**content, **changed}


def write_tar(path, content, mode="w", extra=()):
    with tarfile.open(path, mode) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return path


def write_zip(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def refused(archive, tmp_path):
    """Return the line in which it is refused; nothing may have been written."""
    before = set(tmp_path.rglob("*")) - {tmp_path / "deep"}
    with pytest.raises(SystemExit) as error:
        unpack_model.main([str(archive), str(tmp_path / "deep" / "target")])
    after = set(tmp_path.rglob("*")) - {tmp_path / "deep"}
    assert after == before
    line = str(error.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_a_good_archive_is_unpacked_and_points_to_its_new_place(
    kind, tmp_path, capsys, monkeypatch
):
    path = tmp_path / f"model.{kind}"
    if kind == "zip":
        write_zip(path, members())
    else:
        write_tar(path, members(), "w:gz" if kind == "tgz" else "w")
    target = tmp_path / "my models" / "one"
    unpack_model.main([str(path), str(target)])
    assert capsys.readouterr().out.splitlines() == [
        f"--asr_train_config {target}/exp/asr/config.yaml",
        f"--asr_model_file {target}/exp/asr/valid.acc.ave.pth",
    ]
    config = yaml.safe_load((target / "exp/asr/config.yaml").read_text())
    assert config["bpemodel"] == f"{target}/data/bpe.model"
    stats = config["normalize_conf"]["stats_file"]
    assert np.load(stats)["count"].tolist() == [1]
    assert config["token_list"] == ["<blank>", "a"]
    loaded = torch.load(target / "exp/asr/valid.acc.ave.pth", weights_only=True)
    assert loaded["w"].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="already exists"):
        unpack(path, target)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    for here in (".", empty):
        with pytest.raises(UserError, match="current folder: give a new one, e.g. m"):
            unpack(path, here)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "exp/../../evil",
        "/tmp/evil",
        "~/evil",
        "C:/evil",
        "..\\evil",
        ".",
        "",
        "a\0b",
    ],
)
def test_names_that_point_elsewhere_are_not_safe(name, tmp_path):
    assert not safe_name(name)
    if name not in ("", ".", "a\0b"):
        for write in (write_tar, write_zip):
            path = write(tmp_path / "evil.archive", members(**{name: b"x"}))
            assert "points outside the folder" in refused(path, tmp_path)
            path.unlink()


def test_ordinary_names_are_safe():
    for name in ("a", "a/b.pth", "exp/asr_x..y/config.yaml", "./a", "a b/c;d"):
        assert safe_name(name)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(kind, tmp_path):
    info = tarfile.TarInfo("data/link")
    info.type, info.linkname = kind, "/etc"
    path = write_tar(tmp_path / "evil.tar", members(), extra=[info])
    assert "'data/link' is not a plain file" in refused(path, tmp_path)


def test_a_link_in_a_zip_is_refused(tmp_path):
    path = tmp_path / "evil.zip"
    info = zipfile.ZipInfo("data/link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc")
    assert "'data/link' is not a plain file" in refused(path, tmp_path)


class Evil:
    """A pickle that leaves a trace where it is loaded."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.system, (f"touch '{self.trace}'",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "deep" / "trace"
    for data in (weights({"w": Evil(trace)}), pickle.dumps(Evil(trace))):
        content = members(**{"exp/asr/valid.acc.ave.pth": data})
        path = write_zip(tmp_path / "evil.zip", content)
        line = refused(path, tmp_path)
        assert "valid.acc.ave.pth has other objects than tensors" in line
        # beside the model, and by another name in meta.yaml
        path = write_zip(tmp_path / "evil.zip", members(**{"lm/other.pth": data}))
        assert "lm/other.pth has other objects" in refused(path, tmp_path)
        meta = {**META, "files": {"asr_model_file": "exp/model.data"}}
        content = members(**{"exp/model.data": data})
        content["meta.yaml"] = yaml.safe_dump(meta).encode()
        path = write_zip(tmp_path / "evil.zip", content)
        assert "exp/model.data has other objects" in refused(path, tmp_path)
    assert not trace.exists()


def test_yaml_and_arrays_with_code_are_refused(tmp_path):
    code = b"a: !!python/object/apply:os.system ['touch trace']\n"
    for name in ("meta.yaml", "exp/asr/config.yaml"):
        path = write_zip(tmp_path / "evil.zip", members(**{name: code}))
        assert f"{name} is not plain YAML" in refused(path, tmp_path)
    lines = ["l0: &l0 [a, a]"] + [
        f"l{i}: &l{i} [*l{i - 1}, *l{i - 1}]" for i in range(1, 60)
    ]
    bomb = "\n".join(lines).encode()
    path = write_zip(tmp_path / "evil.zip", members(**{"exp/asr/config.yaml": bomb}))
    assert "config.yaml is not plain YAML: it has aliases" in refused(path, tmp_path)
    deep = b"a: " + b"[" * 600 + b"]" * 600
    path = write_zip(tmp_path / "evil.zip", members(**{"exp/asr/config.yaml": deep}))
    assert "config.yaml is not plain YAML" in refused(path, tmp_path)
    objects = arrays(count=np.array([{"a": 1}], dtype=object))
    path = write_zip(
        tmp_path / "evil.zip", members(**{"exp/stats/feats_stats.npz": objects})
    )
    assert "feats_stats.npz has other objects" in refused(path, tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.9])
def test_a_truncated_archive_is_refused(kind, share, tmp_path):
    content = members(big=np.random.default_rng(1).bytes(200000))
    path = tmp_path / f"model.{kind}"
    if kind == "zip":
        write_zip(path, content)
    else:
        write_tar(path, content, "w:gz" if kind == "tgz" else "w")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    line = refused(path, tmp_path)
    assert "get the file again" in line or "truncated" in line


def test_a_changed_byte_in_a_zip_is_noticed(tmp_path):
    path = write_zip(tmp_path / "model.zip", members())
    data = path.read_bytes().replace(b"pieces", b"Pieces")
    path.write_bytes(data)
    assert "it is broken (Bad CRC-32" in refused(path, tmp_path)


@pytest.mark.parametrize("kind", ["zip", "txz"])
def test_a_damaged_lzma_stream_is_refused(kind, tmp_path):
    content = members(big="".join(map(str, range(30000))).encode())
    path = tmp_path / f"model.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    else:
        write_tar(path, content, "w:xz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    path.write_bytes(data)
    assert "it is broken (Corrupt input data); get the file" in refused(path, tmp_path)


@pytest.mark.parametrize(
    "number, named", [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permission")]
)
def test_a_disk_that_refuses_is_no_broken_archive(number, named, tmp_path, monkeypatch):
    path = write_zip(tmp_path / "model.zip", members())

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(unpacking, "_copy", refuse)
    line = refused(path, tmp_path)
    assert named in line and "broken" not in line


def test_an_archive_of_something_else_is_refused(tmp_path):
    path = write_zip(tmp_path / "other.zip", {"a.txt": b"hello"})
    assert "it has no meta.yaml" in refused(path, tmp_path)
    content = members()
    del content["exp/asr/valid.acc.ave.pth"]
    path = write_zip(tmp_path / "other.zip", content)
    assert "meta.yaml names 'exp/asr/valid.acc.ave.pth'" in refused(path, tmp_path)
    meta = {**META, "files": {"asr_model_file": "/etc/passwd"}}
    path = write_zip(
        tmp_path / "other.zip", members(**{"meta.yaml": yaml.safe_dump(meta).encode()})
    )
    assert "meta.yaml names '/etc/passwd'" in refused(path, tmp_path)


@pytest.mark.parametrize(
    "first, second", [(b"ab", b"ac"), (b"a", b"ab"), (b"ab", b"a")]
)
def test_a_name_may_stand_twice_for_the_same_file_alone(first, second, tmp_path):
    """As ESPnet's asr.sh packs RESULTS.md."""
    for contents in ((first, second), (first, first)):
        path = write_tar(tmp_path / "twice.tar", members())
        with tarfile.open(path, "a") as archive:
            for content in contents:
                info = tarfile.TarInfo("exp/RESULTS.md")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        if contents[0] != contents[1]:
            line = refused(path, tmp_path)
            assert "'exp/RESULTS.md' occurs twice with different content" in line
    unpack(path, tmp_path / "target")
    assert (tmp_path / "target" / "exp" / "RESULTS.md").read_bytes() == first


def test_more_than_the_disk_holds_is_refused(tmp_path):
    path = tmp_path / "bomb.tar"
    info = tarfile.TarInfo("big")
    info.size = 2**60
    with path.open("wb") as file:  # a header alone
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.write(bytes(1024))
    line = refused(path, tmp_path)
    assert "are free on the disk" in line or "broken" in line


def test_check_weights_takes_tensors_alone(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(weights())
    check_weights(path)
    path.write_bytes(weights()[:-30])
    with pytest.raises(UserError, match="or is truncated"):
        check_weights(path)
