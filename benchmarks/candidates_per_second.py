"""How many candidates a second are sampled into genomes and costed in every column, on one core.

    python benchmarks/candidates_per_second.py --space vit --preset digits --target a100

Prints one JSON object: candidates_per_second (median of the repeats), spread, and what was run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import numpy as np

import search_spaces
from nas.setting import Setting
from nas.targets import resolve_target


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="vit")
    parser.add_argument("--preset", default=None)
    parser.add_argument("--target", default="a100")
    parser.add_argument("--candidates", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    started = time.perf_counter()
    setting = Setting(search_spaces.get(args.space, args.preset), resolve_target(args.target))
    build = time.perf_counter() - started
    choices = setting.candidates.choices
    rng = np.random.default_rng(0)
    seconds = []
    for _ in range(args.repeats + 1):
        raw = rng.integers(0, choices.sizes, size=(args.candidates, len(choices)))
        begun = time.perf_counter()
        genomes = choices.canonical(raw)
        choices.one_hot(genomes)
        setting.costs.costs(genomes)
        seconds.append(time.perf_counter() - begun)
    rates = [args.candidates / s for s in seconds[1:]]
    print(
        json.dumps(
            {
                "candidates_per_second": round(statistics.median(rates)),
                "slowest": round(min(rates)),
                "fastest": round(max(rates)),
                "candidates": args.candidates,
                "genes": len(choices),
                "tables_built_in_s": round(build, 3),
                "space": f"{setting.space.name}-{setting.space.preset}",
                "target": setting.profile.name,
            }
        )
    )


if __name__ == "__main__":
    main()
