"""Once-for-all: published sizes, agreement with its own package, one function in every form."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import assert_plain
from torch import Tensor, nn

import search_spaces
from search_spaces.choices import Value
from search_spaces.elastic import Supernet
from search_spaces.ofa.layers import hidden_channels, round_channels
from search_spaces.ofa.mobile import MBConv, MobileSizes, MobileSpace
from search_spaces.ofa.presets import PRESETS as SIZES
from search_spaces.ofa.resnet import Bottleneck, ResNetSpace
from search_spaces.ofa.space import OfaSpace, importance
from search_spaces.space import SearchSpace

PRESETS = ("mbv3-w1.0", "mbv3-w1.2", "proxyless-w1.3", "resnet50")
NETWORKS = 20


def close(ours: Tensor, theirs: Tensor) -> None:
    """Equal to 1e-5 of the largest output."""
    ours, theirs = ours.detach(), theirs.detach()
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


def small(preset: str) -> OfaSpace:
    """The space at low resolutions, for speed; halving them gives odd sides too."""
    sizes = SIZES[preset]
    if preset == "digits":
        resolutions: tuple[int, ...] = (8, 12)
    else:
        resolutions = (40, 72)
    if isinstance(sizes, MobileSizes):
        return MobileSpace(preset, replace(sizes, resolutions=resolutions))
    return ResNetSpace(preset, replace(sizes, resolutions=resolutions))


def draw(space: SearchSpace, n: int, seed: int) -> list[dict[str, Value]]:
    """The largest, the smallest, and random architectures."""
    genomes = space.choices.sample(n - 2, np.random.default_rng(seed))
    found = [space.choices.decode(genome) for genome in genomes]
    return [space.largest(), space.smallest(), *found]


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Random statistics, affine numbers, biases and kernel transforms: none is neutral."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(noise.abs() + 0.5)
            elif tensor.dim() == 4:  # by fan-in, also where depthwise: else signals would fade
                tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
            elif tensor.dim() == 1 or "transform_" in name or name.endswith("_matrix"):
                tensor.add_(0.1 * noise)


def random_supernet(space: OfaSpace) -> Supernet:
    """A supernet of which no slice looks like another."""
    net = space.supernet(0)
    randomise(net.network)
    return net


def inputs(space: SearchSpace, arch: dict[str, Value], n: int, seed: int = 0) -> Tensor:
    """Images at the architecture's own resolution."""
    side = int(arch["resolution"])
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, space.in_channels, side, side, generator=generator)


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
    from ofa.utils import make_divisible

    yield types.SimpleNamespace(
        networks=networks, recalibrate=utils.set_running_statistics, make_divisible=make_divisible
    )
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
    randomise(net)
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
    space = small(preset)
    theirs = reference(package, preset)
    ours = space.supernet(1)
    ours.network.load_state_dict(space.from_reference("ofa", theirs.state_dict()))
    ours.eval()
    theirs.eval()
    outputs = []
    with torch.no_grad():
        for i, arch in enumerate(draw(space, NETWORKS + 2, seed=3)):
            images = inputs(space, arch, 1, seed=i)
            select(theirs, space, arch)
            outputs.append(ours.activate(arch)(images))
            close(outputs[-1], theirs(images))
    for one, other in pairwise(outputs):
        assert (one - other).abs().max() > 1e-3  # architectures do not come out alike


@pytest.mark.parametrize("preset", ["mbv3-w1.0", "proxyless-w1.3", "resnet50"])
def test_recalibrated_outputs_are_the_package_s(package: Any, preset: str) -> None:
    space = small(preset)
    theirs = reference(package, preset)
    ours = space.supernet(1)
    ours.network.load_state_dict(space.from_reference("ofa", theirs.state_dict()))
    # statistics of few images amplify the rounding of float32 from layer to layer
    ours.double().eval()
    theirs.double().eval()
    for arch in draw(space, 4, seed=5):
        batches = [inputs(space, arch, n, seed=n).double() for n in (6, 4)]
        select(theirs, space, arch)
        with torch.no_grad():
            before = ours.activate(arch)(batches[0])
        package.recalibrate(theirs, [(images, None) for images in batches])
        ours.calibrate(batches)
        with torch.no_grad():
            found = ours(batches[0])
            close(found, theirs(batches[0]))
            assert (found - before).abs().max() > 1e-3
            close(ours.extract(arch)(batches[0]), found)


