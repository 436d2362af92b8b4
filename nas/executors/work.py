"""What a worker is told to do: how to make the function that evaluates, as plain data."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.executors.executor import Evaluate


@dataclass(frozen=True)
class Work:
    """A recipe for an evaluating function that any process can follow.

    Attributes:
        factory: `module:function`, called with the arguments; it returns an `Evaluate`.
        arguments: plain JSON data.
        threads: of a worker's numeric libraries.
        supernet: folder that the factory needs; an executor on other machines takes it there.
    """

    factory: str
    arguments: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    supernet: Path | None = None

    def build(self) -> Evaluate:
        """The evaluating function, here."""
        module, _, name = self.factory.partition(":")
        made: Evaluate = getattr(importlib.import_module(module), name)(**self.arguments)
        return made
