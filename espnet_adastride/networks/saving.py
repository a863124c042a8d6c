"""Atomic ``torch.save``, and ``torch.load`` that names the file in errors.

ESPnet overwrites ``checkpoint.pth`` in place after every epoch: a training stopped
while writing it can neither resume nor go back. :func:`install` makes ``torch.save``
write to a temporary file in the same folder and rename it.

ESPnet writes ``<N>epoch.pth`` after ``checkpoint.pth``: if stopped between the two, the
training would resume after epoch N and fail at the end, when it averages the models of
the best epochs. ``torch.load`` therefore writes the model of epoch N from the
checkpoint.

For a full disk or a truncated file, PyTorch raises cryptic errors (``unexpected pos 64
vs 0``, ``failed finding central directory``); here the errors name the file.
"""

import errno
import functools
import os
import pickle
import re
import shutil

import torch

#: file that ESPnet's trainer writes and reads itself
TRAINERS = re.compile(r"checkpoint\.pth|\d+epoch\.pth")


def atomic(save):
    """Return ``save`` changed so that paths are written by renaming."""

    @functools.wraps(save)
    def wrapper(obj, f, *args, **kwargs):
        if not isinstance(f, (str, os.PathLike)):
            return save(obj, f, *args, **kwargs)
        path = os.path.realpath(f)  # keep a symbolic link
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
                f"could not be written; {free} MiB are free on its disk: free some "
                "space, then run the same command again; earlier files are kept",
                str(f),
            ) from error
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)

    wrapper.is_atomic = True
    return wrapper


#: atomic ``torch.save`` for our own code
save = atomic(torch.save)


#: what ``torch.load`` raises for a damaged file; an OSError of a position in it, too
UNREADABLE = (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, OSError)


def naming(load):
    """Return ``load`` changed so that errors name an unreadable file; see above."""

    @functools.wraps(load)
    def wrapper(f, *args, **kwargs):
        if not isinstance(f, (str, os.PathLike)):
            return load(f, *args, **kwargs)
        # ESPnet 202611 sets weights_only; other callers that do have their own messages
        # for rejected files
        safe = kwargs.get("weights_only")
        if safe and not TRAINERS.fullmatch(os.path.basename(f)):
            return load(f, *args, **kwargs)
        try:
            content = load(f, *args, **kwargs)
        except UNREADABLE as error:
            if isinstance(error, OSError) and error.filename:  # says which and why
                raise
            if isinstance(error, RuntimeError) and "PytorchStream" not in str(error):
                raise
            if safe and "Unsupported" in str(error):  # complete, but more than data
                raise
            reason = " ".join(str(error).split())[:200] or "it ends too early"
            raise OSError(
                f"{f} is truncated or not a PyTorch file ({reason}): use another "
                "model, or remove it and create it again"
            ) from error
        complete_epoch(f, content)
        return content

    wrapper.is_naming = True
    return wrapper


#: ``torch.load`` for our own code, whose errors name the file
load = naming(torch.load)


def complete_epoch(path, content) -> None:
    """Write the model of a checkpoint's epoch if the training stopped before that.

    Args:
        path: The file that was loaded; ignored if it is not a trainer's checkpoint.
        content: Its content.
    """
    folder, name = os.path.split(path)
    if name != "checkpoint.pth" or not isinstance(content, dict):
        return
    epoch = content.get("reporter", {}).get("epoch")
    model = os.path.join(folder, f"{epoch}epoch.pth")
    if isinstance(epoch, int) and "model" in content and not os.path.exists(model):
        torch.save(content["model"], model)


def install() -> None:
    """Replace ``torch.save`` and ``torch.load``; repeated calls have no effect."""
    if not getattr(torch.save, "is_atomic", False):
        torch.save = atomic(torch.save)
    if not getattr(torch.load, "is_naming", False):
        torch.load = naming(torch.load)
