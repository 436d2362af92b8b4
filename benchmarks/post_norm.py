"""What it costs that ONNX Runtime makes one operator of a sum and the layer norm after it.

    python benchmarks/post_norm.py --widths 24,256,768

A post-norm transformer, such as HuBERT, norms every residual sum, and nothing else reads the sum.
Prints one JSON object: for each width the microseconds of a sum and norm as ONNX Runtime fuses
them, and as `nas.export.onnx` writes them so that it does not; medians of turns about.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from hw_profiles.runtimes.onnxruntime import open_session
from nas.export.onnx import export_onnx


class PostNorm(nn.Module):
    """So many times norm(x + y), each on what the one before gave."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for norm in self.norms:
            y = norm(y + x)
        return y


def as_add(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model as the exporter of PyTorch writes it."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for node in found.graph.node:
        if node.op_type == "Sum":
            node.op_type = "Add"
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", default="24,256,768")
    parser.add_argument("--rows", type=int, default=49)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--turns", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    for width in map(int, args.widths.split(",")):
        apart = export_onnx(PostNorm(width, args.layers), torch.zeros(1, args.rows, width))
        x = np.random.default_rng(0).standard_normal((1, args.rows, width), np.float32)
        sessions = {
            "fused": open_session(as_add(apart).SerializeToString()),
            "apart": open_session(apart.SerializeToString()),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sessions}
        for turn in range(args.turns + 5):  # the first ones warm up
            for name, session in sessions.items():
                began = time.perf_counter()
                for _ in range(20):
                    session.run(None, {"input": x})
                if turn >= 5:
                    seconds[name].append((time.perf_counter() - began) / 20 / args.layers)
        result[width] = {
            f"{n}_us": round(1e6 * statistics.median(s), 2) for n, s in seconds.items()
        }
    print(json.dumps({"rows": args.rows, "widths": result}))


if __name__ == "__main__":
    main()
