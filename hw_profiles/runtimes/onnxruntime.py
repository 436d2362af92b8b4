"""ONNX Runtime on this CPU: a model and its inputs as a call that can be timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from hw_profiles.errors import MeasureError, first_line
from hw_profiles.op import Op
from hw_profiles.runtimes.op_graphs import TOKENS, idle_graph, op_graph
from hw_profiles.runtimes.stopwatch import Call

#: Ops of the fixed mix: about a small transformer layer, in each precision.
MIX = (
    Op("linear", (17, 48, 144)),
    Op("attention", (1, 3, 17, 17, 16)),
    Op("layer_norm", (17, 48)),
    Op("gelu", (17, 192)),
    Op("linear", (17, 192, 48), "int8"),
    Op("linear", (17, 48, 48), "int4_wo"),
    Op("add", (17, 48)),
)


def open_session(
    model: str | bytes, threads: int = 1, optimised_to: Path | None = None
) -> ort.InferenceSession:
    """A session on the CPU.

    Weights that a file dequantizes are multiplied by the inputs as they are: by default ONNX
    Runtime makes an operator of both that also rounds the inputs to 8 bits.

    Args:
        model: path of a file, or the serialised model.
        threads: that one call may use, 0 for a core each. They do not spin between calls: a
            spinning pool takes the cores of whatever else runs.
        optimised_to: file to write the graph to that it really runs.

    Raises:
        MeasureError: if the model cannot be run here.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if optimised_to is not None:
        options.optimized_model_filepath = str(optimised_to)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class of their own
        raise MeasureError(
            f"ONNX Runtime refuses the model ({first_line(error)}).",
            "Check the versions: `nas doctor`.",
        ) from error


def random_inputs(session: ort.InferenceSession) -> dict[str, np.ndarray]:
    """Fixed random inputs: normal numbers, or small integers, which any vocabulary has."""
    rng = np.random.default_rng(0)
    return {
        i.name: rng.integers(0, TOKENS, i.shape)
        if i.type == "tensor(int64)"
        else rng.standard_normal(i.shape, dtype=np.float32)
        for i in session.get_inputs()
    }


def model_call(path: str, threads: int = 1) -> Call:
    """One `session.run` of a model file on fixed random input: what a server sees."""
    session = open_session(path, threads)
    inputs = random_inputs(session)
    return lambda: session.run(None, inputs)


def _bound_call(model: bytes, threads: int) -> Call:
    """A run whose inputs and outputs stand ready, so that their handling costs little."""
    session = open_session(model, threads)
    binding = session.io_binding()
    for name, array in random_inputs(session).items():
        binding.bind_cpu_input(name, array)
    for output in session.get_outputs():
        array = np.empty(output.shape, np.float32)
        value = ort.OrtValue.ortvalue_from_numpy(array)
        binding.bind_ortvalue_output(output.name, value)
    return lambda: session.run_with_iobinding(binding)


def op_call(kind: str, shape: list[int], precision: str, copies: int = 1, threads: int = 1) -> Call:
    """One run of so many copies of an op."""
    op = Op(kind, tuple(shape), precision)
    return _bound_call(op_graph(op, copies=copies).SerializeToString(), threads)


def mix_call(threads: int = 1) -> Call:
    """One run of a fixed mix of small ops."""
    return _bound_call(op_graph(*MIX, copies=2).SerializeToString(), threads)


def idle_call(threads: int = 1) -> Call:
    """A run that computes nothing."""
    return _bound_call(idle_graph().SerializeToString(), threads)
