"""Stamps record that a stage is done and unchanged.

A stamp is a small JSON file, written last and atomically, with the fingerprint of the
stage's inputs (file contents, folder listings, options) and outputs. A stage is done if
the stamp exists, its inputs have the same fingerprint, and its outputs are unchanged.
An interrupted stage leaves no stamp.
"""

import glob
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional

from espnet_adastride.files import PathLike, files_in, sha256_of, write_text

#: options that begin so are not compared with stamps of versions without them
LATER = "audio of "
# Larger outputs (models) are compared by size only.
MAX_HASHED_OUTPUT = 16 * 2**20


def hash_file(path: PathLike) -> str:
    """Return the SHA-256 of a file's content, or ``missing``."""
    return sha256_of(path) if Path(path).is_file() else "missing"


def hash_listing(paths: Iterable[PathLike]) -> str:
    """Return a hash of paths, sizes and modification times (no file is read)."""
    digest = hashlib.sha256()
    for path in sorted(str(p) for p in paths):
        try:
            status = os.stat(path)
            line = f"{path} {status.st_size} {status.st_mtime_ns}\n"
        except OSError:
            line = f"{path} missing\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def hash_tree(folder: PathLike) -> str:
    """Return :func:`hash_listing` of all files below a folder, or ``missing``."""
    if not Path(folder).is_dir():
        return "missing"
    return hash_listing(files_in(folder, hidden=True))


def model_fingerprint(model: PathLike, options: Dict[str, Any]) -> str:
    """Return a hash of the files of a model and of the options it is used with.

    No file is read; by another path, a model is the same.

    Args:
        model: archive or exported model, or experiment folder, of which the
            configuration and parameter files count.
        options: values as strings decide; of those that name a file, also its size and
            modification time.
    """
    path = Path(os.path.realpath(model))
    files = [path]
    if path.is_dir():
        files = [f for f in files_in(path) if f.suffix in (".pth", ".yaml")]
    values = sorted((key, str(value)) for key, value in options.items())
    files += [Path(value) for _, value in values if os.path.isfile(value)]
    return hashlib.sha256((hash_listing(files) + repr(values)).encode()).hexdigest()


def fingerprint(
    inputs: Iterable[PathLike] = (),
    trees: Iterable[PathLike] = (),
    options: Optional[Dict[str, object]] = None,
) -> Dict[str, Dict[str, str]]:
    """Return the dependencies of a stage, as names and hashes or values."""
    return {
        "input": {str(p): hash_file(p) for p in inputs},
        "folder": {str(p): hash_tree(p) for p in trees},
        "option": {k: str(v) for k, v in (options or {}).items()},
    }


def describe_output(path: PathLike) -> str:
    """Return a hash of an output (of its size, if it is a large model)."""
    path = Path(path)
    if path.is_file() and path.stat().st_size > MAX_HASHED_OUTPUT:
        return f"size {path.stat().st_size}"
    return hash_file(path)


def first_difference(old: dict, new: dict) -> Optional[str]:
    """Describe the first difference of two fingerprints, or return None."""
    for kind in ("option", "input", "folder"):
        before, after = old.get(kind, {}), new.get(kind, {})
        for name in sorted(set(before) | set(after)):
            if name not in before and name.startswith(LATER):
                continue
            if before.get(name) != after.get(name):
                if name.startswith(LATER) or name == "audio":
                    return f"{name} changed"  # the values are hashes
                if kind == "option":
                    return f"{name} was {before.get(name)!r}, is {after.get(name)!r}"
                what = "is missing" if after.get(name) == "missing" else "changed"
                if name not in before:
                    what = "is new"
                if name not in after:
                    what = "is no longer used"
                return f"{kind} {name} {what}"
    return None


def recorded_options(stamp: "Stamp") -> Dict[str, str]:
    """Return the options with which a stage was done; none if it was not."""
    return (stamp.read() or {}).get("work", {}).get("option", {})


def expand(patterns: Iterable[str]) -> List[str]:
    """Expand globs in the names of files, not of their folders, which may hold ``[``.

    A name that is a file or matches nothing is unchanged.
    """
    names: List[str] = []
    for pattern in patterns:
        folder, name = os.path.split(pattern)
        found: List[str] = []
        if not os.path.exists(pattern):
            found = sorted(glob.glob(os.path.join(glob.escape(folder), name)))
        names += found or [pattern]
    return names


class Stamp:
    """The stamp of a stage.

    Args:
        path: The JSON file, e.g. ``dump/raw/dev/.stage_done``.
    """

    def __init__(self, path: PathLike):
        self.path = Path(path)

    def read(self) -> Optional[dict]:
        """Return the stamp's content; None if it is missing or unreadable."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def why_not_done(self, work: dict) -> Optional[str]:
        """Return why the stage must run (again); None if it is done.

        Args:
            work: :func:`fingerprint` of the current inputs.
        """
        stamp = self.read()
        if stamp is None:
            return "not done yet"
        changed = first_difference(stamp.get("work", {}), work)
        if changed:
            return changed
        for name, before in stamp.get("outputs", {}).items():
            after = describe_output(name)
            if after != before:
                what = "is missing" if after == "missing" else "was changed"
                return f"output {name} {what}"
        return None

    def is_done(self, work: dict, rerun: bool, what: str) -> bool:
        """Return whether the work is done; print this, or why it is done again."""
        reason = "--rerun true" if rerun else self.why_not_done(work)
        if reason is None:
            print(f"done and unchanged: {self.read()['summary'] or what}")
            return True
        if self.path.exists():
            print(f"doing {what} again: {reason}")
        self.clear()
        return False

    def clear(self) -> None:
        """Remove the stamp: the stage is no longer done."""
        self.path.unlink(missing_ok=True)

    def write(self, work: dict, outputs: Iterable[PathLike], summary: str) -> None:
        """Mark the stage as done; call it last.

        Args:
            work: :func:`fingerprint` of the inputs, taken *before* the work.
            outputs: Files made by the stage.
            summary: One line for users about the result.
        """
        content = {
            "summary": summary,
            "work": work,
            "outputs": {str(p): describe_output(p) for p in outputs},
        }
        write_text(self.path, json.dumps(content, indent=1) + "\n")
