"""fp32 latency of whole transformers on GPUs, from op times measured on other models and GPUs.

    python benchmarks/gpu_models_fp32.py --train op_train_bmm.csv.gz op_train_linear.csv.gz \\
        op_train_elem_ln_softmax.csv.gz --test models.csv --configs model_configs.json

`--spec` is the JSON file of device sheets; by default `device_configs.json` beside the first table.
No measurement of a whole model takes part. Prints one JSON object: device -> figures.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import hf_graph
import judging
import numpy as np
from hf_graph import Kernel, Sizes
from models.eager_queue import queued_ms
from models.fp32_op_time import Fp32OpTimes
from models.fp32_tables import (
    GpuSheet,
    device_slug,
    find_sheet,
    read_gpu_sheets,
    read_json_object,
    read_op_rows,
)

from hw_profiles.errors import ProfileError
from hw_profiles.tables import read_text

COLUMNS = ("device", "model", "mode", "seq", "batch", "variant", "meas_e2e_latency")
GRAPH_SPREAD = 0.06  # of the kernels that a graph leaves out or counts twice (log)
NORMAL_QUANTILE = 1.2816  # one-sided 90 %
# One direction of the links between GPUs, bytes per second, times what collectives reach.
LINKS = {"h100": 0.72 * 450e9, "a100": 0.72 * 300e9}
PCIE = 0.72 * 16e9


@dataclass(frozen=True)
class Row:
    """One measured model."""

    device: str
    model: str
    train: bool
    tokens: int
    batch: int
    variant: str
    measured_ms: float


@dataclass(frozen=True)
class Variant:
    """How a model is run: merged element-wise ops, or divided among devices."""

    fused: bool = False
    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    microbatches: int = 1


def read_models(path: Path) -> list[Row]:
    """Read the measured models.

    Raises:
        ProfileError: if the file lacks a column or has a malformed row.
    """
    reader = csv.DictReader(io.StringIO(read_text(path)))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing and missing != ["variant"]:
        raise ProfileError(
            f"{path} is no table of measured models.", f"It lacks {', '.join(missing)}."
        )
    rows = []
    for number, record in enumerate(reader, start=2):
        try:
            tokens, batch = int(float(record["seq"])), int(float(record["batch"]))
            measured, mode = float(record["meas_e2e_latency"]), record["mode"].strip()
            if not (math.isfinite(measured) and min(measured, tokens, batch) > 0):
                raise ValueError(record)
            if mode not in ("inf", "train"):
                raise ValueError(mode)
        except (TypeError, ValueError, OverflowError, AttributeError):
            raise ProfileError(
                f"{path} has a malformed row in line {number}.", "Check that the file is complete."
            ) from None
        variant = (record.get("variant") or "").strip()
        rows.append(
            Row(
                record["device"], record["model"], mode == "train", tokens, batch, variant, measured
            )
        )
    if not rows:
        raise ProfileError(f"{path} holds no row.", "Check that the file is complete.")
    return rows


def read_variant(text: str) -> Variant:
    """What a variant's name says; one without a known meaning is plain.

    >>> read_variant("tp4"), read_variant("pp2_8").microbatches, read_variant("nan") == Variant()
    (Variant(fused=False, data=1, tensor=4, pipeline=1, microbatches=1), 8, True)
    """
    words = text.lower()
    if re.search(r"fus|compile", words):
        return Variant(fused=True)
    found = re.fullmatch(r"(dp|tp|pp)(\d+)(?:_(\d+))?", words)
    if not found:
        return Variant()
    kind, count, parts = found.group(1), max(1, int(found.group(2))), int(found.group(3) or 1)
    if kind == "dp":
        return Variant(data=count)
    if kind == "tp":
        return Variant(tensor=count)
    return Variant(pipeline=count, microbatches=max(1, parts))


class ModelTimes:
    """Latency of models on one device, with an upper bound."""

    def __init__(self, ops: Fp32OpTimes, sheet: GpuSheet) -> None:
        self.ops = ops
        self.sheet = sheet

    def predict(self, sizes: Sizes, row: Row) -> tuple[float, float]:
        """Milliseconds of a row's model, and their 90 % upper bound."""
        variant = read_variant(row.variant)
        batch = max(1, row.batch // (variant.data * variant.microbatches))
        graph = hf_graph.build(
            sizes, batch, row.tokens, row.train, variant.fused, shards=variant.tensor
        )
        forward, kinds = self._pass_ms(graph.forward)
        backward, back_kinds = self._pass_ms(graph.backward[::-1])
        exchange = self._exchange_ms(sizes, batch * row.tokens, row.train, variant, backward)
        slots = (variant.microbatches + variant.pipeline - 1) / variant.pipeline
        total = slots * (forward + backward) + exchange
        for kind, value in back_kinds.items():
            kinds[kind] = kinds.get(kind, 0.0) + value
        whole = sum(kinds.values())
        # errors of one kind on a device go together; those of different kinds are independent
        parts = [value / whole * self.ops.spread(kind, self.sheet) for kind, value in kinds.items()]
        spread = math.sqrt(sum(part**2 for part in parts) + GRAPH_SPREAD**2)
        return total, total * math.exp(NORMAL_QUANTILE * spread)

    def _pass_ms(self, kernels: list[Kernel]) -> tuple[float, dict[str, float]]:
        """Time of kernels in a queue, and the GPU's share of it by kind."""
        distinct = {kernel: 0.0 for kernel in kernels if kernel != hf_graph.WAIT}
        for kind in {kernel.kind for kernel in distinct}:
            same = [kernel for kernel in distinct if kernel.kind == kind]
            times = self.ops.predict(kind, np.array([k.shape for k in same], float), self.sheet)
            for kernel, time in zip(same, times, strict=True):
                count = kernel.launches if kind != "stream" else 1  # a stream's bytes are of all
                distinct[kernel] = float(time) * kernel.factor * count
        by_kind: dict[str, float] = {}
        issue = {k.kind: self.ops.issue_ms(k.kind, self.sheet) for k in distinct}
        total = 0.0
        issued: list[float] = []
        running: list[float] = []
        for kernel in [*kernels, hf_graph.WAIT]:
            if kernel == hf_graph.WAIT:  # the queue runs empty
                total += queued_ms(np.array(issued), np.array(running))
                issued, running = [], []
                continue
            by_kind[kernel.kind] = by_kind.get(kernel.kind, 0.0) + distinct[kernel]
            issued.append(kernel.launches * issue[kernel.kind])
            running.append(distinct[kernel])
        return total, by_kind

    def _exchange_ms(
        self, sizes: Sizes, rows: int, train: bool, variant: Variant, backward_ms: float
    ) -> float:
        """Time that passing data between devices adds."""
        link = LINKS.get(device_slug(self.sheet.name), PCIE)
        activations = 4.0 * rows * sizes.embed
        layers = sizes.layers + sizes.decoder_layers
        if variant.tensor > 1:  # two sums a layer and direction, each over a ring
            ring = 2.0 * (variant.tensor - 1) / variant.tensor
            return 1e3 * (2 if train else 1) * 2 * layers * ring * activations / link
        if variant.data > 1 and train:  # gradients, summed while the backward pass still runs
            ring = 2.0 * (variant.data - 1) / variant.data
            weights = layers * sizes.embed * (4.0 * sizes.embed + 2.0 * sizes.hidden)
            gradients = 4.0 * (weights + sizes.vocabulary * sizes.embed)
            return max(0.1 * backward_ms, 1e3 * ring * gradients / link - 0.9 * backward_ms)
        if variant.pipeline > 1:
            sends = (variant.pipeline - 1) * variant.microbatches * (2 if train else 1)
            return 1e3 * sends * activations / link
        return 0.0


def judge(given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figures of every device in the test files."""
    spec = given.spec or given.train[0].parent / "device_configs.json"
    sheets = read_gpu_sheets(spec)
    entries = read_json_object(given.configs, "model configurations")
    rows = [row for path in given.test for row in read_models(path)]
    sizes = {}
    for name in dict.fromkeys(row.model for row in rows):
        if name not in entries:
            raise ProfileError(
                f"{given.configs} has no model {name!r}.", f"It has {', '.join(sorted(entries))}."
            )
        sizes[name] = hf_graph.read_sizes(name, entries[name])
    ops = Fp32OpTimes().fit([t for path in given.train for t in read_op_rows(path)], sheets)
    print(f"fitted {len(ops.devices_)} devices", file=sys.stderr)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        sheet = find_sheet(sheets, row.device, prefer=list(ops.devices_))
        predicted, upper = ModelTimes(ops, sheet).predict(sizes[row.model], row)
        found.setdefault(device_slug(row.device), []).append((row.measured_ms, predicted, upper))
    return {slug: judging.figures(*np.array(values).T) for slug, values in sorted(found.items())}


def main() -> int:
    parser = judging.arguments(__doc__)
    parser.add_argument("--configs", type=Path, required=True, metavar="PATH")
    parser.add_argument("--spec", type=Path, metavar="PATH")
    return judging.run(judge, parser)


if __name__ == "__main__":
    sys.exit(main())
