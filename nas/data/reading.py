"""What all readers of data at a path share: workers, a hash of the content, the split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from nas.errors import UsageError

Item = TypeVar("Item")

MAX_BYTES = 4 * 2**30  # of all examples in memory
HELD_OUT = 10  # one of so many training examples of each class is validation, where none is given


def check_size(where: str, n: int, bytes_each: int) -> None:
    """Refuse what does not fit into memory.

    Raises:
        UsageError: if `n` examples are too large.
    """
    if n * bytes_each > MAX_BYTES:
        raise UsageError(
            f"the {n} examples of {where} take {n * bytes_each / 2**30:.1f} GiB in memory.",
            f"Keep a subset of at most {MAX_BYTES / 2**30:.0f} GiB, or choose a smaller preset.",
        )


def in_workers(read: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Read each item in a thread; decoders release Python's lock. The first error ends it."""
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        try:
            for _ in workers.map(read, items):
                pass
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise


def read_files(
    paths: Sequence[Path], into: NDArray[Any], decode: Callable[[Path, bytes], NDArray[Any]]
) -> list[str]:
    """Decode files in workers, each into its row; the SHA-256 of each file.

    Raises:
        UsageError: if one cannot be read, or as `decode` says.
    """
    hashes = [""] * len(paths)

    def read(at: int) -> None:
        path = paths[at]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error}).", "Remove it.") from None
        hashes[at] = hashlib.sha256(content).hexdigest()
        into[at] = decode(path, content)

    in_workers(read, range(len(paths)))
    return hashes


def content_hash(*arrays: NDArray[Any] | torch.Tensor) -> str:
    """SHA-256 of arrays, their types and their shapes."""
    digest = hashlib.sha256()
    for array in arrays:
        plain = np.ascontiguousarray(array)
        digest.update(f"{plain.dtype.str}/{plain.shape}\n".encode())
        digest.update(plain.data)
    return digest.hexdigest()


def hold_out(labels: NDArray[np.int64], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of training and validation examples: a tenth of each class held out by the seed.

    Returns:
        Two tensors, int64, in ascending order.
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held[members[: -(-len(members) // HELD_OUT)]] = True
    kept, apart = np.flatnonzero(~held), np.flatnonzero(held)
    return torch.from_numpy(kept), torch.from_numpy(apart)
