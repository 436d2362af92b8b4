"""The vit-resnas space: masked equals sliced equals extracted; published sizes; exact counts."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from agreement import assert_plain, assert_sorts_layers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
from hw_profiles.errors import UsageError
from search_spaces.choices import Value
from search_spaces.elastic import Attention, Supernet
from search_spaces.space import SearchSpace
from search_spaces.vit_resnas import (
    EPS,
    PRESETS,
    Layer,
    Reduction,
    ViTResNAS,
    ViTResNASSpace,
    kept_blocks,
)

SPACE = search_spaces.get("vit-resnas", "digits")
STAGES = list(enumerate(PRESETS["digits"].stages))
seeds = st.integers(0, 2**32 - 1)


def random_supernet() -> Supernet:
    """A supernet whose every number is random, so that no slice looks like another."""
    net = SPACE.supernet(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if "norm" in name and name.endswith("weight"):  # else images would come out alike
                parameter.add_(1.0)
        for name, buffer in net.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return net


NET = random_supernet()


def sample(seed: int, space: SearchSpace = SPACE) -> dict[str, Value]:
    return space.choices.decode(space.choices.sample(1, np.random.default_rng(seed))[0])


def images(n: int) -> Tensor:
    return torch.randn(n, *SPACE.input_shape, generator=torch.Generator().manual_seed(2))


# --- the mask reference -------------------------------------------------------------------------


def live(active: int, full: int) -> Tensor:
    return (torch.arange(full) < active).float()


def masked_norm(norm: nn.LayerNorm, x: Tensor, mask: Tensor) -> Tensor:
    """Layer norm of the live features of a full-size tensor, whose others are zero."""
    n = mask.sum()
    mean = x.sum(-1, keepdim=True) / n
    variance = ((x - mean) * mask).square().sum(-1, keepdim=True) / n
    return ((x - mean) / (variance + EPS).sqrt() * norm.weight + norm.bias) * mask


def masked_attention(layer: Attention, x: Tensor, heads: int) -> Tensor:
    """Every head runs; the outputs of those that are not live are zero."""
    batch, tokens, _ = x.shape
    n, width = layer.proj.in_features // layer.head_width, layer.head_width
    q, k, v = layer.qkv(x).view(batch, tokens, 3, n, width).permute(2, 0, 3, 1, 4)
    out = (q @ k.transpose(-1, -2) * width**-0.5).softmax(-1) @ v * live(heads, n)[:, None, None]
    projected: Tensor = layer.proj(out.transpose(1, 2).reshape(batch, tokens, n * width))
    return projected


def masked_reduction(layer: Reduction, x: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Class token and patches of the full widths."""

    def grid(tokens: Tensor) -> Tensor:
        side = 2 * layer.side
        return tokens[:, 1:].transpose(1, 2).reshape(len(x), -1, side, side)

    normed = masked_norm(layer.norm, x, before)
    patches = layer.conv(grid(normed)).flatten(2).transpose(1, 2) + layer.position.weight
    means = grid(x).unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)).flatten(2).transpose(1, 2)
    wider = x.new_zeros(len(x), 1 + layer.side**2, len(after))
    wider[..., : x.shape[-1]] = torch.cat([x[:, :1], means], dim=1)
    return (torch.cat([layer.cls(normed[:, :1]), patches], dim=1) + wider) * after


def masked_forward(full: ViTResNAS, arch: Mapping[str, Value], x: Tensor) -> Tensor:
    """The architecture's output, computed by the full-size network under masks."""
    widths = [live(int(arch[f"stages.{s}.embed"]), stage.embed[-1]) for s, stage in STAGES]
    x = torch.cat([full.tokens.cls.expand(len(x), 1, -1), full.stem(x)], dim=1)
    x = (x + full.tokens.position) * widths[0]
    for s, (stage, mask) in enumerate(zip(full.stages, widths, strict=True)):
        if s > 0:
            x = masked_reduction(stage.reduction, x, widths[s - 1], mask)
        for b, block in enumerate(stage.blocks.children()):
            name = f"stages.{s}.blocks.{b}"
            keep = float(f"{name}.heads" in arch)
            heads, hidden = int(arch.get(f"{name}.heads", 1)), int(arch.get(f"{name}.hidden", 1))
            y = masked_attention(block.attention, masked_norm(block.norm1, x, mask), heads)
            y = x + y * mask
            z = F.gelu(block.mlp.fc1(masked_norm(block.norm2, y, mask)))
            z = y + block.mlp.fc2(z * live(hidden, z.shape[-1])) * mask
            x = keep * z + (1 - keep) * x
    logits: Tensor = full.head(masked_norm(full.norm, x[:, 0], widths[-1]))
    return logits


