"""Classes that a mirror turns into each other."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SWAPS = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
_WORDS = re.compile(
    r"(?<![a-z])(?:(left|right)(?=(?:wards?|hand|handed)?(?![a-z]))|((?:counter)?clockwise)(?![a-z]))"
)
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def mirrored_classes(classes: Sequence[str]) -> tuple[str, str] | None:
    """Find two classes whose names swap left with right, or clockwise with counterclockwise.

    A mirrored video of the one shows the other, so that neither training clips nor test views may be mirrored.
    The words may be parts of others (``SwipeLeft``, ``left-handed``, ``rightwards``) or short (``CW``, ``CCW``).

    Args:
        classes: class names.

    Returns:
        The first such pair, or None.

    Example:
        >>> mirrored_classes(["jump", "Swiping Left", "swiping right"])
        ('Swiping Left', 'swiping right')
        >>> mirrored_classes(["turn left", "jump"]) is None
        True
        >>> mirrored_classes(["SwipeLeft", "SwipeRight"])
        ('SwipeLeft', 'SwipeRight')
    """
    known = {_plain(name): name for name in classes}
    for name in classes:
        plain = _plain(name)
        partner = known.get(_WORDS.sub(lambda word: _SWAPS[word[1] or word[2]], plain))
        if partner is not None and partner != name and _WORDS.search(plain):
            return name, partner
    return None


def _plain(name: str) -> str:
    """Lower case, humps of CamelCase apart, one word for every way of writing (counter)clockwise."""
    lower = re.sub(r"[-_\s]+", " ", _HUMPS.sub(" ", name)).strip().lower()
    lower = re.sub(r"(counter|anti) ?clock ?wise|(?<![a-z])(?:ccw|acw)(?![a-z])", "counterclockwise", lower)
    return re.sub(r"(?<![a-z])(cw|clock wise)(?![a-z])", "clockwise", lower)
