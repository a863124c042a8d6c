"""Keep what ESPnet's imports say off the terminal: a command's output is the user's."""

import contextlib
import io
import logging
import sys
import warnings


@contextlib.contextmanager
def quiet_imports():
    """Swallow what is printed and warned of; if an exception leaves, show it after all.

    ESPnet's own imports print to standard output, and try to reach a download host.
    Warnings about the future of libraries stay off afterwards, too.
    """
    said = io.StringIO()
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", SyntaxWarning)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    except Exception:
        sys.stderr.write(said.getvalue())
        raise
