"""One error for everything a recipe's user can fix, printed as one line."""

import contextlib
import errno
import functools
import sys

# What a disk or a folder answers; the fix is the user's, and nothing is wrong here.
_DISK = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "your quota of the disk is used up: make room",
    errno.EFBIG: "files may not become as large (ulimit -f): raise the limit",
    errno.EROFS: "the disk is read-only: work in another folder",
    errno.EACCES: "permission denied: change it, or work in another folder",
    errno.EPERM: "permission denied: change it, or work in another folder",
    errno.EIO: "the disk fails: work on another one",
    errno.ENOTDIR: "a file is where a folder must be: move it away",
    errno.EEXIST: "something else has this name: move it away",
    errno.EISDIR: "a folder is where a file must be: move it away",
}


class RecipeError(Exception):
    """Bad input of a recipe; the message names the culprit and the fix."""


def describe_disk_error(error: OSError) -> str:
    """Return one line on a disk's refusal: the file, the reason, the fix; else ''."""
    if error.errno not in _DISK:
        return ""
    name = error.filename2 or error.filename or "a file"
    return (
        f"{name} cannot be written or read: {_DISK[error.errno]}, then give the same "
        "command again; what is done stays done"
    )


def one_line_errors(main):
    """Decorate a command's ``main``: a RecipeError ends it in one line, status 1.

    So does what a disk or a folder refuses.

    An interruption ends it silently, status 130: the driver has the word then.
    """

    @functools.wraps(main)
    def wrapper(cmd=None):
        try:
            return main(cmd)
        except RecipeError as error:
            raise SystemExit(f"error: {error}") from None
        except OSError as error:
            line = describe_disk_error(error)
            if not line:
                raise
            raise SystemExit(f"error: {line}") from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    return wrapper


@contextlib.contextmanager
def say_what_goes_on(*interruptions):
    """Have an interruption end a command of many runs in one line, status 130.

    Args:
        interruptions: exceptions that are one; KeyboardInterrupt is.
    """
    try:
        yield
    except (KeyboardInterrupt, *interruptions):
        print("interrupted; nothing is lost: the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


def str2bool(word: str) -> bool:
    """Read ``true``/``false`` as ESPnet's options write them."""
    if word.lower() in ("true", "yes", "1"):
        return True
    if word.lower() in ("false", "no", "0"):
        return False
    raise ValueError(word)
