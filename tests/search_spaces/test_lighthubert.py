"""The lighthubert space: slices equal extracted equal plain equal the references; exact counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from agreement import assert_plain
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
from hw_profiles.errors import UsageError
from search_spaces.elastic import Supernet
from search_spaces.lighthubert.network import ElasticHidden, ElasticPositionConv, Hubert
from search_spaces.lighthubert.sizes import PRESETS
from search_spaces.lighthubert.space import LightHubertSpace
from search_spaces.space import Architecture

SPACE = search_spaces.get("lighthubert", "vowels")
TINY = replace(
    PRESETS["small"],
    embed=(16, 32, 48), heads=(1, 2, 3), head_width=16, depth=(2, 3), kept={2: (0, 2)},
    convs=((16, 10, 5), (16, 3, 2), (16, 2, 2)), position=(8, 4), samples=420, n_classes=3,
)  # fmt: skip


def randomise(network: nn.Module, seed: int = 1) -> None:
    """Make every parameter random, so that no slice looks like another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if "norm.weight" in name:  # else frames would all come out alike
                parameter.add_(1.0)


def random_supernet(space: search_spaces.space.SearchSpace = SPACE) -> Supernet:
    net = space.supernet(0)
    randomise(net)
    return net


NET = random_supernet()


def sample(space: search_spaces.space.SearchSpace, seed: int) -> Architecture:
    return space.choices.decode(space.choices.sample(1, np.random.default_rng(seed))[0])


def waveforms(n: int, samples: int = 1600) -> Tensor:
    return torch.randn(n, samples, generator=torch.Generator().manual_seed(2))


# --- slices -------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), training=st.booleans())
def test_activated_extracted_and_copied_networks_agree(seed: int, training: bool) -> None:
    arch, inputs = sample(SPACE, seed), waveforms(2)
    mask = (
        torch.rand(2, SPACE.sizes.lengths[-1], generator=torch.Generator().manual_seed(seed)) < 0.4
    )
    NET.train(training)
    before = NET.active
    plain = NET.extract(arch)
    assert NET.active == before
    copied = SPACE.build(arch).train(training)
    copied.load_state_dict(plain.state_dict())
    with torch.no_grad():
        activated = NET.activate(arch)(inputs)
        torch.testing.assert_close(plain(inputs), activated, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(copied(inputs), activated, atol=1e-5, rtol=1e-5)
        states = NET.network.states(inputs, mask)
        torch.testing.assert_close(plain.states(inputs, mask), states, atol=1e-5, rtol=1e-5)
    assert states.shape == (2, SPACE.sizes.lengths[-1], arch["embed"])
    assert_plain(plain, training)


def test_position_norm_is_of_the_full_weight_and_groups_stay() -> None:
    elastic = ElasticPositionConv(32, 8, 4)
    randomise(elastic)
    full = nn.utils.parametrizations.weight_norm(nn.Conv1d(32, 32, 8, groups=4), dim=2)
    full.parametrizations.weight.original0.data.copy_(elastic.gain)
    full.parametrizations.weight.original1.data.copy_(elastic.weight)
    torch.testing.assert_close(elastic.active_state()["weight"], full.weight)
    elastic.activate(16)
    x = torch.randn(2, 16, 20)
    # 4 groups of 4 channels: the second group's filters were the first group's at full width
    expected = F.conv1d(x, full.weight[:16, :4], elastic.bias[:16], padding=4, groups=4)
    torch.testing.assert_close(elastic(x), expected)
    alone = elastic.weight[:16, :4]
    alone = elastic.gain * alone / alone.norm(dim=(0, 1), keepdim=True)
    assert (elastic.active_state()["weight"] - alone).abs().max() > 0.01
    with pytest.raises(ValueError, match="divide"):
        elastic.activate(18)


def test_hidden_units_start_each_row_of_the_largest_width() -> None:
    before, after = ElasticHidden(8, 32, before=True), ElasticHidden(8, 32, before=False)
    before.activate(4, 14)
    after.activate(14, 4)
    units = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25]
    torch.testing.assert_close(before.active_state()["weight"], before.weight[units, :4])
    torch.testing.assert_close(before.active_state()["bias"], before.bias[units])
    torch.testing.assert_close(after.active_state()["weight"], after.weight[:4, units])


