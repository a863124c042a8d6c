"""What a machine without a network needs, in parts of at most so many megabytes.

A part of gpu_kit.py. The first part holds wheels for Python 3.12 (``WHEELS``: ESPnet
and what it imports beyond PyTorch, torchaudio and the usual scientific packages) and
the dev recordings; the training recordings fill it up, and the others. Recordings are
Ogg Opus at 24 kbit/s, 8 h of which are 90 MB; log-mel frames would be 230 MB at 8 bits.
Ogg files are taken as they are, others are encoded.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

#: found by installing nothing and adding what an import asked for, until
#: ``import espnet_adastride.plugin`` and a training step passed: PyTorch 2.11,
#: torchaudio, numpy, scipy, sentencepiece, einops, matplotlib, tensorboard, numba,
#: scikit-learn, huggingface-hub, filelock, packaging, PyYAML, tqdm are expected there
WHEELS = (
    "espnet==202611",
    "cffi==2.1.1",
    "decorator==5.3.1",
    "humanfriendly==10.0",
    "jiwer==4.0.0",
    "librosa==1.0.0",
    "omniio==0.1.2",
    "platformdirs==4.14.8",
    "pooch==1.9.0",
    "pycparser==3.12",
    "rapidfuzz==3.14.6",
    "soundfile==0.14.0",
    "soxr==1.1.0",
    "torch-complex==0.4.4",
    "typeguard==4.6.1",
)
PYTHON = "3.12"
#: pip takes the number literally: the glibc versions that wheels are built for
GLIBC = ("2_35", "2_34", "2_31", "2_28", "2_27", "2_24", "2_17", "2_12", "2_5")
SUFFIXES = (".opus", ".ogg", ".flac", ".wav")
MB = 10**6
#: soundfile's compression level for Ogg Opus: 0 is 256 kbit/s, 1 is 6 kbit/s
OPUS_LEVEL = (256 - 24) / 250


class PartsError(RuntimeError):
    """One line: what is wrong, where, and the fix."""


# -------------------------------------------------------------------------------- pack


def find_pip():
    """Return the command of a pip: this Python's, or the PATH's.

    Raises:
        PartsError: if there is none.
    """
    for python in (sys.executable, shutil.which("python3"), shutil.which("python")):
        if python is None:
            continue
        command = [python, "-m", "pip"]
        if not subprocess.run([*command, "--version"], capture_output=True).returncode:
            return command
    raise PartsError("there is no pip: python3 -m ensurepip, or give --no_wheels")


def download_wheels(folder, wheels=WHEELS):
    """Download wheels for x86-64 Linux into a folder; return their paths.

    Raises:
        PartsError: with pip's last line, if that cannot be.
    """
    platforms = [f"manylinux_{number}_x86_64" for number in GLIBC]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    command = [*find_pip(), "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", folder]
    command += ["--python-version", PYTHON, "--implementation", "cp"]
    for name in platforms:
        command += ["--platform", name]
    done = subprocess.run([*map(str, command), *wheels], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise PartsError(
            f"pip could not download the wheels: {said[-1]}; give --no_wheels to pack "
            "without them"
        )
    return sorted(Path(folder).glob("*.whl"))


def read_set(folder):
    """Return ({name: path} of recordings, {name: text}) of a set of LibriSpeech.

    The publisher's layout (SPEAKER/CHAPTER/NAME.flac and SPEAKER-CHAPTER.trans.txt) or
    one folder of recordings and a ``trans.txt``.

    Raises:
        PartsError: if there are none.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    paths = {path.stem: path for path in files if path.suffix in SUFFIXES}
    texts = {}
    for path in files:
        if path.name.endswith("trans.txt"):
            for line in path.read_text(encoding="utf-8").splitlines():
                name, _, text = line.partition(" ")
                texts[name] = text
    common = sorted(set(paths) & set(texts))
    if not common:
        raise PartsError(
            f"{folder}: no recordings with a line in a *trans.txt; name a folder such "
            "as LibriSpeech/dev-clean"
        )
    return {name: paths[name] for name in common}, {n: texts[n] for n in common}


