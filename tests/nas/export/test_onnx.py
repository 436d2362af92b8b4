"""ONNX models: equal to the network, quantized for real, equal to the simulated arithmetic."""

from __future__ import annotations

import copy
import gc
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import search_spaces
from hw_profiles.errors import MeasureError, NotFoundError
from hw_profiles.runtimes.onnxruntime import open_session
from nas.errors import ExportError
from nas.export.front import _alike
from nas.export.onnx import (
    check_quantized,
    export_many,
    export_onnx,
    optimised,
    quantize_onnx,
)
from nas.quantization.arithmetic import simulate
from nas.quantization.graph import count_quantized
from search_spaces.elastic import Supernet

SPACE = search_spaces.get("vit", "digits")
GROUPS = SPACE.group_modules()
# Drawn once; feed-forward widths down to 4 (less than one block of int4) and odd depths.
ARCHES = [
    {"embed": 8, "depth": 1, "layers.0.heads": 2, "layers.0.ffn": "S"},
    {
        "embed": 32, "depth": 2, "layers.0.heads": 3, "layers.0.ffn": "M",
        "layers.1.heads": 2, "layers.1.ffn": "XL",
    },
]  # fmt: skip
BATCH = {0: 1, 1: 3}


@cache
def supernet() -> Supernet:
    net = SPACE.supernet(0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return net


@cache
def exported(i: int) -> onnx.ModelProto:
    return export_onnx(supernet().extract(ARCHES[i]), SPACE.example(ARCHES[i], BATCH[i]))


def images(n: int) -> torch.Tensor:
    return torch.randn(n, *SPACE.input_shape, generator=torch.Generator().manual_seed(2))


def logits(model: onnx.ModelProto, x: torch.Tensor, batch: int) -> np.ndarray:
    session = open_session(model.SerializeToString())
    return np.concatenate([session.run(None, {"input": p.numpy()})[0] for p in x.split(batch)])


def groups_of(i: int) -> list[str]:
    return [g for g in GROUPS if int(g.split(".")[1]) < int(ARCHES[i]["depth"])]


@pytest.mark.parametrize("i", [0, 1])
def test_float_model_equals_the_activated_subnet(i: int) -> None:
    x = images(12)
    with torch.no_grad():
        expected = supernet().activate(ARCHES[i])(x).numpy()
    np.testing.assert_allclose(logits(exported(i), x, BATCH[i]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("i", [0, 1])
@pytest.mark.parametrize("seed", range(5))
def test_quantized_model_equals_the_simulated_arithmetic(i: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    schemes = ["int8"] if seed == 0 else ["int4_wo"] if seed == 1 else ["fp32", "int8", "int4_wo"]
    policy = {g: str(rng.choice(schemes)) for g in groups_of(i)}
    model = quantize_onnx(exported(i), policy, GROUPS)
    counts = check_quantized(model, policy, GROUPS)
    assert sum(counts.values()) == sum(name != "fp32" for name in policy.values())
    x = images(60)
    with torch.no_grad(), simulate(supernet().activate(ARCHES[i]), policy, "onnxruntime", BATCH[i]):
        expected = supernet()(x).numpy()
    got = logits(model, x, BATCH[i])
    # A sum that differs in its last bit may round to the neighbouring activation level.
    error = np.abs(got - expected).max(axis=1)
    assert np.median(error) < 1e-5
    assert error.max() < 0.01 * np.abs(expected).max()
    top = np.sort(expected, axis=1)
    sure = top[:, -1] - top[:, -2] > 2 * error
    assert (got.argmax(1) == expected.argmax(1))[sure].all()
    assert sure.mean() > 0.9


@pytest.mark.parametrize("name", ["ofa", "vit-resnas", "lighthubert"])
def test_every_family_s_model_equals_its_subnet(name: str) -> None:
    """Of statistics of its own, where it needs them."""
    space = search_spaces.get(name)
    net, arch = space.supernet(0).eval(), space.smallest()
    x = torch.randn(8, *space.input_shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = net.activate(arch).calibrate([x])(x)
    plain = net.extract(arch)
    model = export_onnx(plain, space.fit_input(arch, x[:4]))
    found = logits(model, space.fit_input(arch, x), 4)
    assert expected.std(0).max() > 1e-4
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=1e-4)


def test_one_causal_mask_is_held_for_all_layers() -> None:
    space = search_spaces.get("matlm", "pydoc")
    net, arch = space.supernet(0).eval(), space.smallest()
    plain, tokens = net.activate(arch).extract(arch), space.example(arch, 2)
    model = export_onnx(plain, tokens)
    sizes = [list(table.dims) for table in model.graph.initializer]
    assert sizes.count([tokens.shape[1]] * 2) == 1
    with torch.inference_mode():
        expected = plain(tokens)
    session = open_session(model.SerializeToString())
    (found,) = session.run(None, {"input": tokens.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=1e-4)


def test_no_notes_of_the_exporter_stay() -> None:
    model = exported(0)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert b"site-packages" not in model.SerializeToString()


def test_the_float_model_is_left_alone() -> None:
    before = exported(0).SerializeToString()
    quantize_onnx(exported(0), dict.fromkeys(groups_of(0), "int8"), GROUPS)
    assert exported(0).SerializeToString() == before


def test_quantized_weights_are_stored_small() -> None:
    model = exported(1)
    small = quantize_onnx(model, dict.fromkeys(groups_of(1), "int4_wo"), GROUPS)
    assert small.ByteSize() < 0.5 * model.ByteSize()
    assert count_quantized(optimised(small)) == {"int4_wo": 8}


def test_a_silent_omission_is_found() -> None:
    policy = dict.fromkeys(groups_of(0), "int8")
    with pytest.raises(ExportError, match="quantized layers"):
        check_quantized(exported(0), policy, GROUPS)


def test_unknown_groups_layers_and_models_are_refused() -> None:
    with pytest.raises(NotFoundError, match="layer group"):
        quantize_onnx(exported(0), {"layers.0.kqv": "int8"}, GROUPS)
    with pytest.raises(ExportError, match=r"layers\.1\.attention\.qkv"):
        quantize_onnx(exported(0), {"layers.1.qkv": "int8"}, GROUPS)
    broken = onnx.ModelProto()
    broken.CopyFrom(exported(0))
    del broken.graph.initializer[:]
    with pytest.raises(MeasureError, match="refuses"):
        optimised(broken)


def test_a_sum_before_a_norm_is_not_fused_into_the_slow_operator() -> None:
    space = search_spaces.get("lighthubert", "vowels")  # post-norm: nothing else reads the sums
    arch = space.largest()
    network = space.build(arch).eval()
    model = export_onnx(network, space.example(arch, 2))
    found = [node.op_type for node in optimised(model).graph.node]
    assert "SkipLayerNormalization" not in found
    assert found.count("Sum") == 1 + 2 * int(arch["depth"])  # positions, and two sums a layer
    x = torch.randn(2, *space.input_shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = network(x).numpy()
    np.testing.assert_allclose(logits(model, x, 2), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["int8", "int8_wo", "int4_wo", "fp8", "mixed"])
def test_policies_of_cuda_graphs_are_in_the_graph_too(scheme: str) -> None:
    names = ["bf16", "int8", "fp8", "int8_wo", "int4_wo"] if scheme == "mixed" else [scheme]
    policy = {g: names[i % len(names)] for i, g in enumerate(groups_of(1))}
    model = quantize_onnx(exported(1), policy, GROUPS, "cudagraph")
    check_quantized(model, policy, GROUPS, "cudagraph")
    with pytest.raises(ExportError):
        check_quantized(exported(1), policy, GROUPS, "cudagraph")
    x = images(60)
    net = copy.deepcopy(supernet()).bfloat16().activate(ARCHES[1])
    with torch.no_grad(), simulate(net, policy, "cudagraph", BATCH[1]):
        expected = net(x.bfloat16()).float().numpy()
    got = logits(model, x, BATCH[1])
    np.testing.assert_allclose(got, expected, atol=0.025 * np.abs(expected).max())


@pytest.mark.parametrize("names", [["int8"], ["fp32", "int8"]])
def test_policies_of_microcontrollers_are_in_the_graph_too(names: list[str]) -> None:
    policy = {g: names[i % len(names)] for i, g in enumerate(groups_of(1))}
    model = quantize_onnx(exported(1), policy, GROUPS, "cmsis-nn")
    assert check_quantized(model, policy, GROUPS, "cmsis-nn")["int8"] > 0
    assert all(not node.domain for node in model.graph.node)  # no operator of one runtime alone
    x = images(60)
    net = copy.deepcopy(supernet()).activate(ARCHES[1])
    with torch.no_grad(), simulate(net, policy, "cmsis-nn", BATCH[1]):
        expected = net(x).numpy()
    got = logits(model, x, BATCH[1])
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.filterwarnings("error")
def test_exports_that_nobody_takes_are_dropped_without_a_word() -> None:
    networks = [supernet().extract(ARCHES[0]) for _ in range(8)]
    graphs = export_many(networks, [SPACE.example(ARCHES[0])] * 8)
    assert optimised(next(graphs)).graph.node
    del graphs
    gc.collect()


@given(
    arrays(np.float32, (7, 4), elements=st.floats(-50, 50, width=32)),
    st.floats(-0.02, 0.02), st.integers(0, 2**31),
)  # fmt: skip
def test_decisions_between_classes_that_are_as_good_are_alike(
    logits: np.ndarray, moved: float, seed: int
) -> None:
    simulated = torch.from_numpy(logits)
    assert _alike(simulated, simulated.argmax(-1)) == 1
    spread = simulated.amax(-1, keepdim=True) - simulated.amin(-1, keepdim=True)
    signs = torch.from_numpy(np.random.default_rng(seed).choice([-0.5, 0.5], (7, 4)))
    assert _alike(simulated, (simulated + moved * spread * signs).argmax(-1)) == 1
    wrong = simulated.argmin(-1)
    assert _alike(simulated, wrong) == pytest.approx(float((spread == 0).double().mean()))
