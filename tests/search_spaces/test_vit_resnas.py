"""ViT-ResNAS: published counts, and one function in every form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import search_spaces
from search_spaces.elastic import Elastic


@pytest.mark.parametrize(
    ("preset", "architectures", "params", "macs"),
    [("tiny", "1.918e+28", 84.8e6, 3.50e9), ("small", "4.211e+32", 155e6, 6.26e9)],
)
def test_counts_are_the_published_ones(
    preset: str, architectures: str, params: float, macs: float
) -> None:
    space = search_spaces.get("vit-resnas", preset)
    assert f"{space.choices.cardinality():.3e}" == architectures
    ops = [op for _, op in space.workload(space.largest())]
    assert sum(op.params for op in ops) == pytest.approx(params, rel=0.005)
    assert sum(op.op.macs for op in ops) == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize("training", [False, True])
def test_activated_extracted_and_fresh_networks_agree(training: bool) -> None:
    space = search_spaces.get("vit-resnas", "digits")
    net = space.supernet(0).train(training)
    torch.manual_seed(0)
    images = torch.randn(8, *space.input_shape)
    for genome in space.choices.sample(12, np.random.default_rng(1)):
        arch = space.choices.decode(genome)
        mine = net.activate(arch)
        if not training:
            mine.calibrate([images])
        plain = net.extract(arch)
        fresh = space.build(arch).train(training)
        fresh.load_state_dict(plain.state_dict())
        assert not any(isinstance(module, Elastic) for module in plain.modules())
        assert all(p.is_contiguous() for p in plain.parameters())
        expected = mine(images)
        torch.testing.assert_close(plain(images), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fresh(images), expected, rtol=1e-5, atol=1e-5)
        ops = [op for _, op in space.workload(arch)]
        assert sum(op.params for op in ops) == sum(p.numel() for p in plain.parameters())


def test_sorting_leaves_the_largest_s_output() -> None:
    space = search_spaces.get("vit-resnas", "digits")
    net = space.supernet(0).eval()
    images = torch.randn(4, *space.input_shape)
    with torch.no_grad():
        before = net.activate(space.largest())(images)
        weights = {name: p.clone() for name, p in net.network.named_parameters()}
        assert space.sort(net.network)
        assert any(not p.equal(weights[name]) for name, p in net.network.named_parameters())
        torch.testing.assert_close(net(images), before, rtol=1e-5, atol=1e-5)


def test_heads_keep_their_width_whatever_their_number() -> None:
    space = search_spaces.get("vit-resnas", "digits")
    net = space.supernet(0)
    for arch in (space.largest(), space.smallest()):
        widths = [
            m.head_width
            for m in net.extract(arch).modules()
            if isinstance(m, nn.Module) and hasattr(m, "head_width")
        ]
        assert widths
        assert set(widths) <= {m.head_width for m in net.modules() if hasattr(m, "head_width")}