def as_opus(path):
    """Return a recording as the bytes of an Ogg Opus file, mono at 16 kHz."""
    if path.suffix in (".opus", ".ogg"):
        return path.read_bytes()
    import soundfile

    wave, rate = soundfile.read(path, dtype="int16")
    if rate != 16000 or wave.ndim != 1:
        raise PartsError(f"{path}: must be mono at 16000 Hz, as LibriSpeech is")
    content = io.BytesIO()
    soundfile.write(
        content, wave, rate, format="OGG", subtype="OPUS", compression_level=OPUS_LEVEL
    )
    return content.getvalue()


def seconds_of(content):
    """Return the duration of a recording's bytes."""
    import soundfile

    with soundfile.SoundFile(io.BytesIO(content)) as file:
        return len(file) / file.samplerate


def entries_of(folder, name, hours=None):
    """Yield (path in the part, bytes) of a set's recordings, then of its ``text``.

    Args:
        folder: of the set.
        name: ``train`` or ``dev``.
        hours: at most so many, spread evenly over the names; None: all.
    """
    paths, texts = read_set(folder)
    names = list(paths)
    # every k-th first: a part of the corpus has all its speakers
    stride = max(int(len(names) ** 0.5), 1)
    order = [n for start in range(stride) for n in names[start::stride]]
    kept, seconds = [], 0.0
    for one in order:
        content = as_opus(paths[one])
        if hours is not None:
            seconds += seconds_of(content)
            if seconds > 3600 * hours:
                break
        kept.append(one)
        yield f"{name}/{one}.opus", content
    lines = "".join(f"{one} {texts[one]}\n" for one in sorted(kept))
    yield f"{name}/text", lines.encode()


