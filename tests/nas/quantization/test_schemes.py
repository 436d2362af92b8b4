"""Schemes by runtime and name."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from onnx import helper

from hw_profiles.errors import NotFoundError
from hw_profiles.harness import QUANTIZED
from hw_profiles.op import PRECISIONS
from nas.quantization import arithmetic, graph, schemes
from nas.quantization.schemes import Scheme, get_scheme, register_scheme, runtimes, schemes_of


def test_each_runtime_lists_its_native_schemes_first() -> None:
    assert set(runtimes()) >= {
        "cmsis-nn",
        "compile",
        "cudagraph",
        "eager",
        "onnxruntime",
        "openvino",
    }
    for runtime in runtimes():
        schemes = schemes_of(runtime)
        assert schemes[0].is_native
        native = [s.is_native for s in schemes]
        assert native == sorted(native, reverse=True)
        for scheme in schemes:
            assert scheme.weight_bits == PRECISIONS[scheme.name].weight_bits
            assert scheme.group_size == PRECISIONS[scheme.name].weight_group


@pytest.mark.parametrize(
    ("runtime", "name", "near"),
    [("onnxruntime", "bf16", "Known: fp32"), ("onnxruntime", "int4", "int4_wo"), ("onnx", "x", "")],
)
def test_what_a_runtime_does_not_run_is_named(runtime: str, name: str, near: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        get_scheme(runtime, name)
    assert near in str(caught.value)


def test_a_scheme_must_be_a_known_precision() -> None:
    with pytest.raises(NotFoundError, match="precision"):
        register_scheme(Scheme("int3", "onnxruntime"))


def test_a_scheme_is_offered_once_it_has_all_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, parts in ((schemes, "_SCHEMES"), (arithmetic, "ARITHMETIC"), (graph, "NODES")):
        monkeypatch.setattr(module, parts, dict(getattr(module, parts)))
    offered = schemes_of("onnxruntime")

    def refused() -> bool:
        with pytest.raises(NotFoundError, match="no scheme of onnxruntime 'fp8'"):
            arithmetic.arithmetic("onnxruntime", "fp8")
        return schemes_of("onnxruntime") == offered

    scheme = register_scheme(Scheme("fp8", "onnxruntime", "tensor", (-448, 448)))
    assert refused()
    arithmetic.register_arithmetic(scheme)(lambda batch_size: F.linear)
    assert refused()

    @graph.register_nodes(scheme, lambda found: found["Gemm"])
    def nodes(linear: graph.GraphLinear) -> graph.Parts:
        gemm = helper.make_node("Gemm", [linear.x, "w"], [linear.output], linear.name)
        return [gemm], {"w": linear.weight.T.numpy()}

    assert schemes_of("onnxruntime") == (*offered, scheme)
    weight = torch.randn(3, 2)
    x = torch.randn(1, 2)
    y = arithmetic.arithmetic("onnxruntime", "fp8")(x, weight, None)
    assert torch.equal(y, F.linear(x, weight))
    made, held = graph.quantized_nodes(graph.GraphLinear("l", "x", "y", "", weight, ()), scheme)
    assert held["w"].shape == (2, 3)
    network = helper.make_model(helper.make_graph(made, "g", [], []))
    assert graph.count_quantized(network) == {"fp8": 1}


def test_a_native_scheme_needs_no_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemes, "_SCHEMES", dict(schemes._SCHEMES))
    monkeypatch.setattr(arithmetic, "ARITHMETIC", dict(arithmetic.ARITHMETIC))
    scheme = register_scheme(Scheme("fp16", "onnxruntime"))
    assert scheme not in schemes_of("onnxruntime")
    arithmetic.register_arithmetic(scheme)(lambda batch_size: F.linear)
    assert scheme in schemes_of("onnxruntime")


def test_what_is_timed_is_offered() -> None:
    for runtime, timed in QUANTIZED.items():
        assert set(timed) <= {s.name for s in schemes_of(runtime)}
