"""Once-for-all: published sizes, agreement with its own package, one function in every form."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import search_spaces
from search_spaces.choices import Value
from search_spaces.elastic import Elastic
from search_spaces.space import SearchSpace

PRESETS = ("mbv3-w1.0", "mbv3-w1.2", "proxyless-w1.3", "resnet50")
NETWORKS = 20


def close(ours: Tensor, theirs: Tensor) -> None:
    """Equal to 1e-5 of the largest output."""
    ours, theirs = ours.detach(), theirs.detach()
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


def draw(space: SearchSpace, n: int, seed: int) -> list[dict[str, Value]]:
    """Random architectures at the lowest resolution, for speed."""
    rng = np.random.default_rng(seed)
    low = space.smallest()["resolution"]
    genomes = space.choices.sample(n, rng)
    return [{**space.choices.decode(genome), "resolution": low} for genome in genomes]


# --- the package once-for-all -------------------------------------------------------------------


@pytest.fixture(scope="module")
def package() -> Iterator[Any]:
    """Its networks. They need no torchvision; its data loaders, imported along, do."""
    pytest.importorskip("ofa", reason="the package `ofa` is not installed (extra `test`)")
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    names += ("torchvision.datasets",)
    before = {name: sys.modules.get(name) for name in names}

    class Empty(types.ModuleType):
        __path__ = ()

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    for name in names:
        sys.modules[name] = Empty(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    from ofa.imagenet_classification.elastic_nn import networks, utils

    yield types.SimpleNamespace(networks=networks, recalibrate=utils.set_running_statistics)
    for name, module in before.items():
        if module is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = module


def reference(package: Any, preset: str) -> nn.Module:
    """Its supernet with random weights, kernel transforms and statistics."""
    mobile: dict[str, Any] = {
        "ks_list": [3, 5, 7],
        "expand_ratio_list": [3, 4, 6],
        "depth_list": [2, 3, 4],
    }
    torch.manual_seed(0)
    net: nn.Module
    if preset == "resnet50":
        net = package.networks.OFAResNets(
            depth_list=[0, 1, 2],
            expand_ratio_list=[0.2, 0.25, 0.35],
            width_mult_list=[0.65, 0.8, 1.0],
        )
    elif preset == "proxyless-w1.3":
        net = package.networks.OFAProxylessNASNets(width_mult=1.3, **mobile)
    else:
        net = package.networks.OFAMobileNetV3(width_mult=float(preset[-3:]), **mobile)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(0, 0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("_matrix"):
                tensor.add_(0.1 * torch.randn_like(tensor))
    return net


def select(net: Any, space: SearchSpace, arch: dict[str, Value]) -> None:
    """Activate our architecture in the package's supernet; its inactive slots take any value."""
    stages = sorted({name.split(".")[1] for name in arch if name.startswith("stages.")})

    def slots(what: str, otherwise: Value) -> list[Value]:
        found = []
        for block in space.blocks:
            if block.name.startswith("stages."):
                found.append(arch.get(f"{block.name}.{what}", otherwise))
        return found

    if space.preset == "resnet50":
        base = (2, 2, 4, 2)
        extra = [int(arch[f"stages.{i}.depth"]) - base[int(i)] for i in stages]
        widths = [
            arch["stem.middle"],
            arch["stem.width"],
            *(arch[f"stages.{i}.width"] for i in stages),
        ]
        net.set_active_subnet(
            d=[2 if arch["stem.depth"] == 3 else 0, *extra],
            e=slots("expand", 0.35),
            w=[(0.65, 0.8, 1.0).index(float(w)) for w in widths],
        )
        return
    depths = [int(arch.get(f"stages.{i}.depth", 1)) for i in stages]
    net.set_active_subnet(ks=slots("kernel", 7), e=slots("expand", 6), d=depths)


@pytest.mark.parametrize("preset", PRESETS)
def test_outputs_are_the_package_s(package: Any, preset: str) -> None:
    space = search_spaces.get("ofa", preset)
    theirs = reference(package, preset)
    ours = space.supernet(1)
    ours.network.load_state_dict(space.from_reference("ofa", theirs.state_dict()))
    ours.eval()
    theirs.eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for arch in draw(space, NETWORKS, seed=3):
            images = torch.randn(1, 3, int(arch["resolution"]), int(arch["resolution"]))
            select(theirs, space, arch)
            close(ours.activate(arch)(images), theirs(images))


@pytest.mark.parametrize("preset", ["mbv3-w1.0", "proxyless-w1.3", "resnet50"])
def test_recalibrated_outputs_are_the_package_s(package: Any, preset: str) -> None:
    space = search_spaces.get("ofa", preset)
    theirs = reference(package, preset)
    ours = space.supernet(1)
    ours.network.load_state_dict(space.from_reference("ofa", theirs.state_dict()))
    # statistics of few images amplify the rounding of float32 from layer to layer
    ours.double().eval()
    theirs.double().eval()
    torch.manual_seed(4)
    for arch in draw(space, 3, seed=5):
        side = int(arch["resolution"])
        batches = [torch.randn(8, 3, side, side, dtype=torch.float64) for _ in range(2)]
        select(theirs, space, arch)
        package.recalibrate(theirs, [(images, None) for images in batches])
        ours.activate(arch).calibrate(batches)
        with torch.no_grad():
            close(ours(batches[0]), theirs(batches[0]))


