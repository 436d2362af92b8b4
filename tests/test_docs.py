"""The family in docs/extending.md is whole: it registers, trains a step, extracts and exports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import search_spaces
from hw_profiles import registry as registry_of_devices
from nas.export.onnx import export_onnx
from nas.export.subnet import run_onnx
from nas.setting import Setting
from search_spaces import space as registry
from search_spaces.elastic import Elastic
from search_spaces.space import SearchSpace

TEXT = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
CODE = next(
    block for block in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "MlpSpace" in block
)


@pytest.fixture
def space() -> Iterator[SearchSpace]:
    exec(compile(CODE, "docs/extending.md", "exec"), {"__name__": "documented"})
    try:
        yield search_spaces.get("mlp")
    finally:
        registry._FAMILIES.pop("mlp")


def test_the_documented_family_is_a_search_space(space: SearchSpace) -> None:
    assert space.choices.cardinality() == 3 + 9 + 27
    net = space.supernet(0)
    images = torch.randn(3, *space.input_shape)
    rng = np.random.default_rng(0)
    for genome in space.choices.sample(10, rng):
        arch = space.choices.decode(genome)
        plain = net.extract(arch)
        assert not any(isinstance(module, Elastic) for module in plain.modules())
        torch.testing.assert_close(plain(images), net.activate(arch)(images))
        counted = sum(op.params for _, op in space.workload(arch))
        assert counted == sum(p.numel() for p in plain.parameters())
    arch = space.largest()
    setting = Setting(space, registry_of_devices.load("a100"))
    assert setting.costs.extreme("params", largest=True)[0] == counted_params(space)
    plain = net.extract(arch).eval()
    graph = export_onnx(plain, space.example(arch)).SerializeToString()
    torch.testing.assert_close(run_onnx(graph, images, 1), plain(images).detach())


def counted_params(space: SearchSpace) -> int:
    return sum(op.params for _, op in space.workload(space.largest()))


def test_the_documented_family_is_short() -> None:
    assert len([line for line in CODE.splitlines() if line.strip()]) <= 60
