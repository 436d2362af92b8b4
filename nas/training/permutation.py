"""Which permutation a space's sorting applies, so that optimizer and average can follow it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: Low bits of a float64 that a number which was a float32 leaves at zero.
SPARE_BITS = 29


@torch.no_grad()
def orders_after(
    network: nn.Module, sort: Callable[[nn.Module], tuple[str, ...]]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What sorting does to every tensor of a network.

    A space sorts a network by moving its numbers, and tells only what was sorted. So it is given
    a copy in float64 in which each number carries its own place in the 29 low bits of its
    mantissa: too little to change an order of importance beyond float32's own rounding, and
    enough to read afterwards where every number came from.

    Args:
        network: a float32 copy that may be spoiled.
        sort: of the space.

    Returns:
        name of a tensor -> flat index of the number that each place takes, for tensors that
        changed; and what was sorted.
    """
    network.double()
    places: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() < 2**SPARE_BITS:
            places[name] = torch.arange(tensor.numel(), device=tensor.device)
            tensor.view(torch.int64).bitwise_or_(places[name].view_as(tensor))
    sorted_ = sort(network)
    orders = {}
    for name, tensor in network.state_dict().items():
        if name in places:
            order = tensor.contiguous().view(torch.int64).flatten() & (2**SPARE_BITS - 1)
            if not order.equal(places[name]):
                orders[name] = order
    return orders, sorted_
