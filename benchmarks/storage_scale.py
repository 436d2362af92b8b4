"""How quick a study of 100,000 trials is: opening it, `nas pareto`, a commit, beside its size.

    python benchmarks/storage_scale.py --trials 100000
    python benchmarks/storage_scale.py --trials 100000 --targets 2
    python benchmarks/storage_scale.py --trials 100000 --storage postgresql://user@host/database

Without `--storage` it is an SQLite file in a temporary folder. The database must be empty: the
study is made there and deleted at the end. Candidates are drawn from `vit` (digits), their
qualities at random; rows are as long as those of a real search. Prints one JSON object, times in
seconds: `open` reads the study and its front (`nas.open_study`), `pareto` is the whole command in
a process of its own, `resume` what a search reads before its first question (every trial),
`commit` the median and the 95th percentile of a trial's commit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import search_spaces
from hw_profiles import registry
from nas.archive import open_study
from nas.candidate import CandidateSpace
from nas.storage.database import open_database
from nas.storage.records import ProfileRecord, StudyRecord, TrialRecord
from nas.storage.studies import Studies
from nas.target_names import at

NAME, COMMITS, CHUNK = "storage-scale", 200, 5_000


def study_of(studies: Studies, targets: Sequence[str]) -> StudyRecord:
    """The study, with the profile of a real target; several targets share it."""
    profile = registry.load("a100")
    kept = ProfileRecord(profile.name, profile.fingerprint(), profile.model_dump(mode="json"))
    request = {
        "asked": {"trials": 1_000_000}, "limits": [], "n_classes": 10, "in_channels": 1,
        "schemes": ["bf16", "int8", "int8_wo", "int4_wo"], "n_validation": 4044,
        "n_originals": 337, "reach": [], "target_summary": "-",
    }  # fmt: skip
    objectives = ["accuracy", *(at("latency", target) for target in targets or (None,))]
    if targets:
        seen = {"profile": profile.fingerprint(), "runtime": "cudagraph", "reach": [],
                "schemes": request["schemes"], "target_summary": "-"}  # fmt: skip
        request["reference"] = {"accuracy": 0.1} | dict.fromkeys(objectives[1:], 7.0)
        request["targets"] = dict.fromkeys(targets, seen)
    return studies.create_study(
        StudyRecord(
            name=NAME,
            space="vit",
            preset="digits",
            target="a100",
            runtime="cudagraph",
            batch_size=1,
            data="digits-hard",
            objectives=objectives,
            budgets=[],
            seed=0,
            sampler="guided",
            request=request,
            supernet_fingerprint="",
            version="0",
            supernet_digest="",
            profile_fingerprint=profile.fingerprint(),
        ),
        [kept],
    )


def trials_of(count: int, targets: Sequence[str], seed: int = 0) -> list[TrialRecord]:
    """Drawn candidates with a front of a few dozen; of several targets, a few hundred."""
    rng = np.random.default_rng(seed)
    space = search_spaces.get("vit", "digits")
    candidates = CandidateSpace(space, ("bf16", "int8", "int8_wo", "int4_wo"))
    genomes = candidates.choices.canonical(candidates.choices.sample(count, rng))
    shown = [candidates.decode(genome) for genome in genomes[:2000]]
    latency = rng.uniform(0.05, 1.0, count)
    quality = 0.97 - 0.4 * np.exp(-5 * latency) - rng.exponential(0.1, count)
    slower = rng.uniform(5, 7, (count, len(targets)))

    def on_each(n: int) -> dict[str, dict[str, float]] | None:
        found = {}
        for target, factor in zip(targets, slower[n], strict=True):
            ms = float(factor * latency[n])
            found[target] = {
                "latency_ms": ms, "latency_ms_upper": 1.4 * ms, "energy_mj": 9 * ms,
                "energy_mj_upper": 30 * ms, "memory_bytes": int(1e5 + 1e6 * latency[n]),
                "weight_bytes": int(2e4 + 2e5 * latency[n]),
            }  # fmt: skip
        return found or None

    return [
        TrialRecord(
            number=n,
            key=f"{n:064x}",
            genome=tuple(int(g) for g in genomes[n]),
            architecture=dict(shown[n % len(shown)].architecture),
            policy=dict(shown[n % len(shown)].policy),
            architecture_short=space.describe(shown[n % len(shown)].architecture),
            policy_short=candidates.describe_policy(shown[n % len(shown)].policy),
            quality=float(quality[n]),
            quality_noise=0.01,
            latency_ms=float(latency[n]),
            latency_ms_upper=float(1.4 * latency[n]),
            memory_bytes=int(1e5 + 1e6 * latency[n]),
            params=int(1e4 + 1e5 * latency[n]),
            weight_bytes=int(2e4 + 2e5 * latency[n]),
            macs=int(1e6 * latency[n]),
            target_costs=on_each(n),
            feasible=True,
            origin={
                "kind": "exploit",
                "predicted": {"accuracy": float(quality[n] + 0.01)},
                "std": {"accuracy": 0.02},
                "gain": 0.001,
                "fitted_trials": n,
            },
        )
        for n in range(count)
    ]


def timed(call: Callable[[], object], repeats: int = 3) -> float:
    """The median of a few calls, in seconds."""
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return round(float(np.median(taken)), 3)


def measure(url: str, count: int, n_targets: int) -> dict[str, object]:
    """All figures on one database."""
    found: dict[str, object] = {"storage": url.partition(":")[0], "trials": count}
    found["targets"] = n_targets
    targets = [f"target-{i}" for i in range(n_targets)] if n_targets > 1 else []
    with open_database(url) as database:
        studies = Studies(database)
        study = study_of(studies, targets)
        trials = trials_of(count + COMMITS, targets)
        begun = time.perf_counter()
        for start in range(0, count, CHUNK):
            studies.add_trials(study.id, trials[start : min(start + CHUNK, count)])
        found["import_s"] = round(time.perf_counter() - begun, 1)
        found["open_s"] = timed(lambda: open_study(NAME, url))
        found["front"] = len(open_study(NAME, url).front)
        command = [sys.executable, "-m", "cli", "pareto", NAME, "--storage", url]
        root = Path(__file__).parent.parent
        environment = {**os.environ, "PYTHONPATH": str(root)}
        found["pareto_s"] = timed(
            lambda: subprocess.run(command, check=True, capture_output=True, env=environment)
        )
        found["resume_s"] = timed(lambda: studies.trials(study.id), repeats=1)
        found["list_s"] = timed(studies.list_studies)
        commits = []
        studies.claim(study.id)
        for trial in trials[count:]:
            begun = time.perf_counter()
            studies.add_trial(study.id, trial)
            commits.append(1000 * (time.perf_counter() - begun))
        studies.release(study.id)
        found["commit_ms"] = {
            "median": round(float(np.median(commits)), 2),
            "95th": round(float(np.quantile(commits, 0.95)), 2),
        }
        studies.delete_study(study.id)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--targets", type=int, default=1)
    parser.add_argument("--storage", help="SQLAlchemy URL; default an SQLite file, then deleted")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.storage or f"sqlite:///{folder}/nas.db"
        print(json.dumps(measure(url, arguments.trials, arguments.targets)))


if __name__ == "__main__":
    main()