@pytest.mark.parametrize("preset", ["mbv3-w1.0", "resnet50"])
def test_every_subnet_of_a_supernet_s_file_is_what_it_was(
    package: Any, preset: str, tmp_path: Path
) -> None:
    """A start from a trained supernet keeps the order that its subnets learned."""
    from nas.training.init import initial_weights

    space, theirs = small(preset), reference(package, preset)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "released")
    initial = initial_weights(space, f"ofa:{tmp_path / 'released'}")
    assert (initial.sorted, initial.fresh, initial.unused) == ((), {}, ())
    ours = space.supernet(1).eval()
    ours.network.load_state_dict(initial.state)
    theirs.eval()
    with torch.no_grad():
        for i, arch in enumerate(draw(space, 4, seed=13)):
            images = inputs(space, arch, 1, seed=i)
            select(theirs, space, arch)
            close(ours.activate(arch)(images), theirs(images))


def test_widths_are_rounded_as_the_package_does(package: Any) -> None:
    for width in np.arange(0.5, 300, 0.25):
        assert round_channels(float(width)) == package.make_divisible(float(width), 8)


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


def test_each_resolution_has_norms_of_its_own_in_the_small_supernet_alone() -> None:
    space = search_spaces.get("ofa", "digits")
    net = random_supernet(space).eval()
    images = torch.randn(3, *space.input_shape)
    resolutions = (4, 8, 16)
    archs = [space.largest() | {"resolution": side} for side in resolutions]
    before = [net.activate(arch)(images) for arch in archs]
    for own in range(len(resolutions)):
        norm = net.network.get_submodule("stages.1.0.project.norm")
        assert isinstance(norm.weight, Tensor)
        with torch.no_grad():
            kept = norm.weight.clone()
            norm.weight.view(len(resolutions), -1)[own] *= 2.0
        differs = [
            not net.activate(arch)(images).equal(out)
            for arch, out in zip(archs, before, strict=True)
        ]
        assert differs == [other == own for other in range(len(resolutions))]
        with torch.no_grad():
            norm.weight.copy_(kept)
    for preset in ("mbv3-w1.0", "proxyless-w1.3"):  # published supernets share theirs
        published = search_spaces.get("ofa", preset)
        assert isinstance(published, MobileSpace)
        assert published.sizes.norm_sets == 1


@pytest.mark.parametrize("preset", ["digits", *PRESETS])
def test_counted_parameters_and_macs_are_those_of_the_network(preset: str) -> None:
    space = search_spaces.get("ofa", preset)
    macs = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal macs
        assert isinstance(module, nn.Conv2d | nn.Linear)
        macs += out.numel() * module.weight[0].numel()

    for arch in draw(space, 6, seed=1):  # at their own resolutions: meta computes nothing
        macs = 0
        ops = [op for _, op in space.workload(arch, batch=2)]
        with torch.device("meta"):
            network = space.build(arch).eval()
            side = int(arch["resolution"])
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.register_forward_hook(count)
            network(torch.zeros(2, space.in_channels, side, side))
        assert sum(op.params for op in ops) == sum(p.numel() for p in network.parameters())
        assert sum(op.op.macs for op in ops) == macs


@pytest.mark.parametrize("preset", ["digits", *PRESETS])
def test_widths_are_multiples_of_eight_and_lose_a_tenth_at_most(preset: str) -> None:
    space = search_spaces.get("ofa", preset)
    for arch in draw(space, 6, seed=2):
        with torch.device("meta"):
            network = space.build(arch)
        widths = {m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)}
        assert len(widths) > 2
        assert {width % 8 for width in widths} == {0}
    for channels in range(8, 400, 8):
        for expand in (0.2, 0.25, 0.35, 2, 3, 4, 6):
            assert hidden_channels(channels, expand) >= 0.9 * round(channels * expand)


# --- one function in every form -----------------------------------------------------------------


