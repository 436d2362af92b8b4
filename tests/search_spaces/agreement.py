"""What every family's extracted networks have in common."""

from __future__ import annotations

from torch import nn

from search_spaces.elastic.base import Elastic


def assert_plain(network: nn.Module, training: bool) -> None:
    """A network in this mode, without elastic layers, that owns its float32 weights: no views."""
    assert network.training == training
    assert not any(isinstance(module, Elastic) for module in network.modules())
    for parameter in network.parameters():
        assert parameter.is_contiguous()
        assert parameter.untyped_storage().nbytes() == parameter.numel() * 4
