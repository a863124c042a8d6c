"""``torch.save`` that writes a file whole or not at all; ``torch.load`` that names it.

ESPnet overwrites ``checkpoint.pth`` in place after every epoch: a training that is
stopped while it writes can neither resume nor go back. :func:`install` makes
``torch.save`` write to a temporary name beside the file and rename it.

ESPnet writes ``<N>epoch.pth`` after ``checkpoint.pth``: stopped between the two, the
training would resume behind epoch N, and fail in the end, when it averages the best
epochs' models. ``torch.load`` therefore completes epoch N from the checkpoint.

A full disk and a file that is cut off are PyTorch's riddles (``unexpected pos 64 vs
0``, ``failed finding central directory``); here they are errors with the file's name.
"""

import errno
import functools
import os
import pickle
import re
import shutil

import torch

#: what ESPnet's trainer writes and reads itself
TRAINERS = re.compile(r"checkpoint\.pth|\d+epoch\.pth")


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
        except RuntimeError as error:
            if "PytorchStreamWriter" not in str(error) and "pos" not in str(error):
                raise
            free = shutil.disk_usage(os.path.dirname(path)).free // 2**20
            raise OSError(
                errno.ENOSPC,
                f"not written whole; {free} MiB are free on its disk: make room there, "
                "then give the same command again; what was saved before is kept",
                str(f),
            ) from error
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)

    wrapper.is_atomic = True
    return wrapper


#: ``torch.save`` by renaming, for code of ours
save = atomic(torch.save)


def naming(load):
    """Return ``load`` changed so that an unreadable file is named; see the top."""

    @functools.wraps(load)
    def wrapper(f, *args, **kwargs):
        if not isinstance(f, (str, os.PathLike)):
            return load(f, *args, **kwargs)
        # ESPnet 202611 asks for weights_only; others who do have words of their own
        # for what is refused
        safe = kwargs.get("weights_only")
        if safe and not TRAINERS.fullmatch(os.path.basename(f)):
            return load(f, *args, **kwargs)
        try:
            content = load(f, *args, **kwargs)
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
            if isinstance(error, RuntimeError) and "PytorchStream" not in str(error):
                raise
            if safe and "Unsupported" in str(error):  # whole, but more than data
                raise
            reason = " ".join(str(error).split())[:200] or "it ends too early"
            raise OSError(
                f"{f} is cut off, or is no file of PyTorch's ({reason}): take another "
                "model, or have it made again"
            ) from error
        complete_epoch(f, content)
        return content

    wrapper.is_naming = True
    return wrapper


def complete_epoch(path, content) -> None:
    """Write the model of a checkpoint's epoch, if the training did not come to it.

    Args:
        path: The file that was loaded; any but a trainer's checkpoint is let be.
        content: What is in it.
    """
    folder, name = os.path.split(path)
    if name != "checkpoint.pth" or not isinstance(content, dict):
        return
    epoch = content.get("reporter", {}).get("epoch")
    model = os.path.join(folder, f"{epoch}epoch.pth")
    if isinstance(epoch, int) and "model" in content and not os.path.exists(model):
        torch.save(content["model"], model)


def install() -> None:
    """Replace ``torch.save`` and ``torch.load``; again, it changes nothing."""
    if not getattr(torch.save, "is_atomic", False):
        torch.save = atomic(torch.save)
    if not getattr(torch.load, "is_naming", False):
        torch.load = naming(torch.load)
