"""A supernet of this project as a search problem: every answer is a real evaluation.

What `nas search` would search by default, without a budget: the quality of a candidate on the
validation data, in the simulated arithmetic of its policy, and the target's predicted costs. An
answer is remembered for the searches that ask for it again; most of the time of a run goes into
those that are new.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from engine_overhead import prepare
from known_problems import Floats, Known, Values

from nas.engine.candidates import corners
from nas.request import SearchRequest
from search_spaces.choices import Genomes

MARGIN = 1.05
"""The reference point: the smallest network's quality, and so much more than the largest costs."""


def read_supernet(space: str, target: str) -> Known:
    """The default preset of a space on a target, with the supernet that ships or is in the cache.

    Raises:
        NasError: if there is no such space or target.
    """
    problem, evaluate = prepare(SearchRequest(space, target))
    (costly,) = problem.costly
    remembered: dict[bytes, dict[str, float]] = {}

    def one(genome: Genomes) -> dict[str, float]:
        key = genome.tobytes()
        if key not in remembered:
            remembered[key] = dict(evaluate(genome, 0, None))
        return remembered[key]

    def answer(genomes: Genomes) -> Values:
        found = [one(genome) for genome in genomes]
        return {name: np.array([each[name] for each in found]) for name in found[0]}

    ends = problem.costs(corners(problem.choices))
    reference = {name: MARGIN * float(values.max()) for name, values in ends.items()}
    smallest = problem.choices.extreme(largest=False)
    reference[costly.name] = float(answer(smallest)[costly.name][0])

    def none_known() -> Floats:
        return np.empty((0, len(problem.objectives)))

    return Known(replace(problem, reference=reference), answer, best=none_known, exact=False)
