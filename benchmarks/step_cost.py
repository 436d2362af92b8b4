"""What does a step of each recipe cost, against a step of the largest network alone?

    python benchmarks/step_cost.py

Trains the default supernet of each space by its recipe for a few steps of each stage, and the
plain network of the largest architecture by the same loop on as many examples a step, in turns on
one thread. Prints one JSON object: for each recipe the median milliseconds of a step of both, and
how many times the one costs the other, for each stage and on the average of a whole training.

Of `multi-architecture` this ratio also tells whether slices beat masks: a masked step runs the
full-size network on the whole batch, so that it costs a step of the largest alone or more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import torch
from alone import fit_alone

from nas.data.dataset import Dataset
from nas.equipment import space_and_data
from nas.training.loop import Progress, fit
from nas.training.recipe import Recipe
from nas.training.recipe_text import parse_recipe
from search_spaces.space import SearchSpace

#: space -> recipes that are timed on it
PLAN = {
    "vit": ("sandwich", "matformer", "matformer:variant=summed"),
    "ofa": ("progressive-shrinking", "sandwich:random_subnets=6"),
    "matlm": ("matformer", "matformer:variant=summed", "sandwich:random_subnets=6"),
    "vit-resnas": ("multi-architecture", "sandwich:random_subnets=6"),
    "lighthubert": ("two-stage-distillation", "sandwich:random_subnets=6"),
}


class Enough(Exception):
    """All steps are timed; what follows in the loop is evaluation."""


class Stopwatch:
    """Seconds of each step but the first."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.last = 0.0

    def __call__(self, progress: Progress) -> None:
        """A step has ended."""
        now = time.perf_counter()
        if self.last:
            self.seconds[progress.stage].append(now - self.last)
        self.last = now
        if progress.step == progress.steps:
            raise Enough


def timed(train: Callable[[Stopwatch], object]) -> dict[str, float]:
    """Median milliseconds of a step, for each stage."""
    watch = Stopwatch()
    with contextlib.suppress(Enough):
        train(watch)
    return {stage: 1e3 * statistics.median(took) for stage, took in watch.seconds.items()}


def compare(space: SearchSpace, data: Dataset, recipe: Recipe, steps: int) -> dict[str, object]:
    """Both in turns, three times: median of the medians, and the ratio of the two."""
    short = replace(recipe, epochs=1, examples_per_epoch=steps * recipe.batch_size)
    own, alone = defaultdict(list), []
    for _ in range(3):
        for stage, took_ms in timed(lambda w: fit(space, data, short, 0, progress=w)).items():
            own[stage].append(took_ms)
        took = timed(lambda w: fit_alone(space, space.largest(), data, short, 0, progress=w))
        alone.append(took["all"])
    alone_ms = statistics.median(alone)
    stages = {stage: statistics.median(took) for stage, took in own.items()}
    shares = {stage.name: stage.share for stage in recipe.stages(space)}
    mean_ms = sum(stages[s] * share for s, share in shares.items()) / sum(shares.values())
    return {
        "largest_alone_ms": round(alone_ms, 2),
        "step_ms": round(mean_ms, 2),
        "ratio": round(mean_ms / alone_ms, 2),
        "ratio_by_stage": {stage: round(ms / alone_ms, 2) for stage, ms in stages.items()},
    }


def main() -> None:
    """Time all recipes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=128, help="of each training")
    parser.add_argument("--space", choices=sorted(PLAN), help="only this one")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, object]] = {}
    for name in [asked.space] if asked.space else PLAN:
        space, data = space_and_data(name)
        for spelled in PLAN[name]:
            recipe = parse_recipe(spelled)
            found[f"{name} {spelled}"] = compare(space, data, recipe, asked.steps)
            print(spelled, name, found[f"{name} {spelled}"], file=sys.stderr, flush=True)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
