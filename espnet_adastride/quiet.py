"""Keep messages of ESPnet's imports off the terminal."""

import contextlib
import io
import logging
import sys
import warnings

from espnet_adastride.errors import UserError


class _Held:
    """Stands for a stream while modules are imported, and holds what they print.

    A log handler that takes it for the stream writes to the stream afterwards.
    """

    def __init__(self, stream):
        self.stream, self.said = stream, io.StringIO()

    def write(self, text):
        return (self.said or self.stream).write(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def __getattr__(self, name):
        if name == "stream":  # of a copy that is not built yet
            raise AttributeError(name)
        return getattr(self.stream, name)


@contextlib.contextmanager
def held_back():
    """Hold back what imports print; show it if one fails, but not a user's mistake."""
    output, errors = _Held(sys.stdout), _Held(sys.stderr)
    failed = False
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            yield
    except Exception as error:
        failed = not isinstance(error, UserError)
        raise
    finally:
        said = output.said.getvalue() + errors.said.getvalue()
        output.said = errors.said = None
        if failed:
            sys.stderr.write(said)


@contextlib.contextmanager
def quiet_imports():
    """Suppress output and warnings of a command's imports.

    ESPnet takes 5 to 20 s to import, which a line shows on a terminal meanwhile. Its
    own imports print, and try to reach a download host. Deprecation warnings of
    libraries also stay off afterwards.
    """
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", SyntaxWarning)
    terminal = sys.stderr
    with held_back(), _loading_line(terminal):
        yield


@contextlib.contextmanager
def _loading_line(terminal):
    """Show on a terminal that ESPnet is being loaded, unless it is there already."""
    shown = terminal.isatty() and "espnet2" not in sys.modules
    if shown:
        print("loading ESPnet ...", end="", file=terminal, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\033[K", end="", file=terminal, flush=True)
