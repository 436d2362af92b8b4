"""What a sampler's own thinking costs a trial, beside the evaluation of the trial.

    python benchmarks/engine_overhead.py --trials 100,200 --samplers guided,tpe

Runs one search a sampler, as `nas search` does but without a database: candidates of the default
supernet of a space are really evaluated, one at a time, and all the time between two evaluations
is the engine's. Prints one JSON object: `evaluation_s`, the median over all evaluations, and for
each sampler and number of trials `engine_s`, the mean over the trials up to there, `last_s`, the
mean over the last fifth of them, and `share`, `engine_s` in evaluations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nas.budget import parse_budgets
from nas.engine.loop import run_search
from nas.engine.problem import Problem
from nas.engine.samplers import require_sampler
from nas.equipment import equip, space_and_data
from nas.errors import NasError
from nas.evaluation import evaluating
from nas.executors.executor import Evaluate
from nas.request import SearchRequest
from nas.setting import Setting
from nas.targets import resolve_target
from nas.training.obtain import obtain_supernet
from nas.trials import problem_of


@dataclass
class Timed:
    """An evaluating function that notes when it was called and when it returned."""

    evaluate: Evaluate
    begun: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)

    def __call__(
        self, genome: NDArray[np.int64], number: int, goal: float | None
    ) -> dict[str, float]:
        """Evaluate one genome."""
        self.begun.append(time.perf_counter())
        values = self.evaluate(genome, number, goal)
        self.ended.append(time.perf_counter())
        return values


def prepare(request: SearchRequest) -> tuple[Problem, Evaluate]:
    """The search problem of a request, and what evaluates its candidates.

    Raises:
        NasError: if the request names something that does not exist.
    """
    space, data = space_and_data(request.space, request.preset, request.data)
    request = request.judged_by(data.metric)
    profile = resolve_target(request.targets[0])
    setting = Setting(space, profile, budgets=parse_budgets(request.budgets))
    supernet = obtain_supernet(space, data)
    evaluator = equip(setting.candidates, data, profile, supernet, request.batch_size).evaluator
    evaluate = evaluating(evaluator, setting.candidates, data.validation, data.metric)
    return problem_of(request, setting), evaluate


def measure(
    problem: Problem, evaluate: Evaluate, sampler: str, trials: int, seed: int
) -> tuple[list[float], list[float]]:
    """Seconds of the engine before each trial, and of each trial's evaluation."""
    timed = Timed(evaluate)
    started = time.perf_counter()
    run_search(
        problem,
        sampler,
        trials=trials,
        seed=seed,
        history=(),
        evaluate=timed,
        record=lambda trial: None,
    )
    waited = np.array(timed.begun) - np.array([started, *timed.ended[:-1]])
    return waited.tolist(), (np.array(timed.ended) - np.array(timed.begun)).tolist()


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--space", default="vit")
    parser.add_argument("--target", default="a100")
    parser.add_argument("--budget", default="5ms")
    parser.add_argument("--trials", default="100,200", help="numbers of trials, such as 100,200")
    parser.add_argument("--samplers", default="guided,tpe")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    samplers = given.samplers.split(",")
    try:
        numbers = sorted({int(n) for n in given.trials.split(",")})
        if numbers[0] < 1:
            raise ValueError
    except ValueError:
        print("trials are whole numbers from 1. Write --trials 100,200.", file=sys.stderr)
        return 2
    try:
        for sampler in samplers:
            require_sampler(sampler)
        request = SearchRequest(given.space, given.target, (given.budget,), seed=given.seed)
        problem, evaluate = prepare(request)
    except NasError as error:
        print(error, file=sys.stderr)
        return 2
    engine, evaluations = {}, []
    for sampler in samplers:
        engine[sampler], took = measure(problem, evaluate, sampler, numbers[-1], given.seed)
        evaluations += took
    evaluation_s = statistics.median(evaluations)
    result: dict[str, object] = {"evaluation_s": round(evaluation_s, 4)}
    for sampler, seconds in engine.items():
        result[sampler] = {
            str(n): {
                "engine_s": round(statistics.mean(seconds[:n]), 4),
                "last_s": round(statistics.mean(seconds[n - max(n // 5, 1) : n]), 4),
                "share": round(statistics.mean(seconds[:n]) / evaluation_s, 3),
            }
            for n in numbers
            if n <= len(seconds)
        }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