@settings(max_examples=40, deadline=None)
@given(seed=seeds, training=st.booleans())
def test_masked_sliced_and_extracted_networks_agree(seed: int, training: bool) -> None:
    arch, x = sample(seed), images(3)
    NET.train(training)
    before = NET.active
    plain = NET.extract(arch)
    assert NET.active == before
    copied = SPACE.build(arch).train(training)
    copied.load_state_dict(plain.state_dict())
    # The norm of two features magnifies rounding where they are nearly equal.
    double = copy.deepcopy(NET).double()
    full = double.extract(SPACE.largest())
    with torch.no_grad():
        assert isinstance(full, ViTResNAS)
        masked = masked_forward(full, arch, x.double())
        torch.testing.assert_close(double.activate(arch)(x.double()), masked, atol=1e-5, rtol=1e-5)
        sliced = NET.activate(arch)(x)
        torch.testing.assert_close(plain(x), sliced, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(copied(x), sliced, atol=1e-5, rtol=1e-5)
    assert sliced.std(0).max() > 1e-3  # images do not come out alike
    assert_plain(plain, training)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_gradients_reach_the_active_slices_alone(seed: int) -> None:
    arch, net = sample(seed), random_supernet()
    net.activate(arch)(images(2)).square().sum().backward()
    embed = int(arch["stages.2.embed"])
    head = net.network.get_parameter("head.weight").grad
    assert head is not None
    assert head[:, :embed].any()
    assert not head[:, embed:].any()
    for s, stage in STAGES:
        kept = kept_blocks(stage, s, arch)
        for b in range(stage.blocks):
            layer = net.network.get_submodule(f"stages.{s}.blocks.{b}")
            assert all((p.grad is not None) == (b in kept) for p in layer.parameters())
            if b in kept:
                hidden = int(arch[f"stages.{s}.blocks.{b}.hidden"])
                grad = layer.get_parameter("mlp.fc1.weight").grad
                assert grad is not None
                assert grad[:hidden].any()
                assert not grad[hidden:].any()


# --- published sizes ----------------------------------------------------------------------------


def counts(space: SearchSpace, arch: Mapping[str, Value]) -> tuple[int, int]:
    ops = [op for _, op in space.workload(arch)]
    return sum(op.params for op in ops), sum(op.op.macs for op in ops)


@pytest.mark.parametrize(
    ("preset", "blocks", "digits"), [("tiny", 6, "1.918e+28"), ("small", 7, "4.211e+32")]
)
def test_cardinality_counts_kept_blocks_alone(preset: str, blocks: int, digits: str) -> None:
    each = 4 * 7  # heads, hidden units
    skippable = blocks // 2
    stage = 5 * each ** (blocks - skippable) * (1 + each) ** skippable
    counted = search_spaces.get("vit-resnas", preset).choices.cardinality()
    assert counted == stage**3
    assert f"{counted:.3e}" == digits


@pytest.mark.parametrize(
    ("preset", "params", "macs"), [("tiny", "84.8", "3.50"), ("small", "155", "6.26")]
)
def test_largest_has_the_published_size(preset: str, params: str, macs: str) -> None:
    space = search_spaces.get("vit-resnas", preset)
    counted_params, counted_macs = counts(space, space.largest())
    assert f"{counted_params / 1e6:.{1 if '.' in params else 0}f}" == params
    assert f"{counted_macs / 1e9:.2f}" == macs


# The published networks: pixels -> parameters (in millions, where given) and MACs (in billions).
# Their widths and depths are known, their blocks are not: these were found to meet every figure.
FOUND = {
    "tiny e176/352/704 2e-2d1g4f2b/3d2a4e2a1g2f/3g-4f4d3d2b": {224: ("40.8", "1.78")},
    "small e220/440/880 1g-3d1f3c2c2a/1g-2d3e2a3a4d/3d-1d-2g4d4a": {224: ("63.7", "2.85")},
    "small e240/640/880 4g3a4f1f3e2c4d/3g3g3g4f2g4g4f/3e-3f1g4f3c4f": {
        224: ("96.4", "4.51"),
        280: ("96.5", "7.22"),
        336: (None, "10.74"),
        392: (None, "15.20"),
    },
}
DEPTHS = {(176, 352, 704): (5, 6, 5), (220, 440, 880): (6, 6, 5), (240, 640, 880): (7, 7, 6)}


def described(preset: str, widths: str, blocks: str) -> dict[str, Value]:
    """The architecture of a description, as `describe` writes it."""
    stages = PRESETS[preset].stages
    arch: dict[str, Value] = {}
    for s, (width, row) in enumerate(zip(widths[1:].split("/"), blocks.split("/"), strict=True)):
        arch[f"stages.{s}.embed"] = int(width)
        for b, text in enumerate(re.findall(r"-|\d[a-g]", row)):
            name = f"stages.{s}.blocks.{b}"
            if stages[s].skippable(b):
                arch[f"{name}.keep"] = int(text != "-")
            if text != "-":
                arch[f"{name}.heads"] = stages[s].heads[int(text[0]) - 1]
                arch[f"{name}.hidden"] = stages[s].hidden["abcdefg".index(text[1])]
    return arch


@pytest.mark.parametrize("found", FOUND)
def test_networks_of_published_widths_and_depths_meet_every_published_count(found: str) -> None:
    """The third at four resolutions: their MACs part what grows with tokens from their square."""
    preset, widths, blocks = found.split()
    arch = described(preset, widths, blocks)
    for image, (params, macs) in FOUND[found].items():
        space = ViTResNASSpace(preset, replace(PRESETS[preset], image=image))
        assert space.describe(arch) == f"{widths} {blocks}"
        kept = [len(kept_blocks(stage, s, arch)) for s, stage in enumerate(space.sizes.stages)]
        embeds = tuple(int(arch[f"stages.{s}.embed"]) for s in range(3))
        assert DEPTHS[embeds] == tuple(kept)
        counted_params, counted_macs = counts(space, arch)
        assert params in (None, f"{counted_params / 1e6:.1f}")
        assert f"{counted_macs / 1e9:.2f}" == macs


@pytest.mark.parametrize(
    ("preset", "inner", "hidden"),
    [
        (
            "tiny",
            ((96, 128, 160, 192), (288, 384, 480, 576), (384, 512, 640, 768)),
            ((384, 768), (768, 1536), (1536, 3072)),
        ),
        (
            "small",
            ((160, 192, 224, 256), (480, 576, 672, 768), (640, 768, 896, 1024)),
            ((480, 960), (960, 1920), (1920, 3840)),
        ),
    ],
)
def test_presets_have_the_published_values(
    preset: str, inner: tuple[tuple[int, ...], ...], hidden: tuple[tuple[int, int], ...]
) -> None:
    sizes = PRESETS[preset]
    assert [stage.head_width for stage in sizes.stages] == [32, 48, 64]
    assert [sizes.side(s) for s in range(3)] == [16, 8, 4]
    for stage, widths, ends in zip(sizes.stages, inner, hidden, strict=True):
        assert tuple(heads * stage.head_width for heads in stage.heads) == widths
        assert (stage.hidden[0], stage.hidden[-1]) == ends


# --- counts -------------------------------------------------------------------------------------


def meet(space: SearchSpace, arch: Mapping[str, Value], batch: int) -> None:
    """What is counted is what torch really has; nothing is computed, on the device meta."""
    with torch.device("meta"):
        network = space.build(arch)
        x = torch.zeros(batch, *space.input_shape)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(x)
    ops = [op for _, op in space.workload(arch, batch=batch)]
    assert sum(op.params for op in ops) == sum(p.numel() for p in network.parameters())
    assert sum(op.op.macs for op in ops) * 2 == counter.get_total_flops()


@settings(max_examples=15, deadline=None)
@given(seed=seeds, batch=st.integers(1, 3))
def test_workload_is_the_network_s(seed: int, batch: int) -> None:
    meet(SPACE, sample(seed), batch)


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_workload_of_published_sizes_is_the_network_s(preset: str) -> None:
    space = search_spaces.get("vit-resnas", preset)
    for arch in (space.smallest(), space.largest(), sample(0, space)):
        meet(space, arch, 1)


# --- rules of the family ------------------------------------------------------------------------


def test_a_stage_is_never_narrower_than_the_one_before() -> None:
    sizes = PRESETS["digits"]
    first, second, third = sizes.stages
    with pytest.raises(ValueError, match="narrower"):
        replace(sizes, stages=(first, replace(second, embed=(16, 32)), third))
    # equal is allowed
    assert replace(sizes, stages=(first, replace(second, embed=(24, 32)), third)).reductions


@pytest.mark.parametrize("image", [56, 224, 280, 336, 392])
def test_images_are_multiples_of_56_pixels(image: int) -> None:
    space = ViTResNASSpace("tiny", replace(PRESETS["tiny"], image=image))
    meet(space, space.smallest(), 1)
    for wrong in (image + 1, image + 14, image + 28):
        with pytest.raises(ValueError, match="whole number"):
            replace(PRESETS["tiny"], image=wrong)


def test_every_second_block_may_be_left_out() -> None:
    skippable = {
        name.removesuffix(".keep") for name in SPACE.choices.names if name.endswith(".keep")
    }
    assert skippable == {
        f"stages.{s}.blocks.{b}" for s, stage in STAGES for b in range(1, stage.blocks, 2)
    }
    whole = SPACE.largest()
    arch = whole.copy()
    gone = {"stages.0.blocks.1", "stages.1.blocks.3"}
    for name in gone:
        arch[f"{name}.keep"] = 0
        del arch[f"{name}.heads"], arch[f"{name}.hidden"]
    net, x = random_supernet().eval(), images(2)
    names = {name for name, m in net.extract(arch).named_modules() if isinstance(m, Layer)}
    every = {f"stages.{s}.blocks.{b}" for s, stage in STAGES for b in range(stage.blocks)}
    assert every - names == gone
    with torch.no_grad():
        without, before = net.activate(arch)(x), net.activate(whole)(x)
        for parameter in net.network.get_submodule("stages.0.blocks.1").parameters():
            parameter.add_(1.0)
        assert net.activate(arch)(x).equal(without)  # its weights are not read
        assert not torch.allclose(net.activate(whole)(x), before)


def test_what_is_no_architecture_is_refused() -> None:
    arch = SPACE.largest()
    with pytest.raises(UsageError, match=r"blocks\.1"):
        SPACE.build({**arch, "stages.0.blocks.1.keep": 0})  # its heads are given
    with pytest.raises(UsageError, match=r"stages\.1\.embed"):
        NET.activate({**arch, "stages.1.embed": 33})


def test_batch_norms_see_the_same_in_every_subnet_and_need_no_calibration() -> None:
    net = random_supernet()
    assert not net.calibrates
    seen: list[Tensor] = []
    norm = net.network.get_submodule("stem.norm3")
    norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    for arch in (SPACE.smallest(), SPACE.largest()):
        net.activate(arch)(images(4))
    assert seen[0].equal(seen[1])


# --- sorting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("elastic", [True, False])
def test_sorting_moves_whole_heads_and_leaves_the_largest_s_output(elastic: bool) -> None:
    assert_sorts_layers(SPACE, random_supernet(), images(3), elastic)


def test_describe_tells_architectures_apart() -> None:
    genomes = np.unique(SPACE.choices.sample(200, np.random.default_rng(0)), axis=0)
    texts = [SPACE.describe(SPACE.choices.decode(g)) for g in genomes]
    assert len(set(texts)) == len(texts)
    assert not any("\n" in text for text in texts)
