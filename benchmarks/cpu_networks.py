"""Predicted against measured latency of random networks on this CPU, in ONNX Runtime.

    python benchmarks/cpu_networks.py [--profile cpu.json] [--networks 40] [--seed 12345]

Makes a profile (or loads one), draws candidates that it has not seen, measures them in fresh
processes and prints one JSON object: mean and median error and bound width in percent, Kendall's
tau, the share under the upper bound, and a row a network.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

import search_spaces
from hw_profiles.harness import Harness
from hw_profiles.profile import DeviceProfile, load_profile
from nas.candidate import CandidateSpace
from nas.export.onnx import check_quantized, export_onnx, quantize_onnx
from nas.profiling import describe_profile, measure_models, profile_device
from predictors.costs import CostModel
from predictors.latency import latency_predictor
from predictors.metrics import bound_width, coverage, kendall_tau, mape, median_error, within


def tell(text: str) -> None:
    """Progress, away from the result."""
    print(text, file=sys.stderr, flush=True)


def profile_of(path: Path | None) -> tuple[DeviceProfile, float]:
    """The profile, and how many seconds it took to make."""
    if path is not None and path.exists():
        return load_profile(path), 0.0
    start = time.monotonic()
    made = profile_device(
        "cpu", Harness(), path, progress=lambda text, share: tell(f"{share:4.0%} {text}")
    )
    return made, time.monotonic() - start


def main() -> None:
    """Draw, export, measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--space", default="vit")
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=12345)
    options = parser.parse_args()
    profile, seconds = profile_of(options.profile)
    for line in describe_profile(profile):
        tell(line)
    space = search_spaces.get(options.space, options.preset)
    joint = CandidateSpace(space, tuple(profile.precisions))
    genomes = joint.choices.sample(options.networks, np.random.default_rng(options.seed))
    costs = CostModel(space, joint.choices, joint.schemes, latency_predictor(profile)).costs(
        genomes
    )
    torch.set_num_threads(1)
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
                "architecture": space.describe(candidate.architecture),
                "policy": joint.describe_policy(candidate.policy),
                "predicted_ms": float(costs["latency_ms"][i]),
                "upper_ms": float(costs["latency_ms_upper"][i]),
            }
        )
        tell(f"exported {i + 1} of {len(genomes)}")
    timings = measure_models(models, processes=options.processes, seed=options.seed)
    measured = [t.median_ms for t in timings]
    for row, t in zip(rows, timings, strict=True):
        row |= {"measured_ms": t.median_ms, "spread": t.spread_within}
    predicted, upper = costs["latency_ms"], costs["latency_ms_upper"]
    print(
        json.dumps(
            {
                "mape": mape(measured, predicted),
                "median_error": median_error(measured, predicted),
                "within_5": within(measured, predicted, 5),
                "within_10": within(measured, predicted, 10),
                "kendall_tau": kendall_tau(measured, predicted),
                "coverage": coverage(measured, upper),
                "bound_width": bound_width(predicted, upper),
                "bias": float(np.median(np.asarray(measured) / predicted)),
                "profile_seconds": seconds,
                "processes": options.processes,
                "rows": rows,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
