"""What every family's extracted networks have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_spaces.elastic import Supernet
from search_spaces.elastic.base import Elastic
from search_spaces.space import SearchSpace
from search_spaces.transformer import Layer


def assert_plain(network: nn.Module, training: bool) -> None:
    """A network in this mode, without elastic layers, that owns its float32 weights: no views."""
    assert network.training == training
    assert not any(isinstance(module, Elastic) for module in network.modules())
    for parameter in network.parameters():
        assert parameter.is_contiguous()
        assert parameter.untyped_storage().nbytes() == parameter.numel() * 4


def _heads_of(layer: Layer) -> Tensor:
    """All numbers of each head, (heads, numbers)."""
    qkv, proj = layer.attention.qkv, layer.attention.proj
    n = proj.in_features // layer.attention.head_width
    parts = [t.unflatten(0, (3, n, -1)).transpose(0, 1).flatten(1) for t in (qkv.weight, qkv.bias)]
    parts.append(proj.weight.unflatten(1, (n, -1)).transpose(0, 1).flatten(1))
    return torch.cat(parts, dim=1).detach().clone()


def _units_of(layer: Layer) -> Tensor:
    """All numbers of each hidden unit, (units, numbers)."""
    fc1, fc2 = layer.mlp.fc1, layer.mlp.fc2
    return torch.cat([fc1.weight, fc1.bias[:, None], fc2.weight.T], dim=1).detach().clone()


def assert_sorts_layers(space: SearchSpace, net: Supernet, x: Tensor, elastic: bool) -> None:
    """Sorting puts heads and units of most weight first, whole, and leaves the largest's output."""
    net.eval()
    network = net.activate(space.largest()).network if elastic else net.extract(space.largest())
    layers = {n: m for n, m in network.named_modules() if isinstance(m, Layer)}
    with torch.no_grad():
        before = network(x)
        old = {name: (_heads_of(layer), _units_of(layer)) for name, layer in layers.items()}
        assert len(space.sort(network)) == 2 * len(layers)
        torch.testing.assert_close(network(x), before, atol=1e-5, rtol=1e-5)
    moved = 0
    for name, layer in layers.items():
        for was, now in zip(old[name], (_heads_of(layer), _units_of(layer)), strict=True):
            assert now.equal(was[was.abs().sum(1).argsort(descending=True)])
            moved += not now.equal(was)
    assert moved > len(layers)  # units of every layer, and heads of some
