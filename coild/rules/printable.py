"""Text for people: names from clients and from disks as a terminal and a log may have them."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: What Unicode has as letters, marks or symbols, and no eye sees.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
#: They choose a form of the character before them.
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
#: What has to be looked at. Names are ASCII but for a character or two, and a long one must not
#: cost a step for each: anyone may send thousands of them.
_DOUBTFUL = re.compile("[^\x20-\x7e]")


def printable(text: str) -> str:
    r"""`text` with each character that is not seen, or moves others, like \n or \u202e instead."""
    return _DOUBTFUL.sub(
        lambda found: found[0] if _is_seen(found[0]) else _escape(found[0]),
        text,
    )


def printable_json(document: str) -> str:
    """The same JSON with each such character as an escape of JSON's own."""
    return _DOUBTFUL.sub(
        lambda found: found[0] if _is_seen(found[0]) else _json_escape(found[0]),
        document,
    )


def listed(names: Sequence[str], count_max: int) -> str:
    """The first names with commas between them, and how many more there are."""
    more = f" and {len(names) - count_max} more" if len(names) > count_max else ""
    return f"{', '.join(names[:count_max])}{more}"


def _is_seen(character: str) -> bool:
    return character.isprintable() and character not in _BLANK and not _SELECTORS.match(character)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
