"""Hypervolume and seconds of searches with a first look at the validation data, and without.

    python benchmarks/two_fidelities.py --samplers guided,random --trials 100 --seeds 3

Searches the `vit` space on digits-hard for an A100, each in a database of its own, and evaluates
what was given up on all the data afterwards: how many of them would have been on the front, and how
far the estimates were off, in their own standard errors.

Prints one JSON object: sampler -> `whole` and `first look SHARE` -> medians over the seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import nas
from nas.candidate import CandidateSpace
from nas.engine.samplers import require_sampler
from nas.equipment import equip, space_and_data
from nas.errors import NasError, UsageError
from nas.report.standing import Standing
from nas.request import SearchRequest
from nas.storage.records import TrialRecord
from nas.study import Study
from nas.targets import resolve_target
from nas.training.obtain import own_supernet

SPACE, TARGET = "vit", "a100"


def arguments() -> argparse.ArgumentParser:
    """The script's own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samplers", default="guided,random")
    parser.add_argument("--first-look", type=float, default=0.25, metavar="SHARE")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    return parser


def run(sampler: str, seed: int, trials: int, first_look: float | None) -> dict[str, float]:
    """The figures of one search."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        study = nas.search(
            SPACE,
            TARGET,
            trials=trials,
            seed=seed,
            sampler=sampler,
            first_look=first_look,
            storage=f"sqlite:///{Path(folder) / 'nas.db'}",
            out=folder,
            export=False,
        )
        wall_s = time.perf_counter() - begun
        standing = Standing(study.record, trials, study.trials)
        examples = sum(t.examples or 0 for t in study.trials)
        found: dict[str, float] = {
            "hypervolume": standing.hypervolume,
            "evaluation_s": sum(t.seconds for t in study.trials),
            "wall_s": wall_s,
            "examples_share": examples / (trials * int(study.record.request["n_validation"])),
        }
        return found if first_look is None else found | _given_up(study, standing)


def _given_up(study: Study, standing: Standing) -> dict[str, float]:
    """How right it was to give up what was given up."""
    partial = [t for t in study.trials if t.state == "partial"]
    whole = _whole_quality(study)
    would_be_on_front, errors = 0, []
    for trial in partial:
        quality = whole(trial)
        if trial.part_noise:  # else the first look told all
            errors.append((float(trial.quality or 0.0) - quality) / trial.part_noise)
        rivals = [
            t for t in standing.front
            if float(t.latency_ms_upper or 0) <= float(trial.latency_ms_upper or 0)
        ]  # fmt: skip
        would_be_on_front += all(float(t.quality or 0) < quality for t in rivals)
    return {
        "given_up": len(partial),
        "would_be_on_front": would_be_on_front,
        "error_in_standard_errors": float(np.sqrt(np.mean(np.square(errors)))) if errors else 0.0,
        "saved_s": standing.seconds_saved,
    }


def _whole_quality(study: Study) -> Callable[[TrialRecord], float]:
    """Trial -> its quality on all validation data, in the arithmetic of its study."""
    record = study.record
    request = SearchRequest.from_json(record.request["asked"])
    space, data = space_and_data(request.space, request.preset, request.data)
    supernet = own_supernet(space, record.supernet_digest, data)
    candidates = CandidateSpace(space, tuple(record.request["schemes"]))
    profile = resolve_target(request.targets[0])
    evaluator = equip(candidates, data, profile, supernet, record.batch_size).evaluator

    def quality(trial: TrialRecord) -> float:
        candidate = candidates.decode(np.array(trial.genome))
        return evaluator.quality(candidate, data.validation, data.metric)[0]

    return quality


def main() -> int:
    """Run as a script."""
    given = arguments().parse_args()
    samplers = given.samplers.split(",")
    try:
        if given.seeds < 1:
            raise UsageError("--seeds must be 1 or more.", "")
        result: dict[str, dict[str, dict[str, float]]] = {}
        for sampler in samplers:
            require_sampler(sampler)
            for first_look in (None, given.first_look):
                name = "whole" if first_look is None else f"first look {first_look:g}"
                runs = [run(sampler, s, given.trials, first_look) for s in range(given.seeds)]
                result.setdefault(sampler, {})[name] = {
                    key: round(float(np.median([r[key] for r in runs])), 4) for key in runs[0]
                }
                print(f"{sampler}, {name}: {runs}", file=sys.stderr)
    except NasError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
