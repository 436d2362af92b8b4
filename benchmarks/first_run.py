"""Wall time and peak memory of a search as a new user runs it: empty folder, empty cache.

    python benchmarks/first_run.py
    python benchmarks/first_run.py --space ofa --target cpu --budget 1ms
    python benchmarks/first_run.py -- --retrain --train-time 2m

What follows `--` is added to the command. Prints one JSON object: seconds, peak_rss_mib (the
largest process), front (networks), exported (those of them whose files are there, were loaded
back, and agreed with the supernet in ONNX Runtime), latency_ratio of the front, quality (metric,
least and most), and what was measured, where the target is this machine, with how much slower the
machine itself became since its profile.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--space", default="vit")
    parser.add_argument("--target", default="a100")
    parser.add_argument("--budget", default="5ms")
    parser.add_argument("more", nargs="*", help="added to the command, after --")
    asked = parser.parse_args()
    command = ["search", "--space", asked.space, "--target", asked.target]
    command += ["--budget", asked.budget, "--json", *asked.more]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NAS_CACHE": str(Path(folder) / "cache"), "HOME": folder}
        environment.pop("NAS_STORAGE", None)
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "cli", *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - begun
        found = json.loads(done.stdout)
        exported = [row for row in found["front"] if _is_there(Path(folder), row["exported"])]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    latencies = [row["latency_ms"] for row in found["front"]]
    metric = next(name for name in found["objectives"] if name in found["front"][0])
    qualities = [row[metric] for row in found["front"]]
    result: dict[str, Any] = {
        "command": " ".join(["nas", *command]),
        "seconds": round(seconds, 1),
        "peak_rss_mib": round(peak / 1024),
        "trials": found["trials"],
        "front": len(found["front"]),
        "exported": len(exported),
        "latency_ratio": round(max(latencies) / min(latencies), 2),
        "quality": [metric, round(min(qualities), 4), round(max(qualities), 4)],
    }
    timed = [row for row in found["front"] if row["latency_ms_measured"]]
    if timed:
        errors = [abs(row["latency_ms"] / row["latency_ms_measured"] - 1) for row in timed]
        result["mean_latency_error_percent"] = round(100 * sum(errors) / len(errors), 2)
        result["under_bound"] = sum(
            row["latency_ms_measured"] <= row["latency_ms_upper"] for row in timed
        )
        slower = [row["slowness"] for row in timed if row["slowness"]]
        if slower:
            result["machine_slower_percent"] = round(100 * (median(slower) - 1), 1)
        result["least_agreement"] = min(row["agreement"] for row in timed)
    print(json.dumps(result))


def _is_there(folder: Path, exported: str | None) -> bool:
    names = ("config.json", "model.safetensors", "model.onnx")
    return exported is not None and all((folder / exported / name).is_file() for name in names)


if __name__ == "__main__":
    main()
