"""How a search stands, from its trials alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_report import PARTIAL, RECORD, TRIALS, trial

from nas.engine.pareto import hypervolume
from nas.report.standing import Standing, reference_point
from nas.stop import Flat
from nas.study import Study

STUDY = replace(RECORD, request={**RECORD.request, "reference": {"accuracy": 0.1, "latency": 1.0}})


def test_counts_front_and_hypervolume() -> None:
    standing = Standing(STUDY, 10, TRIALS)
    assert (standing.done, standing.failed, standing.feasible) == (5, 1, 3)
    assert sorted(t.number for t in standing.front) == [0, 1]
    values = np.array([[0.9, 1.1 * 0.5], [0.8, 1.1 * 0.2]])
    expected = hypervolume(values, [True, False], [0.1, 1.0]) / 0.9
    assert standing.hypervolume == pytest.approx(expected)
    assert standing.hypervolumes == sorted(standing.hypervolumes)
    assert len(standing.hypervolumes) == 5


def test_equal_trials_stand_on_the_front_together_as_in_the_study() -> None:
    trials = [*TRIALS, trial(5, 0.9, 0.5), trial(6, 0.8, 0.2)]
    standing = Standing(STUDY, 10, trials)
    assert [t.number for t in standing.front] == [0, 1, 5, 6]
    assert {t.number for t in Study(STUDY, trials).front_trials()} == {0, 1, 5, 6}
    assert standing.hypervolume == Standing(STUDY, 10, TRIALS).hypervolume
    standing.add(trial(7, 0.95, 0.2))  # beats all of them
    assert [t.number for t in standing.front] == [7]


def test_lines_tell_pace_and_what_is_left() -> None:
    standing = Standing(STUDY, 7)
    assert "trial 0 of 7" in standing.event().text
    for number in range(5):
        standing.add(trial(number, 0.5 + 0.1 * number, 0.3, seconds=2.0), now=10.0 * number)
    event = standing.event()
    assert "trial 5 of 7, best accuracy 90.00%, hypervolume 0." in event.text
    assert "2.00 s each, 0:20 left" in event.text
    assert event.detail[0] == "feasible 5 of 5, on the front 1"
    assert event.detail[1] == "trial 4: 90.00%, latency 330 us"
    standing.add(TRIALS[4])
    assert "1 failed" in standing.event().text


def test_trials_that_are_read_together_tell_no_pace() -> None:
    standing = Standing(STUDY, 40)
    for number in range(3):
        standing.add(trial(number, 0.5, 0.3), now=100.0)
    assert standing.seconds_left is None
    assert "left" not in standing.event().text
    for number in range(3, 5):
        standing.add(trial(number, 0.5, 0.3), now=120.0)
    assert standing.seconds_left == 35 * 10.0


def test_what_was_given_up_is_counted_with_what_it_saved() -> None:
    record = replace(STUDY, request={**STUDY.request, "n_validation": 4000})
    standing = Standing(record, 9, [*TRIALS, PARTIAL])
    front = standing.hypervolume
    standing.add(replace(PARTIAL, number=6), now=1.0)
    assert (standing.done, standing.partial, standing.feasible) == (7, 2, 3)
    assert (standing.examples_saved, standing.seconds_saved) == (6000, 6.0)
    assert standing.hypervolume == front == Standing(record, 9, TRIALS).hypervolume
    event = standing.event()
    assert ", 2 given up at first look (6.00 s saved), 1 failed" in event.text
    assert "not evaluated 6,000 validation examples" in event.detail


def test_an_old_study_s_reference_is_of_its_trials() -> None:
    assert reference_point(RECORD, TRIALS) == {"accuracy": 0.0, "latency": 1.1 * 0.9}
    assert Standing(RECORD, 5, TRIALS).hypervolume > 0


def test_imported_trials_are_not_looked_back_at() -> None:
    rule = Flat(2)
    imported = {"origin": {"kind": "imported"}}
    standing = Standing(STUDY, 9, [trial(n, 0.9, 0.4 + n / 100, **imported) for n in range(5)])
    assert not rule.reached(standing.hypervolumes)
    standing.add(trial(7, 0.95, 0.3))
    standing.add(trial(8, 0.1, 0.3))
    assert not rule.reached(standing.hypervolumes)
    standing.add(trial(9, 0.1, 0.3))
    assert rule.reached(standing.hypervolumes)
