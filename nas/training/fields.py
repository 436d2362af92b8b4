"""The values of a recipe's fields: which are allowed, and how a user types them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Numbers:
    """Numbers between bounds; infinity and what is no number are never among them.

    >>> str(Numbers(least=0, below=1))
    'at least 0 and below 1'
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def allows(self, value: float | tuple[float, ...] | None) -> bool:
        """Whether a value, or each of several, is between the bounds; None, for all, always is.

        >>> Numbers(above=0).allows(0), Numbers(below=1).allows((0.9, 1)), FROM_ONE.allows(None)
        (False, False, True)
        """
        if value is None:
            return True
        return all(map(self._holds, value if isinstance(value, tuple) else (value,)))

    def _holds(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        bounds = {
            "at least": self.least,
            "above": self.above,
            "at most": self.most,
            "below": self.below,
        }
        return " and ".join(f"{word} {at:g}" for word, at in bounds.items() if at is not None)


SHARE = Numbers(least=0, most=1)
FROM_ZERO = Numbers(least=0, most=1e6)  # weights have 32 bits, and 1e300 would be infinite there
FROM_ONE = Numbers(least=1)

#: the values that a field may have: numbers, or one of a few words
Allowed = Numbers | tuple[str, ...]


def _whole(text: str) -> int:
    if not re.fullmatch(r"[-+]?[0-9]{1,9}", text):  # no tensor has more examples
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value + 0.0  # no zero of its own with a minus


def _pair(text: str) -> tuple[float, float]:
    first, second = map(_number, text.split("/"))
    return first, second


#: type of a field -> how it is read, and what may be typed
KINDS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (_whole, "a whole number"),
    float: (_number, "a number"),
    str: (str, "a word"),
    int | None: (lambda text: None if text == "all" else _whole(text), "a whole number or all"),
    tuple[float, float]: (_pair, "two numbers such as 0.9/0.98"),
}


def write_value(value: Any) -> str:
    """A value as it is typed.

    >>> [write_value(value) for value in (16, 0.001, "adamw", None, (0.9, 0.98))]
    ['16', '0.001', 'adamw', 'all', '0.9/0.98']
    """
    if isinstance(value, tuple):
        return "/".join(map(write_value, value))
    return "all" if value is None else str(value)


def describe(kind: Any, allowed: Allowed | None) -> str:
    """What a field may be, in words.

    >>> describe(int, FROM_ONE), describe(str, ("adamw", "sgd"))
    ('a whole number, at least 1', 'adamw or sgd')
    """
    if isinstance(allowed, tuple):
        return " or ".join(allowed)
    return ", ".join(filter(None, (KINDS[kind][1], str(allowed or ""))))
