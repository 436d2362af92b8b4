"""What samplers read of the trials before them."""

from __future__ import annotations

import numpy as np
from search_problems import Layered

from nas.engine.told import Memory

NAN = float("nan")


def test_each_trial_is_told_as_what_came_of_it() -> None:
    toy = Layered(4)
    within, over, failed, partial, guessed, unknown = toy.choices.sample(
        6, np.random.default_rng(0)
    )
    memory = Memory(toy.problem)
    memory.add(
        np.stack([within, over, failed]),
        np.array([[0.75, 2.0], [0.875, 4.0], [NAN, NAN]]),  # accuracy, ms
        np.array([-0.5, 0.25, -0.5]),
        np.zeros(3),
    )
    memory.add(partial[None, :], np.array([[0.5, 1.0]]), np.array([0.0]), np.array([0.125]))
    believed = [np.array([0.625, 3.0]), np.array([NAN, NAN])]
    told = memory.told([guessed, unknown], believed)

    genomes = np.stack([within, over, failed, partial, guessed, unknown])
    assert told.genomes.tolist() == genomes.tolist()
    minimised = [[-0.75, 2.0], [-0.875, 4.0], [NAN, NAN], [-0.5, 1.0], [-0.625, 3.0], [NAN, NAN]]
    np.testing.assert_array_equal(told.values, minimised)
    assert told.violation.tolist() == [-0.5, 0.25, -0.5, 0.0, 0.0, 0.0]
    assert told.noise.tolist() == [0.0, 0.0, 0.0, 0.125, 0.0, 0.0]
    assert (len(told), told.n_pending) == (6, 2)
    assert told.evaluated.tolist() == [True, True, False, True, True, False]
    assert told.complete.tolist() == [True, False, False, True, True, False]
    assert told.failed.tolist() == [False, False, True, False, False, False]

    finished = memory.told([], [])
    assert (len(finished), finished.n_pending) == (4, 0)
    assert finished.failed.tolist() == [False, False, True, False]


def test_what_was_told_stays_as_it_grows() -> None:
    """Rows are kept for 64 at first."""
    toy = Layered(4)
    memory = Memory(toy.problem)
    genomes = toy.choices.sample(300, np.random.default_rng(1))
    values = np.stack([np.linspace(0, 1, 300), np.linspace(5, 1, 300)], axis=1)
    violation, noise = np.linspace(-1, 1, 300), np.linspace(0, 0.1, 300)
    for first, end in ((0, 63), (63, 64), (64, 65), (65, 300)):
        rows = slice(first, end)
        memory.add(genomes[rows], values[rows], violation[rows], noise[rows])
        told = memory.told([], [])
        assert told.genomes.tolist() == genomes[:end].tolist()
        np.testing.assert_array_equal(told.values, values[:end] * [-1, 1])
        assert told.violation.tolist() == violation[:end].tolist()
        assert told.noise.tolist() == noise[:end].tolist()
