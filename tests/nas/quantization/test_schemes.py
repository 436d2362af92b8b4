"""Schemes by runtime and name."""

from __future__ import annotations

import pytest

from hw_profiles.errors import NotFoundError
from hw_profiles.op import PRECISIONS
from nas.quantization.schemes import Scheme, register_scheme, runtimes, schemes_for, schemes_of


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


def test_schemes_keep_the_order_asked_for() -> None:
    names = ["int4_wo", "bf16", "int8"]
    assert [s.name for s in schemes_for("cudagraph", names)] == names


@pytest.mark.parametrize(
    ("runtime", "name", "near"),
    [("onnxruntime", "bf16", "Known: fp32"), ("onnxruntime", "int4", "int4_wo"), ("onnx", "x", "")],
)
def test_what_a_runtime_does_not_run_is_named(runtime: str, name: str, near: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        schemes_for(runtime, [name])
    assert near in str(caught.value)


def test_a_scheme_must_be_a_known_precision() -> None:
    with pytest.raises(NotFoundError, match="precision"):
        register_scheme(Scheme("int3", "onnxruntime"))
