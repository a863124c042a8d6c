"""``torch.save`` that writes a file whole or not at all.

ESPnet overwrites ``checkpoint.pth`` in place after every epoch: a training that is
stopped while it writes can neither resume nor go back. :func:`install` makes
``torch.save`` write to a temporary name beside the file and rename it.
"""

import functools
import os

import torch


def atomic(save):
    """Return ``save`` changed so that paths are written by renaming."""

    @functools.wraps(save)
    def wrapper(obj, f, *args, **kwargs):
        if not isinstance(f, (str, os.PathLike)):
            return save(obj, f, *args, **kwargs)
        path = os.path.realpath(f)  # writing through a link keeps the link
        temporary = f"{path}.tmp{os.getpid()}"
        try:
            save(obj, temporary, *args, **kwargs)
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)

    wrapper.is_atomic = True
    return wrapper


def install() -> None:
    """Replace ``torch.save``; calling it again changes nothing."""
    if not getattr(torch.save, "is_atomic", False):
        torch.save = atomic(torch.save)