def test_a_network_of_ten_layers_leaves_out_the_eighth_and_the_last() -> None:
    space = search_spaces.get("lighthubert", "small")
    for depth, left_out in ((10, {7, 11}), (11, {11}), (12, set())):
        arch = {**space.largest(), "depth": depth}
        for i in left_out:
            del arch[f"layers.{i}.heads"], arch[f"layers.{i}.ffn"]
        space.choices.encode(arch)
        assert space.slices(arch)["layers"] == tuple(i for i in range(12) if i not in left_out)
        names = {block.name for block, _ in space.workload(arch)}
        assert not names & {f"layers.{i}" for i in left_out}


# --- counts -------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_workload_counts_the_parameters_of_the_network(seed: int) -> None:
    arch = sample(SPACE, seed)
    counted = sum(op.params for _, op in SPACE.workload(arch))
    assert counted == sum(p.numel() for p in SPACE.build(arch).parameters())


def test_workload_counts_the_macs_that_torch_counts() -> None:
    arch = SPACE.largest()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        SPACE.build(arch)(torch.zeros(2, *SPACE.input_shape))
    assert sum(op.op.macs for _, op in SPACE.workload(arch, batch=2)) * 2 == (
        counter.get_total_flops()
    )


@pytest.mark.parametrize(
    ("preset", "subnets", "least", "most"),
    [("base", 6_530_347_008, 41, 94), ("small", 951_892_141_473, 11, 44)],
)
def test_published_spaces_have_the_published_counts(
    preset: str, subnets: int, least: int, most: int
) -> None:
    space = search_spaces.get("lighthubert", preset)
    assert space.choices.cardinality() == subnets
    for arch, millions in ((space.smallest(), least), (space.largest(), most)):
        with torch.device("meta"):
            network = space.build(arch)
        total = sum(p.numel() for p in network.parameters())
        assert total == sum(op.params for _, op in space.workload(arch))
        deployed = total - sum(p.numel() for p in network.get_submodule("head").parameters())
        assert round(deployed / 1e6) == millions


def test_vowels_reaches_from_thousands_to_tens_of_thousands() -> None:
    def total(arch: Architecture) -> int:
        return sum(op.params for _, op in SPACE.workload(arch))

    assert SPACE.choices.cardinality() == 4 * (12 + 12**2 + 12**3 + 12**4)
    assert 1_000 < total(SPACE.smallest()) < 7_000
    assert 30_000 < total(SPACE.largest()) < 100_000


def test_vowels_is_the_default_and_trained_by_the_sandwich_the_others_as_published() -> None:
    assert search_spaces.get("lighthubert").preset == "vowels"
    for preset in PRESETS:
        space = search_spaces.get("lighthubert", preset)
        assert (space.default_data, space.default_recipe) == (
            ("vowels", "sandwich:epochs=8,random_subnets=6")
            if preset == "vowels"
            else ("", "two-stage-distillation")
        )


@pytest.mark.parametrize("preset", list(PRESETS))
def test_describe_is_short_and_tells_architectures_apart(preset: str) -> None:
    space = search_spaces.get("lighthubert", preset)
    genomes = np.unique(space.choices.sample(300, np.random.default_rng(0)), axis=0)
    texts = [space.describe(space.choices.decode(g)) for g in genomes]
    assert len(set(texts)) == len(texts)
    assert max(map(len, texts)) < 60


# --- references ---------------------------------------------------------------------------------


