"""The vit space: slices equal extracted equal plain equal the reference; counts equal modules."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from agreement import assert_plain, assert_sorts_layers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
from hw_profiles.errors import NotFoundError, UsageError
from search_spaces.elastic import Elastic, ElasticLinear, Supernet
from search_spaces.space import SearchSpace

SPACE = search_spaces.get("vit", "digits")


def random_supernet(space: SearchSpace = SPACE) -> Supernet:
    """A supernet whose every parameter is random, so that no slice looks like another."""
    net = space.supernet(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return net


NET = random_supernet()


@st.composite
def architectures(draw: st.DrawFn) -> dict[str, int | float | str]:
    seed = draw(st.integers(0, 2**32 - 1))
    return SPACE.choices.decode(SPACE.choices.sample(1, np.random.default_rng(seed))[0])


@settings(max_examples=40, deadline=None)
@given(arch=architectures(), training=st.booleans())
def test_activated_extracted_and_copied_networks_agree(
    arch: dict[str, int | float | str], training: bool
) -> None:
    images = torch.randn(3, *SPACE.input_shape, generator=torch.Generator().manual_seed(2))
    NET.train(training)
    before = NET.active
    plain = NET.extract(arch)
    assert NET.active == before
    copied = SPACE.build(arch).train(training)
    copied.load_state_dict(plain.state_dict())
    with torch.no_grad():
        activated = NET.activate(arch)(images)
        torch.testing.assert_close(plain(images), activated, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(copied(images), activated, atol=1e-5, rtol=1e-5)
    assert_plain(plain, training)


@settings(max_examples=40, deadline=None)
@given(arch=architectures())
def test_workload_counts_the_parameters_of_the_network(
    arch: dict[str, int | float | str],
) -> None:
    counted = sum(op.params for _, op in SPACE.workload(arch))
    assert counted == sum(p.numel() for p in SPACE.build(arch).parameters())


def test_workload_counts_the_macs_that_torch_counts() -> None:
    arch = SPACE.largest()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        SPACE.build(arch)(torch.zeros(2, *SPACE.input_shape))
    assert sum(op.op.macs for _, op in SPACE.workload(arch, batch=2)) * 2 == (
        counter.get_total_flops()
    )


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
def test_large_presets_have_autoformer_sizes(preset: str) -> None:
    space = search_spaces.get("vit", preset)
    largest, smallest = space.largest(), space.smallest()
    expected = {"tiny": ((192, 12), (240, 14)), "small": ((320, 12), (448, 14))}
    expected["base"] = ((528, 14), (624, 16))
    assert (smallest["embed"], smallest["depth"]) == expected[preset][0]
    assert (largest["embed"], largest["depth"]) == expected[preset][1]
    with torch.device("meta"):
        network = space.build(largest)
    assert sum(p.numel() for p in network.parameters()) == sum(
        op.params for _, op in space.workload(largest)
    )


def test_digits_reaches_from_thousands_to_hundreds_of_thousands() -> None:
    def params(arch: dict[str, int | float | str]) -> int:
        return sum(op.params for _, op in SPACE.workload(arch))

    assert 1_000 < params(SPACE.smallest()) < 2_000
    assert 200_000 < params(SPACE.largest()) < 400_000


@pytest.mark.parametrize(("embed", "depth", "ffn"), [(32, 1, "S"), (32, 3, "M"), (64, 6, "XL")])
def test_uniform_subnets_equal_transformers(embed: int, depth: int, ffn: str) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    hidden = {"S": embed // 2, "M": embed, "XL": 4 * embed}[ffn]
    reference = ViTForImageClassification(
        ViTConfig(
            hidden_size=embed, num_hidden_layers=depth, num_attention_heads=embed // 16,
            intermediate_size=hidden, image_size=8, patch_size=2, num_channels=1, num_labels=10,
            layer_norm_eps=1e-6,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    arch: dict[str, int | float | str] = {"embed": embed, "depth": depth}
    for i in range(depth):
        arch |= {f"layers.{i}.heads": embed // 16, f"layers.{i}.ffn": ffn}
    ours = SPACE.build(arch).eval()
    ours.load_state_dict(SPACE.from_reference("hf", reference.state_dict()))
    net = random_supernet().eval().activate(arch)
    with torch.no_grad():  # the same weights as a prefix of the supernet's
        for name, module in net.network.named_modules():
            if isinstance(module, Elastic):
                for key, part in module.active_state().items():
                    full = f"{name}.{key}"
                    if full in ours.state_dict() and part.numel():
                        _write_prefix(module, key, ours.state_dict()[full])
        images = torch.randn(4, 1, 8, 8)
        expected = reference(images).logits
        torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(net(images), expected, atol=1e-5, rtol=1e-5)


def _write_prefix(module: torch.nn.Module, key: str, value: torch.Tensor) -> None:
    """Put a subnet's tensor where the supernet keeps it, axis by axis of a grid of features."""
    full = module.get_parameter(key).data
    if isinstance(module, ElasticLinear):
        full = full.view(*module.out_grid, *(module.in_grid if key == "weight" else ()))
        value = value.reshape(*module.active_out, *(module.active_in if key == "weight" else ()))
    full[tuple(map(slice, value.shape))] = value


