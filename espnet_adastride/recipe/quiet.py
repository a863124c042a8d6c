"""Keep messages of ESPnet's imports off the terminal."""

import contextlib
import io
import logging
import sys
import warnings


@contextlib.contextmanager
def quiet_imports():
    """Suppress output and warnings; if an exception is raised, show them after all.

    ESPnet's own imports print to standard output, and try to reach a download host.
    Deprecation warnings of libraries also stay off afterwards.
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
