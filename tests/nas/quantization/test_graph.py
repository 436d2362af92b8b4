"""Quantized graphs: what they store is what is counted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_profiles.op import Op
from nas.quantization.graph import GraphLinear, quantized_nodes
from nas.quantization.schemes import get_scheme


@pytest.mark.parametrize("name", ["int8", "int4_wo"])
@settings(max_examples=30, deadline=None)
@given(k=st.integers(1, 100), n=st.integers(1, 40))
def test_stored_weights_take_the_bytes_that_are_counted(name: str, k: int, n: int) -> None:
    linear = GraphLinear("l", "x", "y", "", torch.randn(n, k), ())
    _, arrays = quantized_nodes(linear, get_scheme("onnxruntime", name))
    stored = sum(array.nbytes for key, array in arrays.items() if key.endswith((".q", ".scale")))
    assert Op("linear", (1, k, n), name).weight_bytes == stored