def test_unknown_space_and_preset_propose_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="'vit'"):
        search_spaces.get("vti")
    with pytest.raises(NotFoundError, match="'digits'"):
        search_spaces.get("vit", "digit")


def test_activate_refuses_what_is_no_architecture() -> None:
    with pytest.raises(UsageError, match="embed"):
        NET.activate({**SPACE.smallest(), "embed": 17})


def test_describe_is_short_and_tells_architectures_apart() -> None:
    rng = np.random.default_rng(0)
    genomes = np.unique(SPACE.choices.sample(300, rng), axis=0)
    texts = [SPACE.describe(SPACE.choices.decode(g)) for g in genomes]
    assert len(set(texts)) == len(texts)
    assert max(map(len, texts)) < 40


# --- reference weights --------------------------------------------------------------------------


def timm_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of timm's vit_{tiny,small,base}_patch16_224."""
    return {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 197, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        **{
            f"blocks.{i}.{name}.{part}": shape if part == "weight" else shape[:1]
            for i in range(12)
            for name, shape in {
                "norm1": (width,),
                "attn.qkv": (3 * width, width),
                "attn.proj": (width, width),
                "norm2": (width,),
                "mlp.fc1": (4 * width, width),
                "mlp.fc2": (width, 4 * width),
            }.items()
            for part in ("weight", "bias")
        },
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (1000, width),
        "head.bias": (1000,),
    }


TIMM = timm_shapes(192)


@pytest.mark.parametrize(
    ("preset", "width", "heads", "parameters"),
    [
        ("deit-tiny", 192, 3, 5_717_416),
        ("deit-small", 384, 6, 22_050_664),
        ("deit-base", 768, 12, 86_567_656),
    ],
)
def test_published_networks_are_the_largest_of_their_presets(
    preset: str, width: int, heads: int, parameters: int
) -> None:
    space = search_spaces.get("vit", preset)
    largest = space.largest()
    assert {v for k, v in largest.items() if k.endswith("heads")} == {heads}
    with torch.device("meta"):
        ours = space.build(largest)
    assert sum(p.numel() for p in ours.parameters()) == parameters
    state = {name: torch.empty(s, device="meta") for name, s in timm_shapes(width).items()}
    mapped = space.from_reference("timm", state)
    assert {k: v.shape for k, v in mapped.items()} == {
        k: v.shape for k, v in ours.state_dict().items()
    }


