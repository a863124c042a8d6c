"""One error for everything a recipe's user can mend, printed as one line."""

import functools


class RecipeError(Exception):
    """Bad input of a recipe; the message names the culprit and the mend."""


def one_line_errors(main):
    """Decorate a command's ``main``: a RecipeError ends it in one line, status 1.

    An interruption ends it silently, status 130: the driver has the word then.
    """

    @functools.wraps(main)
    def wrapper(cmd=None):
        try:
            return main(cmd)
        except RecipeError as error:
            raise SystemExit(f"error: {error}") from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    return wrapper


def str2bool(word: str) -> bool:
    """Read ``true``/``false`` as ESPnet's options write them."""
    if word.lower() in ("true", "yes", "1"):
        return True
    if word.lower() in ("false", "no", "0"):
        return False
    raise ValueError(word)
