"""Errors for users, below one base, and the one place that turns them into a line.

Every message says in one line what is wrong, where, and how to fix it. A command's
``main`` is decorated with :func:`one_line_errors`: it prints the message and exits with
status 1. The line begins with the command's name as the user called it, ``adastride
plot: error: MESSAGE``; commands that a recipe calls (``python -m``) have no name before
``error:``, as the recipe's own lines. Other exceptions keep their traceback.
"""

import contextlib
import difflib
import errno
import functools
import itertools
import os
import re
import select
import sys
from pathlib import Path
from typing import Iterable, NoReturn, Optional


class UserError(Exception):
    """Bad input; the message says in one line what is wrong, where, and the fix."""

    def __str__(self) -> str:
        # a DataLoader raises a worker's error again, with its traceback as the message
        text, name = super().__str__(), type(self).__name__
        if text.startswith(f"Caught {name} in "):
            text = text.rpartition(f"{name}: ")[2].strip()
        return text


#: what bad input of a command, and a malformed file, were called before
RecipeError = DataError = UserError


# These are what some caller handles in its own way. Those of the library's side
# are also ValueErrors, which its users may expect.
class AudioError(UserError, ValueError):
    """A recording that cannot be used; others can."""


class AlignmentError(UserError, ValueError):
    """The frames are too few for the tokens."""


class ConfigurationError(UserError, ValueError):
    """A wrong word, key or value in the YAML configuration."""


class ModelError(UserError, ValueError):
    """A model that cannot be found, read, trained or used as asked."""


class UnknownTimesError(UserError, ValueError):
    """Something needs the times of a model's frames, and they are not known."""


class NotPlanned(UserError):
    """ESPnet trains this model, but its lengths are not known here."""


# ------------------------------------------------------------------------ how to end
def called_command() -> str:
    """Return the command that the user called, e.g. ``adastride plot``; or ""."""
    name = Path(sys.argv[0]).name
    return name if re.match(r"adastride(?:[- ]|$)", name) else ""


def named(line: str) -> str:
    """Return a line with the name of the command before it, if it was called by one."""
    name = called_command()
    return (f"{name}: {line}" if name else line).translate(ESCAPED)


def fail(message: object) -> NoReturn:
    """End the process with a line on standard error, status 1."""
    raise SystemExit(named(f"error: {message}")) from None


# What a disk or a folder answers; the user can fix it, and nothing is wrong here.
_DISK = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "your disk quota is used up: make room",
    errno.EFBIG: "files may not become as large (ulimit -f): raise the limit",
    errno.EROFS: "the disk is read-only: work in another folder",
    errno.EACCES: "permission denied: change it, or work in another folder",
    errno.EPERM: "permission denied: change it, or work in another folder",
    errno.EIO: "the disk reports an error: work on another one",
    errno.ENOTDIR: "a file is where a folder must be: move it away",
    errno.EEXIST: "something else has this name: move it away",
    errno.ENAMETOOLONG: "its name is too long for the disk: give a shorter one",
    errno.EISDIR: "a folder is where a file must be: move it away",
}

#: of a file's name, what cannot be printed in one line: bytes that are not UTF-8,
#: control characters, other ends of lines, other halves of a surrogate pair (JSON)
ESCAPED = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}
for _code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0xD800, 0xE000)):
    ESCAPED.setdefault(_code, chr(_code).encode("unicode_escape").decode())


#: the fix for a model that does not exist or is not one
GIVE_MODEL = "give an experiment's folder (exp/asr_...) or a packed .zip"


#: in a larger folder, no close name is looked for, because it takes seconds
MANY = 2000


