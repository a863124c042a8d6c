"""Fonts for texts in any script: ours has no Chinese, Japanese, Korean, Thai ...

matplotlib takes each character from the first font of a list that has it. The list is
lengthened only for texts that need it, so that other pictures look the same everywhere.
"""

import warnings
from functools import lru_cache
from typing import Dict, FrozenSet, List

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from espnet_adastride.corpora.audio import log_line

DEFAULT = "DejaVu Sans"
#: fonts of boxes for every character
BOXES = "lastresort"


def _characters(path: str) -> FrozenSet[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # a broken file
        return frozenset()


@lru_cache(maxsize=None)
def _installed() -> Dict[str, FrozenSet[int]]:
    """Return the characters of each installed family of upright letters."""
    found = {}
    for entry in font_manager.fontManager.ttflist:
        boxes = BOXES in entry.name.lower().replace(" ", "")
        if entry.style == "normal" and not boxes and entry.name != DEFAULT:
            known = found.get(entry.name, frozenset())
            found[entry.name] = known | _characters(entry.fname)
    return found


@lru_cache(maxsize=None)
def _default() -> FrozenSet[int]:
    return _characters(font_manager.findfont(DEFAULT))


@lru_cache(maxsize=None)
def _warn(characters: str) -> None:
    log_line(
        f"no installed font has the characters {characters}, which pictures show as "
        "boxes: install one that has, such as Noto Sans CJK"
    )


def fonts_for(text: str) -> Dict[str, List[str]]:
    """Return ``rcParams`` with the fonts that a text needs; empty: the usual ones.

    What no font has is told in one line, once; matplotlib draws boxes for it.
    """
    lacking = {ord(c) for c in text if c.isprintable()} - _default()
    if not lacking:
        return {}
    families = [DEFAULT]
    while lacking:
        installed = _installed()
        best = max(
            installed,
            key=lambda name: (len(lacking & installed[name]), name),
            default="",
        )
        if not best or not lacking & installed[best]:
            break
        families.append(best)
        lacking -= installed[best]
    if lacking:
        shown = "".join(map(chr, sorted(lacking)[:8]))
        _warn(shown + ("..." if len(lacking) > 8 else ""))
        # one line is enough; matplotlib has one for each character
        warnings.filterwarnings("ignore", "Glyph .* missing from (current )?font")
    return {"font.family": families}