def test_weights_of_another_network_are_refused(package: Any) -> None:
    state = reference(package, "mbv3-w1.0").state_dict()
    with pytest.raises(search_spaces.space.UsageError, match=r"resnet50|blocks"):
        search_spaces.get("ofa", "resnet50").from_reference("ofa", state)


# --- sizes --------------------------------------------------------------------------------------


def without_resolution(preset: str) -> int:
    space = search_spaces.get("ofa", preset)
    resolutions = len(space.choices.choices[space.choices.index("resolution")].values)
    whole, rest = divmod(space.choices.cardinality(), resolutions)
    assert rest == 0
    return whole


def test_cardinalities_are_the_published_ones() -> None:
    stage = 9**2 + 9**3 + 9**4  # kernels times expansions, at depths of 2, 3 and 4
    assert stage == 7371
    assert without_resolution("mbv3-w1.0") == without_resolution("mbv3-w1.2") == stage**5
    assert without_resolution("proxyless-w1.3") == 9 * stage**5  # 1.958e20
    blocks = [3**2 + 3**3 + 3**4, 3**2 + 3**3 + 3**4, 3**4 + 3**5 + 3**6, 3**2 + 3**3 + 3**4]
    assert without_resolution("resnet50") == 2 * 3**6 * int(np.prod(blocks))  # 2.459e12
    resolutions = search_spaces.get("ofa", "mbv3-w1.0").choices
    assert len(resolutions.choices[resolutions.index("resolution")].values) == 25


@pytest.mark.parametrize("preset", ["digits", *PRESETS])
def test_counted_parameters_and_macs_are_those_of_the_network(preset: str) -> None:
    space = search_spaces.get("ofa", preset)
    for arch in draw(space, 2, seed=1):
        network = space.build(arch).eval()
        ops = [op for _, op in space.workload(arch)]
        assert sum(op.params for op in ops) == sum(p.numel() for p in network.parameters())
        macs = 0

        def count(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            nonlocal macs
            if isinstance(module, nn.Conv2d):
                macs += out.numel() * module.weight[0].numel()
            else:
                macs += out.numel() * module.in_features

        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        with torch.no_grad():
            network(space.example(arch))
        assert sum(op.op.macs for op in ops if op.op.kind in ("conv2d", "linear")) == macs


# --- one function in every form -----------------------------------------------------------------


@pytest.mark.parametrize("preset", ["digits", "mbv3-w1.0", "resnet50"])
@pytest.mark.parametrize("training", [False, True])
def test_activated_and_extracted_agree(preset: str, training: bool) -> None:
    space = search_spaces.get("ofa", preset)
    net = space.supernet(0).train(training)
    torch.manual_seed(0)
    for arch in draw(space, 3, seed=7):
        side = int(arch["resolution"])
        images = torch.randn(4, space.in_channels, side, side)
        if not training:
            net.activate(arch).calibrate([images])
        plain = net.extract(arch)
        assert not any(isinstance(module, Elastic) for module in plain.modules())
        assert all(p.is_contiguous() for p in plain.parameters())
        torch.manual_seed(1)  # of the dropout
        mine = net.activate(arch)
        if not training:
            mine.calibrate([images])
        activated = mine(images)
        torch.manual_seed(1)
        close(plain(images), activated)


def test_one_subnet_s_statistics_do_not_reach_another() -> None:
    space = search_spaces.get("ofa", "digits")
    net = space.supernet(0).eval()
    first, second = draw(space, 2, seed=9)
    images = torch.randn(64, 1, 8, 8)
    before = {name: t.clone() for name, t in net.network.state_dict().items()}
    with torch.no_grad():
        alone = net.activate(first).calibrate([images])(images)
        net.activate(second).calibrate([3 * images + 1])
        assert not net.activate(first).calibrated
        assert net.calibrate([images])(images).equal(alone)
    for name, tensor in net.network.state_dict().items():
        assert tensor.equal(before[name]), name


@pytest.mark.parametrize("preset", ["digits", "resnet50"])
def test_sorting_leaves_the_largest_s_output(preset: str) -> None:
    space = search_spaces.get("ofa", preset)
    net = space.supernet(0).eval()
    arch = {**space.largest(), "resolution": space.smallest()["resolution"]}
    side = int(arch["resolution"])
    images = torch.randn(2, space.in_channels, side, side)
    with torch.no_grad():
        before = net.activate(arch)(images)
        weights = {name: p.clone() for name, p in net.network.named_parameters()}
        assert space.sort(net.network)
        assert any(not p.equal(weights[name]) for name, p in net.network.named_parameters())
        close(net.activate(arch)(images), before)