@pytest.mark.parametrize("preset", ["digits", "mbv3-w1.0", "proxyless-w1.3", "resnet50"])
@pytest.mark.parametrize("training", [False, True])
def test_activated_extracted_and_copied_agree(preset: str, training: bool) -> None:
    space = small(preset)
    net = random_supernet(space).train(training)
    for i, arch in enumerate(draw(space, 5, seed=7)):
        images = inputs(space, arch, 4, seed=i)
        net.activate(arch)
        if i % 2 and not training:  # with statistics of its own, and with the shared ones
            net.calibrate([images, inputs(space, arch, 3, seed=9)])
        plain = net.extract(arch)
        copied = space.build(arch).train(training)
        copied.load_state_dict(plain.state_dict())
        assert_plain(plain, training)
        outputs = []
        with torch.no_grad():
            for network in (net, plain, copied):
                torch.manual_seed(1)  # of the dropout
                outputs.append(network(images))
        close(outputs[1], outputs[0])
        close(outputs[2], outputs[0])


@pytest.mark.parametrize("preset", ["digits", "resnet50"])
def test_one_subnet_s_statistics_do_not_reach_another(preset: str) -> None:
    space = small(preset)
    net = random_supernet(space).eval()
    first, second = draw(space, 4, seed=9)[2:]
    images, others = inputs(space, first, 4), 3 * inputs(space, second, 4) + 1
    before = {name: t.clone() for name, t in net.network.state_dict().items()}
    with torch.no_grad():
        shared = net.activate(first)(images)
        alone = net.calibrate([images])(images)
        assert not torch.allclose(alone, shared)
        net.extract(second)  # does not take them away
        assert net(images).equal(alone)
        net.activate(second).calibrate([others])
        assert not net.activate(first).calibrated
        assert net(images).equal(shared)
        assert net.calibrate([images])(images).equal(alone)
        resolutions = space.choices.choices[space.choices.index("resolution")].values
        resized = {**first, "resolution": next(r for r in resolutions if r != first["resolution"])}
        assert not net.activate(resized).calibrated  # they are of one resolution
    for name, tensor in net.network.state_dict().items():
        assert tensor.equal(before[name]), name


# --- sorting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["digits", "mbv3-w1.0", "proxyless-w1.3", "resnet50"])
@pytest.mark.parametrize("trained", [0, 1, 2])
def test_sorting_leaves_what_is_trained(preset: str, trained: int) -> None:
    """The largest's output stays, and those of every subnet of the trained expansions."""
    space = small(preset)
    assert isinstance(space, MobileSpace | ResNetSpace)
    net = random_supernet(space).eval()

    def outputs(expansions: int) -> list[Tensor]:
        """Of the largest, and of two whose blocks expand by the largest few values."""
        found = []
        for i, arch in enumerate([space.largest(), *draw(space, 4, seed=11)[2:]]):
            for j, name in enumerate(name for name in arch if name.endswith(".expand")):
                values = space.choices.choices[space.choices.index(name)].values
                rank = 0 if i == 0 else (i + j) % expansions
                arch[name] = values[len(values) - 1 - rank]
            found.append(net.activate(arch)(inputs(space, arch, 2)))
        return found

    with torch.no_grad():
        before, beyond = outputs(trained + 1), outputs(min(trained + 2, 3))
        names = space.sort(net.network, trained)
        for now, was in list(zip(outputs(trained + 1), before, strict=True))[: 1 + 2 * trained]:
            close(now, was)
        if trained < 2:  # what is not trained may change, else nothing would have been sorted
            changes = [
                float((now - was).abs().max() / was.abs().max())
                for now, was in zip(outputs(trained + 2)[1:], beyond[1:], strict=True)
            ]
            assert max(changes) > 1e-3, changes
    assert len(names) == len([b for b in space.blocks if b.name.startswith("stages.")])
    if trained == 0:
        for name in names:
            block = net.network.get_submodule(name)
            assert isinstance(block, MBConv | Bottleneck)
            last = block.project if isinstance(block, MBConv) else block.conv3
            found = importance(last.conv)
            assert (found[1:] <= found[:-1] * (1 + 1e-5)).all()  # sums round
            if isinstance(block, MBConv) and block.se is not None:
                found = importance(block.se.expand)
                assert (found[1:] <= found[:-1] * (1 + 1e-5)).all()
