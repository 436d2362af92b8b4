"""How the targets of a search are called, and what is of one of them.

A search on several targets writes `figure@target`: `latency@a100` among its objectives,
`latency_ms_upper@a100` among the figures of a trial. On one target nothing is written so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from nas.errors import UsageError

#: Quantities that differ from target to target; parameters and MACs are the network's own.
PER_TARGET = ("latency", "energy", "memory", "weights")
#: The figures of a trial that these stand in.
TARGET_FIGURES = (
    "latency_ms", "latency_ms_upper", "energy_mj", "energy_mj_upper", "memory_bytes",
    "weight_bytes",
)  # fmt: skip

_LABEL = re.compile(r"[A-Za-z0-9._-]+")


def at(name: str, target: str | None) -> str:
    """The name of a target's own figure.

    >>> at("latency", "a100"), at("latency", None)
    ('latency@a100', 'latency')
    """
    return name if target is None else f"{name}@{target}"


def split(name: str) -> tuple[str, str | None]:
    """The figure and the target that `at` joined.

    >>> split("latency_ms@cpu"), split("params")
    (('latency_ms', 'cpu'), ('params', None))
    """
    figure, _, target = name.partition("@")
    return figure, target or None


def label_of(target: str) -> str:
    """What a target is called: its name, or that of its profile's file.

    >>> label_of("profiles/my-board.json"), label_of("a100")
    ('my-board', 'a100')
    """
    return target.rsplit("/", 1)[-1].removesuffix(".json")


def labels_of(targets: Sequence[str]) -> tuple[str, ...]:
    """What each target of a search is called.

    Raises:
        UsageError: if there is none, two are called alike, or one has a name that cannot stand in
            `figure@target`.
    """
    labels = tuple(label_of(target) for target in targets)
    if not labels:
        raise UsageError("a search needs a target.", "Give one with --target: see `nas targets`.")
    if len(labels) == 1:
        return labels
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(
                f"two targets are called {label}.",
                "Give each once; keep a profile under another name with `nas targets add FILE "
                "--name NAME`.",
            )
        if not _LABEL.fullmatch(label):
            raise UsageError(
                f"{label!r} cannot name one of several targets.",
                "Keep it under a name of letters, digits, dots and dashes with `nas targets add "
                "FILE --name NAME`.",
            )
    return labels
