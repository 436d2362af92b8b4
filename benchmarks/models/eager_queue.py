"""Time of a network whose kernels a host issues one by one: the host or the GPU is ahead.

A kernel starts when it has been issued and the one before it is done. Where kernels are long the
host runs ahead and its time is hidden; where they are short the GPU waits for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def queued_ms(issue_ms: Array, kernel_ms: Array) -> float:
    """Milliseconds until the last of n kernels is done, on an idle GPU at the start.

    Args:
        issue_ms: the host's time for each launch, shape (n,).
        kernel_ms: the GPU's time for each kernel, shape (n,).

    >>> queued_ms(np.array([1.0, 1.0, 1.0]), np.array([5.0, 5.0, 5.0]))
    16.0
    >>> queued_ms(np.array([1.0, 1.0, 1.0]), np.array([0.1, 0.1, 0.1]))
    3.1
    """
    if not len(kernel_ms):
        return 0.0
    # the end is the longest way through: issue up to some kernel, then kernels without a pause
    issued = np.cumsum(issue_ms)
    remaining = np.cumsum(kernel_ms[::-1])[::-1]
    return float(np.max(issued + remaining))
