"""Data sets that ship with the program, and image folders by path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.data.registry import list_datasets, load_dataset, register_dataset

if TYPE_CHECKING:
    from nas.data.dataset import Dataset, Part

__all__ = ["Dataset", "Part", "list_datasets", "load_dataset", "register_dataset"]


def __getattr__(name: str) -> object:
    if name in ("Dataset", "Part"):  # importing them imports torch
        from nas.data import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