def test_timm_s_weights_compute_what_transformers_does() -> None:
    """Its query, key and value lie in thirds of one matrix, heads in each third in their order."""
    from transformers import ViTConfig, ViTForImageClassification

    reference = ViTForImageClassification(
        ViTConfig(
            hidden_size=64, num_hidden_layers=6, num_attention_heads=4, intermediate_size=256,
            image_size=8, patch_size=2, num_channels=1, num_labels=10, layer_norm_eps=1e-6,
        )
    ).eval()  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    theirs = reference.vit
    state = {
        "cls_token": theirs.embeddings.cls_token,
        "pos_embed": theirs.embeddings.position_embeddings,
    }
    modules = {
        "patch_embed.proj": theirs.embeddings.patch_embeddings.projection,
        "norm": theirs.layernorm,
        "head": reference.classifier,
    }
    for i, layer in enumerate(theirs.layers):
        modules |= {
            f"blocks.{i}.norm1": layer.layernorm_before,
            f"blocks.{i}.attn.proj": layer.attention.o_proj,
            f"blocks.{i}.norm2": layer.layernorm_after,
            f"blocks.{i}.mlp.fc1": layer.mlp.fc1,
            f"blocks.{i}.mlp.fc2": layer.mlp.fc2,
        }
        attention = layer.attention
        for part in ("weight", "bias"):
            thirds = [getattr(attention.get_submodule(f"{n}_proj"), part) for n in "qkv"]
            state[f"blocks.{i}.attn.qkv.{part}"] = torch.cat(thirds)
    for name, module in modules.items():
        state |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    assert {re.sub(r"\d+", "#", name) for name in state} == {
        re.sub(r"\d+", "#", name) for name in TIMM
    }
    ours = SPACE.build(SPACE.largest()).eval()
    ours.load_state_dict(SPACE.from_reference("timm", state))
    images = torch.randn(4, 1, 8, 8, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), reference(images).logits, atol=1e-5, rtol=1e-5)


def test_positions_of_another_grid_are_resampled() -> None:
    state = {name: torch.zeros(shape) for name, shape in TIMM.items()}
    state["pos_embed"] = torch.full((1, 1 + 14**2, 192), 3.0)
    state["pos_embed"][:, 0] = 7.0
    position = SPACE.from_reference("timm", state)["tokens.position"]
    assert position.shape == (1, 1 + 4**2, 192)
    assert (position[:, 0] == 7.0).all()
    torch.testing.assert_close(position[:, 1:], torch.full((1, 16, 192), 3.0))


@pytest.mark.parametrize(
    "foreign",
    ["dist_token", "reg_token", "norm_pre.weight", "blocks.0.ls1.gamma", "fc_norm.weight",
     "blocks.3.attn.q_norm.weight"],
)  # fmt: skip
def test_what_a_plain_network_has_not_is_refused(foreign: str) -> None:
    state = {name: torch.zeros(shape) for name, shape in TIMM.items()}
    with pytest.raises(UsageError, match=f"has no {re.escape(foreign)}"):
        SPACE.from_reference("timm", {**state, foreign: torch.zeros(192)})
    del state["patch_embed.proj.weight"]
    with pytest.raises(UsageError, match="no patch embedding"):
        SPACE.from_reference("timm", state)


@pytest.mark.parametrize("positions", [196, 198, 2 + 14**2, 1])
def test_positions_that_are_no_square_grid_s_are_refused(positions: int) -> None:
    state = {name: torch.zeros(shape) for name, shape in TIMM.items()}
    state["pos_embed"] = torch.zeros(1, positions, 192)
    with pytest.raises(UsageError, match=f"{positions} positions"):
        SPACE.from_reference("timm", state)


@pytest.mark.parametrize("elastic", [True, False])
def test_sorting_moves_whole_heads_and_leaves_the_largest_s_output(elastic: bool) -> None:
    images = torch.randn(3, *SPACE.input_shape, generator=torch.Generator().manual_seed(3))
    assert_sorts_layers(SPACE, random_supernet(), images, elastic)
