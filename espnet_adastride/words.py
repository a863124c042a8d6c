"""One line about an unknown word: the nearest known one, and all choices."""

import difflib
from typing import Iterable, Optional


def nearest(word: object, choices: Iterable[object]) -> Optional[str]:
    """Return the choice that is spelt most like a word; None: none is like it."""
    near = difflib.get_close_matches(str(word), [str(c) for c in choices], n=1)
    return near[0] if near else None


def unknown_word(kind: str, word: object, choices: Iterable[object]) -> str:
    """Return one line that names an unknown word, the nearest one and all choices."""
    choices = [str(choice) for choice in choices]
    near = nearest(word, choices)
    hint = f" (did you mean {near!r}?)" if near else ""
    return f"unknown {kind} {word!r}{hint}; choose from: {', '.join(choices)}"
