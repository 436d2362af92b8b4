"""Weights and their record in files that are written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hw_profiles.files import write_atomic
from nas.errors import CheckpointError


def write_kept(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        CheckpointError: if the folder cannot be made or written, or the disk is full.
    """
    try:
        write_atomic(path, content)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror or error}).",
            "Free space there, or set NAS_CACHE to a folder that can be written.",
        ) from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Tensors with a JSON record in the header of the same file, so that they never part.

    Raises:
        CheckpointError: if it cannot be written.
    """
    write_kept(path, tensor_bytes(tensors, record))


def tensor_bytes(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> bytes:
    """The content of a file that `read_tensors` reads back."""
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    content: bytes = save(plain, {"record": json.dumps(record)})
    return content


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote.

    Raises:
        CheckpointError: if the file is truncated, foreign or cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["record"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is truncated or no checkpoint of this program ({error}).",
            "Delete it to start anew.",
        ) from None
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} has no record.", "Delete it to start anew.")
    return tensors, record


def check_tensors(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Refuse tensors whose names, shapes or types are not the expected ones.

    Raises:
        CheckpointError: naming the first difference.
    """
    names = sorted(set(expected) ^ set(tensors))
    if names:
        where = "lacks" if names[0] in expected else "has a foreign"
        raise CheckpointError(
            f"{path} {where} tensor {names[0]}.", "It belongs to another network; delete it."
        )
    for name, tensor in expected.items():
        found = tensors[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise CheckpointError(
                f"{path}: {name} is {tuple(found.shape)} {found.dtype}, "
                f"not {tuple(tensor.shape)} {tensor.dtype}.",
                "It belongs to another network; delete it.",
            )
