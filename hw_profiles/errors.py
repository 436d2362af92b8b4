"""The one root of every error a user can cause, and what tells a user to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """The first line of a foreign error, without its full stop, to be part of a message.

    >>> first_line(ValueError("no such shape.\\nand more")), first_line(KeyError())
    ('no such shape', 'KeyError')
    """
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


class NasError(Exception):
    """Root of all errors raised on purpose.

    Args:
        message: what is wrong, in one line.
        hint: what to do next, in one line.

    Attributes:
        exit_code: what the `nas` command exits with.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(NasError, ValueError):
    """The request itself is wrong (a value that does not parse, options that contradict)."""

    exit_code = 2


class NotFoundError(NasError, LookupError):
    """No such study, space, target, preset, data set or scheme."""

    exit_code = 4

    def __str__(self) -> str:  # LookupError would quote its argument
        return NasError.__str__(self)


class ProfileError(NasError, ValueError):
    """A device profile that is truncated, foreign or inconsistent."""


class PluginError(NasError, ImportError):
    """What another package brings cannot be loaded."""


class MeasureError(NasError, RuntimeError):
    """A measurement that could not be made on this machine."""


class KilledError(MeasureError):
    """A measuring process that a signal ended: its work may succeed another time."""


def nearest(name: str, known: Iterable[str], what: str) -> NotFoundError:
    """A `NotFoundError` for `name` that proposes the closest of the `known` names.

    >>> str(nearest("vti", ["vit", "ofa"], "space"))
    "there is no space 'vti'. Did you mean 'vit'? Known: ofa, vit."
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.4)
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return NotFoundError(
        f"there is no {what} {name!r}.", f"{hint}Known: {', '.join(names) or 'none'}."
    )