def counted(number: int, noun: str) -> str:
    """Return e.g. ``1 utterance``, ``2 utterances``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def no_such(path: object, fix: str = "", what: str = "file", option: str = "") -> str:
    """Return one line on a path that does not exist.

    Args:
        path: the path.
        fix: what to do; by default the closest name in its folder, or to check it.
        what: "file", "folder" or "file or folder".
        option: which option named it.
    """
    if not str(path):  # Path("") is the current folder
        return f"{option or 'a path'} is empty; check for an unset variable"
    place = Path(str(path))
    if what.endswith("file") and place.is_dir():
        return f"{option} {path}: is a folder; give a {what}".lstrip()
    if not fix and place.is_symlink():
        fix = "it is a link to a file that is not there"
    if not fix:
        try:
            with os.scandir(place.parent) as entries:
                names = [entry.name for entry in itertools.islice(entries, MANY + 1)]
        except OSError:
            names = []
        near = nearest(place.name, names) if len(names) <= MANY else None
        fix = f"did you mean {place.with_name(near)}?" if near else "check the path"
    return f"{option} {path}: no such {what}; {fix}".lstrip()


def is_disk_error(error: BaseException) -> bool:
    """Return whether a disk or a folder refused something, not e.g. a network."""
    return isinstance(error, OSError) and error.errno in _DISK


def describe_os_error(error: OSError) -> str:
    """Return one line on what a file, a folder or a disk refused, with the fix."""
    name = error.filename2 or error.filename or "a file or the output"
    if error.errno == errno.ENOENT and error.filename:
        return no_such(name, what="file or folder")
    if error.errno not in _DISK:
        return " ".join(str(error).split())
    return (
        f"{name} cannot be written or read: {_DISK[error.errno]}, then give the same "
        "command again; finished work is kept"
    )


def open_closed_streams() -> None:
    """Replace standard streams that the caller closed (``>&-``) by the null device.

    Python has None for them. Their numbers would go to the next files that are opened,
    which C libraries would then print into.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def drop_output() -> None:
    """Send what is left in the buffer of standard output, and the rest, nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def written_output():
    """Write all of standard output at the end, where a full disk can be reported.

    Raises:
        OSError: it cannot be written; Python does not try again at exit.
    """
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError:
            drop_output()
            raise


@contextlib.contextmanager
def silent_broken_pipe():
    """End the process silently when the reader of its output has gone (``| head``)."""
    try:
        with written_output():
            yield
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        if not output.poll(0):  # the pipe of another process
            raise
        drop_output()
        raise SystemExit(128 + 13) from None  # as of a process that SIGPIPE ended


def one_line_errors(main):
    """Decorate a command's ``main``: a UserError ends it in one line, status 1.

    So does what a file, a folder or a disk refuses. An interruption ends it with status
    130: of ``adastride COMMAND`` in one line, of what a recipe calls silently, because
    the driver reports it. A closed pipe ends it silently, too.
    """

    @functools.wraps(main)
    def wrapper(cmd=None):
        open_closed_streams()
        with silent_broken_pipe():
            try:
                with written_output():
                    return main(cmd)
            except BrokenPipeError:
                raise
            except UserError as error:
                fail(error)
            except OSError as error:
                fail(describe_os_error(error))
            except KeyboardInterrupt:
                if called_command():
                    say_interrupted()
                raise SystemExit(130) from None

    return wrapper


@contextlib.contextmanager
def located(where: object, caught=UserError, kind: Optional[type] = None):
    """Raise an error again with the place put before its message, ``where: message``.

    Args:
        where: a path, an option, a place in a configuration; "" leaves the message.
        caught: the class of error, or several.
        kind: the class to raise; None: the error's own.
    """
    try:
        yield
    except caught as error:
        place = f"{where}: " if where else ""
        raise (kind or type(error))(f"{place}{error}") from None


def say_interrupted() -> None:
    """Print what a user needs to know after Ctrl-C."""
    line = "interrupted; nothing is lost: run the same command to resume"
    print(named(line), file=sys.stderr, flush=True)


@contextlib.contextmanager
def resumable(*interruptions):
    """Have an interruption end a command that can resume in one line, status 130.

    Args:
        interruptions: exceptions that are one; KeyboardInterrupt is.
    """
    try:
        yield
    except (KeyboardInterrupt, *interruptions):
        say_interrupted()
        raise SystemExit(130) from None


# --------------------------------------------------------------------- misspelt words
def nearest(word: object, choices: Iterable[object]) -> Optional[str]:
    """Return the choice that is spelt most like a word; None: none is like it."""
    near = difflib.get_close_matches(str(word), [str(c) for c in choices], n=1)
    return near[0] if near else None


def did_you_mean(word: object, choices: Iterable[object]) -> str:
    """Return " (did you mean 'conv2d'?)" with the nearest choice; "" without one."""
    near = nearest(word, choices)
    return f" (did you mean {near!r}?)" if near else ""


#: more choices than these would hide the rest of a message
MOST_CHOICES = 40


def unknown_word(kind: str, word: object, choices: Iterable[object]) -> str:
    """Return one line that names an unknown word, the nearest one and the choices."""
    choices = [str(choice) for choice in choices]
    hint = did_you_mean(word, choices)
    if len(choices) > MOST_CHOICES:
        return f"unknown {kind} {word!r}{hint}; correct or omit it"
    return f"unknown {kind} {word!r}{hint}; choose from: {', '.join(choices)}"
