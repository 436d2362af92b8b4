"""The matlm space: slices equal masks equal extracted equal transformers' Llama; tied weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from agreement import assert_plain
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, load_file, save
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

import search_spaces
from hw_profiles.errors import UsageError
from search_spaces.choices import Value
from search_spaces.elastic import Supernet
from search_spaces.matlm import GRANULARITY, PRESETS, MatlmSpace, Mlp, Sizes, Stretch

SPACE = MatlmSpace("pydoc", PRESETS["pydoc"])
# Two keys for four heads, a head of its own, frequencies that are slow, fast and in between.
OTHER = MatlmSpace(
    "other",
    Sizes(50, 24, 2, 4, 2, 12, 40, 16, False, 100.0, Stretch(8.0, 1.0, 4.0, 64), 1e-6),
)
SPACES = {"pydoc": SPACE, "other": OTHER}


def randomised(network: nn.Module) -> nn.Module:
    """The network with all parameters random, so that no slice looks like another."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


def random_supernet(space: MatlmSpace) -> Supernet:
    net = space.supernet(0)
    randomised(net)
    return net


NET = random_supernet(SPACE)


def text(space: MatlmSpace = SPACE, batch: int = 2, length: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (batch, length or space.sizes.length)
    return torch.randint(0, space.n_classes, shape, generator=generator)


def uniform(space: MatlmSpace, granularity: str) -> dict[str, Value]:
    return {choice.name: granularity for choice in space.choices.choices}


@st.composite
def architectures(draw: st.DrawFn) -> dict[str, Value]:
    seed = draw(st.integers(0, 2**32 - 1))
    return SPACE.choices.decode(SPACE.choices.sample(1, np.random.default_rng(seed))[0])


# --- one set of weights -------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(arch=architectures(), training=st.booleans())
def test_activated_extracted_and_copied_networks_agree(
    arch: dict[str, Value], training: bool
) -> None:
    tokens = text(length=24)
    NET.train(training)
    plain = NET.extract(arch)
    copied = SPACE.build(arch).train(training)
    copied.load_state_dict(plain.state_dict())
    with torch.no_grad():
        activated = NET.activate(arch)(tokens)
        torch.testing.assert_close(plain(tokens), activated, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(copied(tokens), activated, atol=1e-5, rtol=1e-5)
    assert_plain(plain, training)


@settings(max_examples=25, deadline=None)
@given(arch=architectures(), before=st.booleans())
def test_masked_hidden_units_equal_sliced_ones(arch: dict[str, Value], before: bool) -> None:
    """Zeros before the activation, as MatViT trains, or after the gate: silu(0) is 0."""
    largest = NET.extract(SPACE.largest())
    for i, choice in enumerate(SPACE.choices.choices):
        mask = torch.zeros(SPACE.sizes.hidden)
        mask[: SPACE.sizes.hidden // GRANULARITY[str(arch[choice.name])]] = 1
        mlp = largest.get_submodule(f"layers.{i}.mlp")
        if before:
            gate = mlp.get_submodule("gate")
            gate.register_forward_hook(lambda _, __, out, mask=mask: out * mask)
        else:
            down = mlp.get_submodule("down")
            down.register_forward_pre_hook(lambda _, inputs, mask=mask: (inputs[0] * mask,))
    tokens = text(length=24)
    with torch.no_grad():
        sliced = NET.activate(arch)(tokens)
        torch.testing.assert_close(largest(tokens), sliced, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("granularity", "share"), [("S", 8), ("M", 4), ("L", 2), ("XL", 1)])
def test_granularities_are_prefixes_of_gate_and_up_rows_and_down_columns(
    granularity: str, share: int
) -> None:
    state = NET.network.state_dict()
    plain = NET.extract(uniform(SPACE, granularity)).state_dict()
    units = 192 // share
    for i in range(6):
        for part in ("gate", "up"):
            name = f"layers.{i}.mlp.{part}.weight"
            torch.testing.assert_close(plain[name], state[name][:units], atol=0, rtol=0)
        name = f"layers.{i}.mlp.down.weight"
        torch.testing.assert_close(plain[name], state[name][:, :units], atol=0, rtol=0)
    shared = [name for name in state if ".mlp." not in name]
    assert all(torch.equal(plain[name], state[name]) for name in shared)
    assert plain.keys() == state.keys()


def test_the_seed_decides_the_initial_weights() -> None:
    first, again, other = (SPACE.supernet(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["network.embed.weight"], other["network.embed.weight"])


def test_no_position_sees_a_later_one() -> None:
    tokens = text(length=32)
    changed = tokens.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 256
    with torch.no_grad():
        before, after = NET(tokens), NET(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20], atol=1e-6, rtol=1e-6)
    assert (before[:, 20:] - after[:, 20:]).abs().amax(dim=(0, 2)).min() > 1e-3


def test_training_starts_near_the_loss_of_guessing() -> None:
    net = SPACE.supernet(3)
    for granularity in ("S", "XL"):
        logits = net.activate(uniform(SPACE, granularity))(text())
        loss = F.cross_entropy(logits.flatten(0, -2), text().roll(-1).flatten())
        assert abs(loss.item() - math.log(256)) < 1


# --- the reference ------------------------------------------------------------------------------


def llama(space: MatlmSpace, granularity: str) -> LlamaForCausalLM:
    s = space.sizes
    rope: dict[str, str | float] = {"rope_type": "default", "rope_theta": s.theta}
    if s.stretch is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": s.stretch.factor,
            "low_freq_factor": s.stretch.slow,
            "high_freq_factor": s.stretch.fast,
            "original_max_position_embeddings": s.stretch.original,
        }
    config = LlamaConfig(
        vocab_size=s.vocabulary, hidden_size=s.width, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, head_dim=s.head_width,
        intermediate_size=s.hidden // GRANULARITY[granularity], tie_word_embeddings=s.tied,
        max_position_embeddings=8 * s.length, rms_norm_eps=s.eps, rope_parameters=rope,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("granularity", ["S", "M", "L", "XL"])
@pytest.mark.parametrize("name", list(SPACES))
def test_uniform_subnets_equal_transformers(name: str, granularity: str) -> None:
    space = SPACES[name]
    full = randomised(llama(space, "XL")).state_dict()
    net = space.supernet(0).eval()
    net.network.load_state_dict(space.from_reference("hf", full))
    reference = llama(space, granularity)
    units = reference.config.intermediate_size
    for key in full:
        if "gate_proj" in key or "up_proj" in key:
            full[key] = full[key][:units]
        elif "down_proj" in key:
            full[key] = full[key][:, :units]
    reference.load_state_dict(full)
    plain = space.build(uniform(space, granularity)).eval()
    plain.load_state_dict(space.from_reference("hf", full))
    tokens = text(space)
    with torch.no_grad():
        expected = reference(tokens).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(plain(tokens), expected, atol=1e-5, rtol=1e-5)
        sliced = net.activate(uniform(space, granularity))(tokens)
        torch.testing.assert_close(sliced, expected, atol=1e-5, rtol=1e-5)


def test_saved_llamas_are_read_with_and_without_a_head(tmp_path: Path) -> None:
    reference = randomised(llama(SPACE, "XL"))
    reference.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in stored
    assert "lm_head.weight" in reference.state_dict()
    names = SPACE.build(SPACE.largest()).state_dict().keys()
    assert SPACE.from_reference("hf", stored).keys() == names
    assert SPACE.from_reference("hf", reference.state_dict()).keys() == names
    with_head = {**stored, "lm_head.weight": torch.zeros(256, 48)}
    assert SPACE.from_reference("hf", with_head).keys() == names | {"head.weight"}
    untied = MatlmSpace("untied", replace(SPACE.sizes, tied=False))
    mapped = untied.from_reference("hf", stored)
    assert torch.equal(mapped["head.weight"], stored["model.embed_tokens.weight"])
    assert untied.from_reference("hf", with_head)["head.weight"].abs().sum() == 0


def test_foreign_weights_that_would_compute_something_else_are_refused() -> None:
    state = dict(llama(OTHER, "XL").state_dict())
    old = {**state, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    assert OTHER.from_reference("hf", old).keys() == OTHER.from_reference("hf", state).keys()
    for name in ("model.layers.0.self_attn.q_proj.bias", "model.layers.1.self_attn.q_norm.weight"):
        with pytest.raises(UsageError, match=name):
            OTHER.from_reference("hf", {**state, name: torch.ones(1)})
    with pytest.raises(UsageError, match="embed_tokens"):
        OTHER.from_reference("hf", {"model.norm.weight": torch.ones(24)})
    with pytest.raises(UsageError, match="timm"):
        OTHER.from_reference("timm", state)


# --- sizes and counts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "layers", "width", "hidden"),
    [
        ("pydoc", 6, 48, 192),
        ("180m", 8, 512, 4096),
        ("460m", 8, 1024, 8192),
        ("1b", 16, 2048, 8192),
    ],
)
def test_presets_have_the_published_sizes(
    preset: str, layers: int, width: int, hidden: int
) -> None:
    space = search_spaces.get("matlm", preset)
    assert space.choices.cardinality() == 4**layers
    with torch.device("meta"):
        largest, smallest = (space.build(a) for a in (space.largest(), space.smallest()))
    assert largest.get_submodule("layers.0.mlp.gate").weight.shape == (hidden, width)
    assert smallest.get_submodule("layers.0.mlp.gate").weight.shape == (hidden // 8, width)
    for arch, network in ((space.largest(), largest), (space.smallest(), smallest)):
        counted = sum(op.params for _, op in space.workload(arch))
        assert counted == sum(p.numel() for p in network.parameters())


def test_1b_has_the_parameters_of_llama_3_2() -> None:
    space = search_spaces.get("matlm", "1b")
    assert sum(op.params for _, op in space.workload(space.largest())) == 1_235_814_400


def test_pydoc_ships_in_less_than_one_megabyte() -> None:
    assert len(save(NET.network.state_dict())) < 1_000_000
    assert search_spaces.get("matlm").preset == "pydoc"
    assert (SPACE.default_data, SPACE.default_recipe) == (
        "pydoc",
        "sandwich:epochs=3,random_subnets=6,apart=32",
    )
    assert search_spaces.get("matlm", "1b").default_data == ""


@pytest.mark.parametrize("layers", [1, 12, 24])
def test_cardinality_is_four_to_the_layers(layers: int) -> None:
    space = MatlmSpace("other", replace(OTHER.sizes, layers=layers))
    assert space.choices.cardinality() == 4**layers


@settings(max_examples=25, deadline=None)
@given(arch=architectures())
def test_workload_counts_the_parameters_of_the_network(arch: dict[str, Value]) -> None:
    counted = sum(op.params for _, op in SPACE.workload(arch))
    assert counted == sum(p.numel() for p in SPACE.build(arch).parameters())


@pytest.mark.parametrize("name", list(SPACES))
def test_workload_counts_the_macs_and_groups_of_the_network(name: str) -> None:
    space = SPACES[name]
    arch = space.largest()
    network = space.build(arch)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(space.example(arch, 2))
    counted = sum(op.op.macs for _, op in space.workload(arch, batch=2))
    assert 2 * counted == counter.get_total_flops()
    held: dict[str, int] = {}
    for block, op in space.workload(arch):
        if op.group:
            key = f"{block.name}.{op.group}"
            held[key] = held.get(key, 0) + op.params
    modules = space.group_modules()
    assert held == {
        key: sum(network.get_submodule(name).weight.numel() for name in names)
        for key, names in modules.items()
    }


@pytest.mark.parametrize(
    "change",
    [{"hidden": 2048 * 3.5}, {"hidden": 100}, {"width": 0}, {"kv_heads": 3}, {"head_width": 5}],
)
def test_sizes_that_are_no_whole_shares_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(change)).split("_")[-1]):
        replace(OTHER.sizes, **change)


def test_a_vocabulary_of_the_data_replaces_the_presets() -> None:
    space = search_spaces.get("matlm", "pydoc", n_classes=70, in_channels=3)
    assert (space.n_classes, space.input_shape, space.input_kind) == (70, (128,), "tokens")
    tokens = space.example(space.smallest(), 3)
    assert tokens.dtype == torch.int64
    assert space.build(space.smallest())(tokens).shape == (3, 128, 70)


def test_a_text_longer_than_the_context_is_refused() -> None:
    with pytest.raises(UsageError, match="129 tokens"):
        NET(torch.zeros(1, 129, dtype=torch.int64))


def test_describe_is_short_and_tells_architectures_apart() -> None:
    genomes = np.unique(SPACE.choices.sample(300, np.random.default_rng(0)), axis=0)
    assert len({SPACE.describe(SPACE.choices.decode(g)) for g in genomes}) == len(genomes)
    longest = search_spaces.get("matlm", "1b")
    assert len(longest.describe(longest.largest())) < 60


# --- sorting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SPACES))
def test_sorting_moves_whole_units_and_leaves_the_largest_s_output(name: str) -> None:
    space = SPACES[name]
    network, tokens = random_supernet(space).eval().network, text(space)
    layers = [m for m in network.modules() if isinstance(m, Mlp)]

    def units(layer: Mlp) -> Tensor:
        return torch.cat([layer.gate.weight, layer.up.weight, layer.down.weight.T], dim=1)

    with torch.no_grad():
        before, old = network(tokens), [units(layer) for layer in layers]
        assert len(space.sort(network)) == len(layers)
        torch.testing.assert_close(network(tokens), before, atol=1e-5, rtol=1e-5)
        for was, layer in zip(old, layers, strict=True):
            now = units(layer)
            assert now.abs().sum(1).diff().max() <= 1e-4  # sums in another order round otherwise
            assert now[now[:, 0].argsort()].equal(was[was[:, 0].argsort()])
            assert not now.equal(was)
    assert space.sort(network, trained=1) == ()


# --- tied weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SPACES))
def test_weights_are_stored_once_and_read_back(name: str) -> None:
    space = SPACES[name]
    net = random_supernet(space).eval()
    assert ("head.weight" in net.network.state_dict()) == (not space.sizes.tied)
    again = space.supernet(5).eval()
    again.load_state_dict(load(save(net.state_dict())))
    arch = uniform(space, "M")
    plain = net.extract(arch)
    copied = space.build(arch).eval()
    copied.load_state_dict(load(save(plain.state_dict())))
    tokens = text(space)
    with torch.no_grad():
        expected = net.activate(arch)(tokens)
        for network in (again.activate(arch), plain, copied):
            torch.testing.assert_close(network(tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(SPACES))
def test_onnx_names_every_linear_and_gives_the_same_logits(name: str) -> None:
    import onnxruntime as ort

    from nas.export.onnx import export_onnx

    sizes = replace(SPACES[name].sizes, layers=2)  # the exporter takes seconds a layer
    space = MatlmSpace(name, sizes)
    net = random_supernet(space).eval()
    plain = net.extract({"layers.0.ffn": "S", "layers.1.ffn": "L"})
    tokens = text(space)
    model = export_onnx(plain, tokens)
    products = {n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm")}
    linears = {n for n, m in plain.named_modules() if isinstance(m, nn.Linear)}
    assert ("head" in linears) == (not sizes.tied)
    assert linears <= products
    session = ort.InferenceSession(model.SerializeToString())
    logits = session.run(None, {session.get_inputs()[0].name: tokens.numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), plain(tokens), atol=1e-4, rtol=1e-4)
