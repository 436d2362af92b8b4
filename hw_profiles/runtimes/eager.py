"""PyTorch eager on this CPU, in float32."""

from __future__ import annotations

import torch

from hw_profiles.op import Op
from hw_profiles.runtimes import FLOAT_MIX
from hw_profiles.runtimes.stopwatch import Call
from hw_profiles.runtimes.torch_ops import Tensors, one_after_another, without_gradients


def prepared(call: Call, threads: int = 1) -> Call:
    """A call as it is timed: as inference runs it, on so many threads."""
    torch.set_num_threads(threads)
    return without_gradients(call)


def op_call(kind: str, shape: list[int], precision: str, copies: int = 1, threads: int = 1) -> Call:
    """So many calls of an op, one after another.

    Raises:
        MeasureError: if the precision is not fp32, the only one that is run on a CPU.
    """
    ops = [Op(kind, tuple(shape), precision)] * copies
    return prepared(one_after_another(ops, Tensors()), threads)


def mix_call(threads: int = 1) -> Call:
    """A fixed mix of small ops, one after another."""
    return prepared(one_after_another(list(FLOAT_MIX), Tensors()), threads)


def idle_call(threads: int = 1) -> Call:
    """A call that computes nothing."""
    return prepared(lambda: None, threads)