def hubert_config(sizes: type(TINY)) -> object:  # type: ignore[valid-type]
    from transformers import HubertConfig

    channels, kernels, strides = zip(*sizes.convs, strict=True)
    return HubertConfig(
        hidden_size=max(sizes.embed), num_hidden_layers=max(sizes.depth),
        num_attention_heads=max(sizes.heads), intermediate_size=4 * max(sizes.embed),
        conv_dim=channels, conv_kernel=kernels, conv_stride=strides, conv_bias=False,
        feat_extract_norm="layer", do_stable_layer_norm=False,
        num_conv_pos_embeddings=sizes.position[0], num_conv_pos_embedding_groups=sizes.position[1],
        layerdrop=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("older", [False, True])
def test_largest_equals_transformers(older: bool) -> None:
    from transformers import HubertModel

    reference = HubertModel(hubert_config(TINY)).eval()
    randomise(reference)
    space = LightHubertSpace("tiny", TINY)
    state = reference.state_dict()
    if older:  # names as torch had them before parametrizations, and a task's prefix
        names = {"parametrizations.weight.original0": "weight_g"}
        names["parametrizations.weight.original1"] = "weight_v"
        for new, old in names.items():
            state = {f"{k.replace(new, old)}": v for k, v in state.items()}
        state = {f"hubert.{k}": v for k, v in state.items()}
    mapped = space.from_reference("hf", state)
    net, plain = space.supernet().eval(), space.build(space.largest()).eval()
    for network in (net.network, plain):
        loaded = network.load_state_dict(mapped, strict=False)
        assert loaded.missing_keys == ["head.weight", "head.bias"]
        assert loaded.unexpected_keys in ([], ["features.position.gain"])
    inputs, mask = waveforms(3, TINY.samples), torch.rand(3, TINY.lengths[-1]) < 0.5
    with torch.no_grad():
        expected = reference(inputs).last_hidden_state
        masked = reference(inputs, mask_time_indices=mask).last_hidden_state
        for network in (net.network, plain):
            torch.testing.assert_close(network.states(inputs), expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(network.states(inputs, mask), masked, atol=1e-5, rtol=1e-5)
    assert (masked - expected).abs().max() > 0.1


def test_base_takes_every_weight_of_a_transformers_base() -> None:
    from transformers import HubertModel

    space = search_spaces.get("lighthubert", "base")
    with torch.device("meta"):
        state = HubertModel(hubert_config(PRESETS["base"])).state_dict()
        ours = space.supernet().network.state_dict()
    mapped = space.from_reference("hf", state)
    shapes = {name: value.shape for name, value in ours.items() if not name.startswith("head.")}
    assert {name: value.shape for name, value in mapped.items()} == shapes


# Names and shapes of lighthubert_base.pt and lighthubert_small.pt alike: both are 768 wide.
GOLDEN = {
    "mask_emb": (768,),
    "feature_extractor.conv_layers.0.0.weight": (512, 1, 10),
    **{f"feature_extractor.conv_layers.{i}.0.weight": (512, 512, 3) for i in range(1, 5)},
    **{f"feature_extractor.conv_layers.{i}.0.weight": (512, 512, 2) for i in range(5, 7)},
    **{
        f"feature_extractor.conv_layers.{i}.2.1.{part}": (512,)
        for i in range(7)
        for part in ("weight", "bias")
    },
    "layer_norm.weight": (512,),
    "layer_norm.bias": (512,),
    "post_extract_proj.weight": (768, 512),
    "post_extract_proj.bias": (768,),
    "encoder.pos_conv.0.bias": (768,),
    "encoder.pos_conv.0.weight_g": (1, 1, 128),
    "encoder.pos_conv.0.weight_v": (768, 48, 128),
    "encoder.layer_norm.weight": (768,),
    "encoder.layer_norm.bias": (768,),
    **{
        f"encoder.layers.{i}.{name}.{part}": shape if part == "weight" else shape[:1]
        for i in range(12)
        for name, shape in {
            "self_attn.k_proj": (768, 768),
            "self_attn.v_proj": (768, 768),
            "self_attn.q_proj": (768, 768),
            "self_attn.out_proj": (768, 768),
            "self_attn_layer_norm": (768,),
            "fc1": (3072, 768),
            "fc2": (768, 3072),
            "final_layer_norm": (768,),
        }.items()
        for part in ("weight", "bias")
    },
    "layer_pred_heads.11.weight": (768, 768),
    "label_embs_concat": (504, 256),
    "final_proj.weight": (256, 768),
    "final_proj.bias": (256,),
}


@pytest.mark.parametrize("preset", ["base", "small"])
def test_published_supernets_fill_ours(preset: str) -> None:
    space = search_spaces.get("lighthubert", preset)
    with torch.device("meta"):
        ours = space.supernet().network.state_dict()
    # one element stands for all: a published file's size would be 380 MB
    state = {k: torch.ones(1, dtype=torch.float16).expand(s) for k, s in GOLDEN.items()}
    if preset == "base":
        state = {name: value.to("meta") for name, value in state.items()}
        mapped = space.from_reference("lighthubert", state)
    else:
        mapped = space.from_reference("lighthubert", state)
        assert all(value.isfinite().all() for value in mapped.values())
    assert {k: v.shape for k, v in mapped.items()} == {
        k: v.shape for k, v in ours.items() if not k.startswith("head.")
    }
    assert {value.dtype for value in mapped.values()} == {torch.float32}


def published(network: nn.Module, depth: int) -> dict[str, Tensor]:
    """A supernet's weights under the published names."""
    own = network.state_dict()
    state = {
        "mask_emb": own["features.masked.weight"][0],
        "encoder.pos_conv.0.weight_g": own["features.position.gain"],
        "encoder.pos_conv.0.weight_v": own["features.position.weight"],
        "encoder.pos_conv.0.bias": own["features.position.bias"],
    }
    pairs = {
        "layer_norm": "features.norm",
        "post_extract_proj": "features.projection",
        "encoder.layer_norm": "features.position_norm",
    }
    for i in range(len(TINY.convs)):
        new, old = f"feature_extractor.conv_layers.{i}", f"features.convs.{i}"
        state[f"{new}.0.weight"] = own[f"{old}.conv.weight"]
        pairs[f"{new}.2.1"] = f"{old}.norm"
    for i in range(depth):
        new, old = f"encoder.layers.{i}", f"layers.{i}"
        pairs[f"{new}.self_attn.out_proj"] = f"{old}.attention.proj"
        pairs[f"{new}.self_attn_layer_norm"] = f"{old}.attention_norm"
        pairs |= {f"{new}.{k}": f"{old}.{k}" for k in ("fc1", "fc2")}
        pairs[f"{new}.final_layer_norm"] = f"{old}.norm"
        for part in ("weight", "bias"):
            thirds = own[f"{old}.attention.qkv.{part}"].chunk(3)
            for name, third in zip("qkv", thirds, strict=True):
                state[f"{new}.self_attn.{name}_proj.{part}"] = third
    for new, old in pairs.items():
        state |= {f"{new}.{part}": own[f"{old}.{part}"] for part in ("weight", "bias")}
    return state


def test_a_published_supernet_is_cut_to_what_ours_needs() -> None:
    wide = LightHubertSpace("tiny", TINY)
    narrow = LightHubertSpace("tiny", replace(TINY, embed=(16, 32), heads=(1, 2)))
    held, ours = random_supernet(wide).eval(), narrow.supernet().eval()
    mapped = narrow.from_reference("lighthubert", published(held.network, 3))
    loaded = ours.network.load_state_dict(mapped, strict=False)
    assert loaded.missing_keys == ["head.weight", "head.bias"]
    assert not loaded.unexpected_keys
    inputs = waveforms(2, TINY.samples)
    for seed in range(5):
        arch = sample(narrow, seed)
        with torch.no_grad():
            expected = held.activate(arch).network.states(inputs)
            got = ours.activate(arch).network.states(inputs)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["lighthubert", "hf"])
def test_a_start_from_a_trained_supernet_keeps_its_order(kind: str, tmp_path: Path) -> None:
    """Every subnet is what it was; units of a plain network are sorted, and its output stays."""
    from transformers import HubertModel

    from nas.training.init import initial_weights

    space = LightHubertSpace("tiny", TINY)
    held = random_supernet(space).eval()
    state = published(held.network, 3)
    if kind == "hf":
        reference = HubertModel(hubert_config(TINY))
        randomise(reference)
        state = reference.state_dict()
        held.network.load_state_dict(space.from_reference("hf", state), strict=False)
    torch.save(state, tmp_path / "w.pt")
    initial = initial_weights(space, f"{kind}:{tmp_path / 'w.pt'}")
    assert bool(initial.sorted) == (kind == "hf")
    ours, inputs = space.supernet(3).eval(), waveforms(2, TINY.samples)
    ours.network.load_state_dict(initial.state)
    for arch in (space.largest(), space.smallest()):
        with torch.no_grad():
            expected = held.activate(arch).network.states(inputs)
            found = ours.activate(arch).network.states(inputs)
        stays = kind == "lighthubert" or arch == space.largest()
        assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5) == stays


