"""ESPnet's text cleaners (``--cleaner``), which also prepare the text of a training."""

from typing import Callable

from espnet_adastride.errors import UserError
from espnet_adastride.quiet import quiet_imports


def text_cleaner(name: str) -> Callable[[str], str]:
    """Return the cleaner of a name.

    Raises:
        UserError: what it needs is not installed.
    """
    with quiet_imports():
        from espnet_adastride.plugin.espnet import TextCleaner

    try:
        cleaner = TextCleaner(name)
        cleaner("")
    except (RuntimeError, ImportError) as error:
        raise UserError(f"--cleaner {name}: {error}") from None
    return cleaner
