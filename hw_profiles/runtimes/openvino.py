"""OpenVINO on this CPU, in float32: an ONNX model and its inputs as a call that can be timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hw_profiles.errors import MeasureError
from hw_profiles.op import Op
from hw_profiles.runtimes import FLOAT_MIX
from hw_profiles.runtimes.op_graphs import TOKENS, idle_graph, op_graph
from hw_profiles.runtimes.stopwatch import Call


def compiled(model: str | bytes, threads: int) -> Any:
    """A compiled model.

    Float32 stays float32: on CPUs that have bfloat16 the default would be that.

    Raises:
        MeasureError: if OpenVINO refuses the model.
    """
    import openvino  # an extra: this module is also read where it is missing

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    try:
        return core.compile_model(core.read_model(model), "CPU", options)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        raise MeasureError(
            f"OpenVINO refuses the model ({lines[-1].strip()}).", "Take --runtime onnxruntime."
        ) from None


def _call(model: str | bytes, threads: int) -> Call:
    """Runs on one request whose inputs stand ready."""
    network = compiled(model, threads)
    request = network.create_infer_request()
    rng = np.random.default_rng(0)
    for i, port in enumerate(network.inputs):
        shape, kind = tuple(port.shape), port.element_type.to_dtype()
        integers = np.issubdtype(kind, np.integer)
        drawn = rng.integers(0, TOKENS, shape) if integers else rng.standard_normal(shape)
        request.get_input_tensor(i).data[...] = drawn.astype(kind)
    infer: Callable[[], object] = request.infer
    return infer


def model_call(path: str, threads: int = 1) -> Call:
    """One run of a model file on fixed random input."""
    return _call(path, threads)


def op_call(kind: str, shape: list[int], precision: str, copies: int = 1, threads: int = 1) -> Call:
    """One run of so many copies of an op.

    Raises:
        MeasureError: if the precision is not fp32, the only one that is run here.
    """
    if precision != "fp32":
        raise MeasureError(f"OpenVINO runs no {precision} here.", "It offers fp32.")
    graph = op_graph(Op(kind, tuple(shape), precision), copies=copies)
    return _call(graph.SerializeToString(), threads)


def mix_call(threads: int = 1) -> Call:
    """One run of a fixed mix of small ops."""
    return _call(op_graph(*FLOAT_MIX, copies=2).SerializeToString(), threads)


def idle_call(threads: int = 1) -> Call:
    """A run that computes nothing."""
    return _call(idle_graph().SerializeToString(), threads)