def test_a_group_normed_extractor_gives_its_filters_only() -> None:
    space = LightHubertSpace("tiny", TINY)
    state = published(space.supernet().network, 3)
    for i in (1, 2):
        for part in ("weight", "bias"):
            del state[f"feature_extractor.conv_layers.{i}.2.1.{part}"]
    mapped = space.from_reference("lighthubert", state)
    found = {name for name in mapped if name.startswith("features.convs.")}
    assert found == {f"features.convs.{i}.conv.weight" for i in range(3)}


def test_other_weights_are_refused() -> None:
    space = LightHubertSpace("tiny", TINY)
    state = published(space.supernet().network, 3)
    with pytest.raises(UsageError, match=r"conv_layers|missing"):
        space.from_reference("hf", state)
    biased = {**state, "feature_extractor.conv_layers.0.0.bias": torch.zeros(16)}
    with pytest.raises(UsageError, match="pre-norm"):
        space.from_reference("lighthubert", biased)
    del state["encoder.layers.1.fc1.weight"]
    with pytest.raises(UsageError, match=r"layers\.1\.fc1\.weight"):
        space.from_reference("lighthubert", state)
    with pytest.raises(UsageError, match="timm"):
        space.from_reference("timm", {})
    with pytest.raises(UsageError, match="one channel"):
        search_spaces.get("lighthubert", "vowels", in_channels=2)


