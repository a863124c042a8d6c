"""What the tests share: one thread, fixed seeds, and where optional material may
be."""

import os
import re
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[1]

#: what a test file says that needs ESPnet, itself or through its helpers
TOUCHES_ESPNET = re.compile(
    r"espnet2|espnet_adastride\.plugin|tiny_models|tiny_recipe|warm_python|\bclone\b"
)


def pytest_collection_modifyitems(config, items):
    """Mark the tests of files that touch ESPnet: CI runs them on both releases.

    In parallel, files with slow tests come first: one that begins last would keep one
    core busy while the others have nothing left to do. Makefile lets xdist keep this
    order; its own begins with the files of the most tests.
    """
    touching = {}
    for item in items:
        if item.path not in touching:
            text = item.path.read_text(encoding="utf-8")
            touching[item.path] = bool(TOUCHES_ESPNET.search(text))
        if touching[item.path]:
            item.add_marker(pytest.mark.espnet)
    if hasattr(config, "workerinput"):  # a worker of xdist
        items[:] = longest_first(items)


def longest_first(items):
    """Return the tests: files of whole recipes, of slow tests, of many, of few."""
    files = {}
    for item in items:
        files.setdefault(item.path, []).append(item)

    def weight(own):
        marks = [mark.name for item in own for mark in item.iter_markers()]
        return "e2e" in marks, marks.count("slow"), len(own)

    return sum(sorted(files.values(), key=weight, reverse=True), [])


# the recipes' scripts run the python that runs the tests, not the PATH's
os.environ["PYTHON"] = sys.executable


@pytest.fixture(autouse=True)
def fixed_seed():
    """Let every test draw the same numbers each time."""
    torch.manual_seed(20221)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Keep small tensors on one thread: more only cost time."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def gradients_after_a_fork():
    """Let forked trainings compute gradients, whatever the tests before them do.

    At its first backward pass, autograd starts threads for the devices it sees, after
    which no forked process can compute gradients. Where there is no GPU, torch.compile
    shows it eight pretended ones, so the first pass must come before.
    """
    if not torch.cuda.is_available():
        torch.ones(1, requires_grad=True).backward()


@pytest.fixture(scope="session")
def golden_dir():
    """Folder of the authors' inputs and outputs; GOLDEN= or ../shared/golden."""
    folder = Path(os.environ.get("GOLDEN", ROOT.parent / "shared" / "golden"))
    if not folder.is_dir():
        pytest.skip(f"no golden cases at {folder} (set GOLDEN=)")
    return folder


@pytest.fixture
def clone(tmp_path):
    """A copy of the recipes, of code and configurations; its path holds a space."""
    from tests.tiny_recipe import copy_recipes

    return copy_recipes(tmp_path / "a clone")


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory):
    """A command that takes what python takes, ESPnet imported already."""
    import espnet2.bin.asr_inference  # noqa: F401
    import espnet2.bin.asr_train  # noqa: F401

    import espnet_adastride.bin.asr_inference_ctc  # noqa: F401
    import espnet_adastride.bin.pack_model  # noqa: F401
    import espnet_adastride.plugin  # noqa: F401
    from tests import warm_python as warm_python_module

    with tempfile.TemporaryDirectory() as name:  # a socket's name must be short
        with warm_python_module.serving(Path(name)) as command:
            yield command


class HostWaits(TorchDispatchMode):
    """Count what would make the host wait for a GPU."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.scalars, self.lists = [], []
        to_list = torch.Tensor.tolist

        def tolist(tensor):
            self.lists.append(tensor.shape)
            return to_list(tensor)

        monkeypatch.setattr(torch.Tensor, "tolist", tolist)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select"):
            self.scalars.append(name)
        if name == "repeat_interleave" and not (kwargs or {}).get("output_size"):
            self.scalars.append(name)
        if name == "index":
            masks = [i for i in args[1] if i is not None and i.dtype == torch.bool]
            self.scalars += [name] * len(masks)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def host_waits(monkeypatch):
    """A context manager that counts what would make the host wait for a GPU."""
    return HostWaits(monkeypatch)