class Packer:
    """Fills parts of at most so many bytes, one after the other."""

    def __init__(self, folder, limit):
        self.folder, self.limit = Path(folder), limit
        self.numbers, self.archive, self.size = 0, None, 0
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("part-*.tar"):
            old.unlink()

    def add(self, name, content):
        """Put a file into the current part, or begin the next."""
        needed = 512 + -(-len(content) // 512) * 512  # its header, and whole blocks
        if needed + 4 * 10240 > self.limit:
            raise PartsError(
                f"{name} takes {len(content) / MB:.1f} MB: more than a part; give a "
                "larger --part_mb"
            )
        if self.archive is None or self.size + needed > self.limit:
            self.close()
            self.numbers += 1
            path = self.folder / f"part-{self.numbers:02d}.tar"
            self.archive, self.size = tarfile.open(path, "w"), 2 * 10240
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        self.archive.addfile(entry, io.BytesIO(content))
        self.size += needed

    def close(self):
        """Finish the current part."""
        if self.archive is not None:
            self.archive.close()
        self.archive = None


def pack(output, sets, wheels=(), part_mb=60, hours=None):
    """Write the parts and ``parts.json``, which names them.

    Args:
        output: folder for part-01.tar ...
        sets: {"dev": folder, "train": folder}; either may be missing.
        wheels: paths of wheels.
        part_mb: of a part at most, in units of 10^6 bytes.
        hours: of training speech at most.

    Returns:
        {part: bytes}.
    """
    packer = Packer(output, part_mb * MB)
    for wheel in wheels:
        packer.add(f"wheels/{wheel.name}", wheel.read_bytes())
    counts = {}
    for name in ("dev", "train"):
        if name in sets:
            limit = hours if name == "train" else None
            count = 0
            for path, content in entries_of(sets[name], name, limit):
                packer.add(path, content)
                count += 1
            counts[name] = count - 1
    packer.close()
    parts = sorted(Path(output).glob("part-*.tar"))
    manifest = {
        "parts": {
            p.name: {"bytes": p.stat().st_size, "sha256": digest(p)} for p in parts
        },
        "recordings": counts,
        "wheels": [wheel.name for wheel in wheels],
    }
    text = json.dumps(manifest, indent=1) + "\n"
    (Path(output) / "parts.json").write_text(text, encoding="utf-8")
    return {part.name: part.stat().st_size for part in parts}


def digest(path):
    """Return the SHA-256 of a file."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            total.update(block)
    return total.hexdigest()


# ------------------------------------------------------------------------------ unpack


def unpack(folder, work):
    """Unpack the parts that are in a folder into ``work``, each once.

    Parts may come one at a time, and go again once they are unpacked; ``parts.json``
    has to be with the first.

    Args:
        folder: with part-*.tar and parts.json.
        work: what remains between calls; outside the checkout.

    Returns:
        Names of the parts that are still missing.

    Raises:
        PartsError: if a part is damaged or does not belong to the others.
    """
    folder, work = Path(folder), Path(work)
    work.mkdir(parents=True, exist_ok=True)
    listed = folder / "parts.json"
    kept = work / "parts.json"
    if listed.exists():
        content = listed.read_bytes()
        if kept.exists() and kept.read_bytes() != content:
            raise PartsError(
                f"{listed} is of another packing than {kept}: remove {work}, or name "
                "another --work"
            )
        kept.write_bytes(content)
    if not kept.exists():
        raise PartsError(f"{listed} is missing: it has to be with the first part")
    manifest = json.loads(kept.read_text(encoding="utf-8"))
    missing = []
    for name, about in manifest["parts"].items():
        done, part = work / f"{name}.unpacked", folder / name
        if done.exists():
            continue
        if not part.exists():
            missing.append(name)
            continue
        if digest(part) != about["sha256"]:
            raise PartsError(f"{part} is damaged: copy it again")
        with tarfile.open(part) as archive:
            archive.extractall(work / "data", filter="data")
        done.touch()
    if not missing and "train" in manifest["recordings"]:
        (work / "data" / "complete").touch()
    return missing


def install(work):
    """Install the unpacked wheels, without a network, into ``work``/site.

    Returns:
        The folder to put on PYTHONPATH, None if there are no wheels.

    Raises:
        PartsError: with pip's last line.
    """
    work = Path(work)
    wheels, site = sorted((work / "data" / "wheels").glob("*.whl")), work / "site"
    if not wheels:
        return None
    names = " ".join(wheel.name for wheel in wheels)
    stamp = work / "site.installed"
    if stamp.exists() and stamp.read_text() == names:
        return site
    shutil.rmtree(site, ignore_errors=True)
    if subprocess.run(
        [sys.executable, "-m", "pip", "--version"], capture_output=True
    ).returncode:
        _unzip(wheels, site)
    else:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
        command += [
            "--no-deps",
            "--no-compile",
            "--no-cache-dir",
            "--target",
            str(site),
        ]
        command += ["--disable-pip-version-check", "--root-user-action=ignore"]
        done = subprocess.run(
            [*command, *map(str, wheels)], capture_output=True, text=True
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise PartsError(f"pip could not install the wheels: {said[-1]}")
    stamp.write_text(names)
    return site


def _unzip(wheels, site):
    """Lay wheels out as pip does, where there is no pip (an environment made by uv)."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    for data in site.glob("*.data"):
        for kind in ("purelib", "platlib"):
            if (data / kind).is_dir():
                shutil.copytree(data / kind, site, dirs_exist_ok=True)


def environment(work, root, triton):
    """Return the environment of a child: this checkout, then the unpacked wheels.

    Args:
        work: of :func:`install`.
        root: of the checkout.
        triton: "0" or "1".
    """
    first = [Path(work) / "shim", Path(root), Path(root) / "benchmarks"]
    paths = [str(p) for p in (*first, Path(work) / "site") if p.is_dir()]
    before = os.environ.get("PYTHONPATH")
    env = dict(os.environ, PYTHONUNBUFFERED="1", ADASTRIDE_TRITON=triton)
    env["PYTHONPATH"] = os.pathsep.join(paths + ([before] if before else []))
    return env