# --- sorting ------------------------------------------------------------------------------------


def test_sorting_goes_where_the_weights_are() -> None:
    with torch.device("meta"):  # refuses an index on the CPU, as a GPU does
        network = Hubert(PRESETS["vowels"], SPACE.largest(), elastic=True)
    assert SPACE.sort(network)


@pytest.mark.parametrize("elastic", [False, True])
def test_sorting_keeps_the_output_and_puts_the_heaviest_first(elastic: bool) -> None:
    arch = SPACE.largest()
    network = Hubert(PRESETS["vowels"], arch, elastic=elastic).eval()
    randomise(network)
    inputs = waveforms(2)
    with torch.no_grad():
        before = network(inputs)
        done = SPACE.sort(network)
        torch.testing.assert_close(network(inputs), before, atol=1e-5, rtol=1e-5)
    assert done == tuple(f"layers.{i}.{what}" for i in range(4) for what in ("heads", "ffn"))
    layer = network.get_submodule("layers.2")
    heads = (4, PRESETS["vowels"].head_width)
    weight = layer.attention.qkv.weight.abs().unflatten(0, (3, *heads)).sum((0, 2, 3))
    weight += layer.attention.qkv.bias.abs().view(3, *heads).sum((0, 2))
    weight += layer.attention.proj.weight.abs().unflatten(1, heads).sum((0, 2))
    assert weight.diff().max() < 0
    units = layer.fc1.weight.abs().sum(1) + layer.fc1.bias.abs() + layer.fc2.weight.abs().sum(0)
    least = int(min(PRESETS["vowels"].ratios) * min(PRESETS["vowels"].embed))
    # the units that every subnet has are the heaviest
    assert units[:least].min() > units[least:].max()
