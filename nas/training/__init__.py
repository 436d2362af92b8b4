"""Training a supernet once and finding it again."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.training.loop import Progress, TrainingError
    from nas.training.obtain import obtain_supernet, own_supernet, train_supernet
    from nas.training.recipe import Recipe
    from nas.training.store import TrainedSupernet, find_supernet

__all__ = [
    "Progress",
    "Recipe",
    "TrainedSupernet",
    "TrainingError",
    "find_supernet",
    "obtain_supernet",
    "own_supernet",
    "train_supernet",
]

_HOMES = {
    "Progress": "loop",
    "Recipe": "recipe",
    "TrainedSupernet": "store",
    "TrainingError": "loop",
    "find_supernet": "store",
    "obtain_supernet": "obtain",
    "own_supernet": "obtain",
    "train_supernet": "obtain",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:  # most of them import torch
        return getattr(import_module(f"nas.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
