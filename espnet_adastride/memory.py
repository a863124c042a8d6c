"""How much memory a device has, and how much of it is free."""

from typing import Optional

import torch

#: what needs less is not compared with what is free
CHECKED_BYTES = 1 << 28


def proc_bytes(path: str, word: str) -> Optional[int]:
    """Return a number of bytes from a Linux /proc file; None elsewhere."""
    try:
        with open(path, encoding="ascii") as file:
            line = next(x for x in file if x.startswith(word + ":"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


def free_bytes(device: str) -> Optional[int]:
    """Return the free bytes of ``cpu`` or ``cuda``; None: unknown."""
    if device == "cpu":
        return proc_bytes("/proc/meminfo", "MemAvailable")
    # what PyTorch keeps of freed tensors, too
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return torch.cuda.mem_get_info()[0] + kept


def too_little(needed: float, device: str) -> Optional[int]:
    """Return the free bytes if ``needed`` are more; None: they fit, or unknown."""
    if needed < CHECKED_BYTES:
        return None
    free = free_bytes(device)
    return free if free is not None and needed > free else None


def total_bytes(device: str) -> Optional[int]:
    """Return the bytes of ``cpu`` or ``cuda``; None: unknown."""
    if device == "cpu":
        return proc_bytes("/proc/meminfo", "MemTotal")
    return torch.cuda.mem_get_info()[1]
