"""What the tests share: one thread, fixed seeds, and where optional material may
lie."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def fixed_seed():
    """Let every test draw the same numbers each time."""
    torch.manual_seed(20221)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Keep small tensors on one thread: more only cost time."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_dir():
    """Folder of the authors' inputs and outputs; GOLDEN= or ../shared/golden."""
    folder = Path(os.environ.get("GOLDEN", ROOT.parent / "shared" / "golden"))
    if not folder.is_dir():
        pytest.skip(f"no golden cases at {folder} (set GOLDEN=)")
    return folder
