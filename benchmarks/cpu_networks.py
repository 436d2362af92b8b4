"""Predicted against measured latency of random networks on this CPU, in ONNX Runtime.

    python benchmarks/cpu_networks.py [--profile cpu.json] [--space NAME ...] [--networks 60]

Makes a profile of all spaces (or loads one), draws candidates of each space that it has not seen,
measures them in fresh processes and prints one JSON object: the figures of all networks together,
one such object a space under `spaces`, and a row a network under `rows`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import judging
import numpy as np
import onnx
import torch

import search_spaces
from hw_profiles.harness import Harness
from hw_profiles.profile import DeviceProfile, load_profile
from nas.candidate import CandidateSpace
from nas.export.onnx import check_quantized, export_onnx, quantize_onnx
from nas.profiling import describe_profile, measure_models, profile_device
from predictors.costs import CostModel
from predictors.latency import latency_predictor
from search_spaces.space import SearchSpace


def tell(text: str) -> None:
    """Progress, away from the result."""
    print(text, file=sys.stderr, flush=True)


def profile_of(
    path: Path | None, spaces: Sequence[str] | None = None
) -> tuple[DeviceProfile, float]:
    """The profile, of some spaces or all, and how many seconds it took to make."""
    if path is not None and path.exists():
        return load_profile(path), 0.0
    start = time.monotonic()
    made = profile_device(
        "cpu",
        Harness(),
        path,
        spaces=spaces,
        progress=lambda text, share: tell(f"{share:4.0%} {text}"),
    )
    return made, time.monotonic() - start


def networks_of(
    space: SearchSpace, profile: DeviceProfile, n: int, seed: int
) -> tuple[list[onnx.ModelProto], list[dict[str, Any]]]:
    """Random candidates of a space: their ONNX models, and what is predicted of each."""
    joint = CandidateSpace(space, tuple(profile.precisions))
    genomes = joint.choices.sample(n, np.random.default_rng(seed))
    latency = latency_predictor(profile.calibrated_for(space.name, space.preset))
    costs = CostModel(space, joint.choices, joint.schemes, latency).costs(genomes)
    models, rows = [], []
    for i, genome in enumerate(genomes):
        candidate = joint.decode(genome)
        architecture = candidate.architecture
        graph = export_onnx(space.build(architecture), space.example(architecture))
        model = quantize_onnx(graph, candidate.policy, space.group_modules())
        check_quantized(model, candidate.policy, space.group_modules())
        models.append(model)
        rows.append(
            {
                "space": space.name,
                "architecture": space.describe(candidate.architecture),
                "policy": joint.describe_policy(candidate.policy),
                "predicted_ms": float(costs["latency_ms"][i]),
                "upper_ms": float(costs["latency_ms_upper"][i]),
            }
        )
    tell(f"{space.name}: exported {n}")
    return models, rows


def judged(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The figures of networks, and by what factor the median one is slower than predicted."""
    measured, predicted, upper = (
        np.array([row[name] for row in rows])
        for name in ("measured_ms", "predicted_ms", "upper_ms")
    )
    bias = round(float(np.median(measured / predicted)), 4)
    return judging.figures(measured, predicted, upper) | {"bias": bias}


def main() -> None:
    """Draw, export, measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--space", nargs="+", default=None, help="NAME; all of them by default")
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=12345)
    options = parser.parse_args()
    profile, seconds = profile_of(options.profile)
    for line in describe_profile(profile):
        tell(line)
    torch.set_num_threads(1)
    every = []
    for name in options.space or search_spaces.names():
        space = search_spaces.get(name)
        models, rows = networks_of(space, profile, options.networks, options.seed)
        measured = measure_models(models, processes=options.processes, seed=options.seed)
        for row, timing in zip(rows, measured.timings, strict=True):
            row |= {"measured_ms": timing.median_ms, "spread": timing.spread_within}
        every += rows
        tell(f"{name}: {judged(rows)}")
    spaces = {row["space"]: [r for r in every if r["space"] == row["space"]] for row in every}
    result = judged(every) | {
        "profile_seconds": round(seconds, 1),
        "processes": options.processes,
        "spaces": {name: judged(rows) for name, rows in spaces.items()},
        "rows": every,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
