"""What all once-for-all spaces share: resolution, channel sorting, reference weights."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw_profiles.errors import UsageError
from search_spaces.elastic import Supernet
from search_spaces.ofa.layers import ConvNorm
from search_spaces.space import Architecture, SearchSpace


class OfaSpace(SearchSpace):
    """A space whose networks are built for a resolution of their own."""

    references = ("ofa",)
    ordered = frozenset(references)

    @abstractmethod
    def network(self, arch: Architecture, elastic: bool) -> nn.Module:
        """The network of an architecture, plain or with elastic layers."""

    def build(self, arch: Architecture) -> nn.Module:
        self.choices.encode(arch)
        return self.network(arch, elastic=False)

    def supernet(self, seed: int = 0) -> Supernet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.network(self.largest(), elastic=True)
        return Supernet(self, network)

    def fit_input(self, arch: Architecture, x: Tensor) -> Tensor:
        """Images at the architecture's resolution, bilinear and antialiased."""
        side = int(arch["resolution"])
        if x.shape[-2:] == (side, side):
            return x
        return F.interpolate(
            x, size=(side, side), mode="bilinear", align_corners=False, antialias=True
        )

    @abstractmethod
    def reference_prefix(self, parts: list[str]) -> tuple[str, list[str]] | None:
        """The layer that a foreign name, in its parts, belongs to, and the parts that are left.

        None if there is no such layer.
        """

    def from_reference(self, kind: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of once-for-all's own supernets, as its package or its released files name them.

        What runs on pooled vectors is a linear layer here and a 1x1 convolution there.
        """
        if kind not in self.references:
            return super().from_reference(kind, state)
        mapped: dict[str, Tensor] = {}
        hint = f"Give the state of a whole supernet of {self.preset}."
        for name, tensor in state.items():
            # released files name the layers of a block as the package no longer does
            parts = name.replace(".mobile_inverted_conv.", ".conv.").split(".")
            found = self.reference_prefix(parts)
            leaf = found and _leaf(".".join(found[1]))
            if not found or not leaf:
                raise UsageError(f"{name} is not of {self.preset} of once-for-all.", hint)
            ours = f"{found[0]}.{leaf}"
            mapped[ours] = tensor.flatten(1) if _is_linear(ours) and tensor.dim() == 4 else tensor
        blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
        if len(blocks) != len(self.block_names):  # which are left out, their numbers do not say
            raise UsageError(
                f"these are {len(blocks)} blocks of {len(self.block_names)} of a supernet.", hint
            )
        return mapped

    @property
    @abstractmethod
    def block_names(self) -> list[str]:
        """Our names of the blocks that the reference counts through all stages."""

    def block_name(self, index: str) -> str | None:
        """Our name of the reference's block."""
        names = self.block_names
        return names[int(index)] if index.isdecimal() and int(index) < len(names) else None


def _is_linear(name: str) -> bool:
    return re.search(r"(se\.(reduce|expand)|head\.(mix|classifier))\.weight$", name) is not None


def _leaf(name: str) -> str | None:
    """A layer's tensor in our names.

    >>> _leaf("conv.conv.weight"), _leaf("bn.bn.running_var"), _leaf("conv.5to3_matrix")
    ('conv.weight', 'norm.running_var', 'conv.transform_3')
    """
    for pattern, ours in (
        (r"(?:conv\.)+weight", "conv.weight"),
        (r"(?:conv\.)*(?:bn\.)+(\w+)", r"norm.\1"),
        (r"(?:conv\.)*\d+to(\d+)_matrix", r"conv.transform_\1"),
        (r"se\.fc\.((?:reduce|expand)\.\w+)", r"se.\1"),
        (r"(?:linear\.)+(\w+)", r"\1"),
    ):
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return None


# --- sorting ------------------------------------------------------------------------------------


def ranked(importance: Tensor, kept: Iterable[int] = ()) -> Tensor:
    """Indices by falling importance; none leaves a prefix of one of the kept sizes.

    >>> ranked(torch.tensor([1.0, 2.0, 3.0, 4.0]), [2])
    tensor([1, 0, 3, 2])
    """
    bounds = sorted({0, *kept, len(importance)})
    return torch.cat(
        [start + importance[start:end].argsort(descending=True) for start, end in pairwise(bounds)]
    )


def importance(following: nn.Conv2d | nn.Linear) -> Tensor:
    """L1 norm of what the next layer reads of each channel, (in,)."""
    return following.weight.detach().abs().transpose(0, 1).flatten(1).sum(1)


def reorder_outputs(layer: ConvNorm | nn.Linear, order: Tensor) -> None:
    """Permute what a layer gives, in place."""
    tensors: tuple[Tensor | None, ...]
    if isinstance(layer, ConvNorm):
        norm = layer.norm
        affine = (norm.weight, norm.bias)
        tensors = (layer.conv.weight, *affine, norm.running_mean, norm.running_var)
    else:
        tensors = (layer.weight, layer.bias)
    with torch.no_grad():
        for tensor in tensors:
            if tensor is not None:  # of each set, where a norm has several
                sets = tensor.unflatten(0, (-1, len(order)))
                tensor.copy_(sets[:, order].flatten(0, 1))


def reorder_inputs(layer: nn.Conv2d | nn.Linear, order: Tensor) -> None:
    """Permute what a dense layer reads, in place."""
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:, order])
