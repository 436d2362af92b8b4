"""One profile of this CPU, and random networks timed again and again in later sessions.

    python benchmarks/sessions.py [--profile cpu.json] [--sessions 8] [--wait 20] [--busy 0]

Makes a profile of a space (or loads one), then in each session times the same networks, that no
fit saw, as `nas verify` does. Prints one JSON object: of each session by what factor the anchor and
the networks (in the median) are slower than the profile says, the error and the share under the
bound, as measured and with the anchor's change taken out; and the figures of all sessions together.
`--busy` keeps so many other processes at work in every second session.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpu_networks import networks_of, profile_of, tell
from judging import figures
from numpy.typing import NDArray

import search_spaces
from nas.profiling import describe_profile, measure_models
from nas.verification import PROCESSES

WORK = "import numpy as np; a = np.random.rand(300, 300)\nwhile True: a @ a"


def main() -> None:
    """Profile, wait, time, wait, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--space", default="vit")
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--wait", type=float, default=20.0, help="seconds before each session")
    parser.add_argument("--busy", type=int, default=0, help="other processes, every second session")
    parser.add_argument("--seed", type=int, default=12345)
    asked = parser.parse_args()
    space = search_spaces.get(asked.space)
    profile, _ = profile_of(asked.profile, [f"{space.name}:{space.preset}"])
    for line in describe_profile(profile):
        tell(line)
    assert profile.anchor is not None
    torch.set_num_threads(1)
    models, rows = networks_of(space, profile, asked.networks, asked.seed)
    predicted, upper = (
        np.array([row[name] for row in rows]) for name in ("predicted_ms", "upper_ms")
    )
    sessions: list[dict[str, Any]] = []
    measured: list[NDArray[np.float64]] = []
    for number in range(asked.sessions):
        time.sleep(asked.wait)
        busy = asked.busy * (number % 2)
        others = [subprocess.Popen([sys.executable, "-c", WORK]) for _ in range(busy)]
        try:
            found = measure_models(models, processes=PROCESSES, seed=number)
        finally:
            for other in others:
                other.kill()
                other.wait()
        real = np.array([timing.median_ms for timing in found.timings])
        slowness = found.undisturbed_ms / profile.anchor.undisturbed_ms
        sessions.append(
            {
                "busy": busy,
                "anchor": round(slowness, 4),
                "networks": round(float(np.median(real / predicted)), 4),
                "as measured": figures(real, predicted, upper),
                "less the anchor's change": figures(real / slowness, predicted, upper),
            }
        )
        measured.append(np.stack([real, real / slowness]))
        tell(str(sessions[-1]))
    every = np.concatenate(measured, axis=1)
    many = [np.tile(values, asked.sessions) for values in (predicted, upper)]
    shifts = np.log([[s["anchor"], s["networks"]] for s in sessions])
    print(
        json.dumps(
            {
                "bound": round(float(np.median(upper / predicted)), 4),
                "as measured": figures(every[0], *many),
                "less the anchor's change": figures(every[1], *many),
                "spread of the anchor, of the networks, of these less it": [
                    round(float(values.std()), 4)
                    for values in (*shifts.T, shifts[:, 1] - shifts[:, 0])
                ],
                "sessions": sessions,
            }
        )
    )


if __name__ == "__main__":
    main()
