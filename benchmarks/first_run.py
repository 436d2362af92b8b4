"""Wall time and peak memory of the first command, in an empty folder with an empty cache.

    python benchmarks/first_run.py
    python benchmarks/first_run.py -- --retrain --train-time 2m

What follows `--` is added to the command. Prints one JSON object: seconds, peak_rss_mib (the
largest process), front (networks), latency_ratio and accuracy_span of the front.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = ("search", "--space", "vit", "--target", "a100", "--budget", "5ms", "--json")


def main() -> None:
    """Run the benchmark."""
    words = sys.argv[1:]
    if "--help" in words:
        print(__doc__)
        return
    more = words[words.index("--") + 1 :] if "--" in words else []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NAS_CACHE": str(Path(folder) / "cache"), "HOME": folder}
        environment.pop("NAS_STORAGE", None)
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "cli", *COMMAND, *more],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - begun
    front = json.loads(done.stdout)["front"]
    latencies = [row["latency_ms"] for row in front]
    accuracies = [row["accuracy"] for row in front]
    print(
        json.dumps(
            {
                "seconds": round(seconds, 1),
                "peak_rss_mib": round(
                    resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
                ),
                "front": len(front),
                "latency_ratio": round(max(latencies) / min(latencies), 2),
                "accuracy_span": round(100 * (max(accuracies) - min(accuracies)), 1),
                "command": " ".join(["nas", *COMMAND, *more]),
            }
        )
    )


if __name__ == "__main__":
    main()
