"""Keep messages of ESPnet's imports off the terminal."""

import contextlib
import io
import logging
import sys
import warnings


@contextlib.contextmanager
def quiet_imports():
    """Suppress output and warnings; if an exception is raised, show them after all.

    ESPnet takes 5 to 20 s to import, which a line shows on a terminal meanwhile. Its
    own imports print to standard output, and try to reach a download host. Deprecation
    warnings of libraries also stay off afterwards.
    """
    said = io.StringIO()
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", SyntaxWarning)
    with _loading_line():
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                yield
            return
        except Exception as error:
            failure = error
    sys.stderr.write(said.getvalue())
    raise failure


@contextlib.contextmanager
def _loading_line():
    """Show on a terminal that ESPnet is being loaded, unless it is there already."""
    shown = sys.stderr.isatty() and "espnet2" not in sys.modules
    if shown:
        print("loading ESPnet ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
