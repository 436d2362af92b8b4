"""What every elastic layer has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

#: (input, weight, bias) -> output of a linear layer
Arithmetic = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Elastic(nn.Module):
    """A layer that holds the largest weights and runs on a slice of them.

    Weight sharing is by prefix (weight entanglement, AutoFormer, arXiv:2107.00651; nested units,
    MatFormer, arXiv:2310.07707). A slice is a view: nothing is copied or masked until a subnet is
    extracted. A layer defines `activate`, whose arguments a space's `slices` gives, and, if it
    owns weights, `active_state`.
    """

    activate: Callable[..., Any]

    def active_state(self) -> dict[str, Tensor]:
        """The active slices under the names that the plain layer's state has."""
        return {}


def within(active: int, full: int, what: str) -> int:
    """A size, if the largest has room for it.

    Raises:
        ValueError: if it has not.
    """
    if not 1 <= active <= full:
        raise ValueError(f"{what} of {active} is outside 1..{full}")
    return active
