"""The overhead benchmark on a few trials: every number of trials has its figures."""

import json
import sys

import engine_overhead
import pytest


def run(monkeypatch, *given):
    monkeypatch.setattr(sys, "argv", ["engine_overhead.py", *given])
    return engine_overhead.main()


def test_every_sampler_has_figures_at_every_number_of_trials(monkeypatch, capsys):
    assert run(monkeypatch, "--trials", "1,3", "--samplers", "random,tpe") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["evaluation_s"] > 0
    for sampler in ("random", "tpe"):
        assert list(found[sampler]) == ["1", "3"]
        assert all(min(figures.values()) >= 0 for figures in found[sampler].values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--trials", "many"), "whole numbers"),
        (("--trials", "0"), "whole numbers"),
        (("--samplers", "guide"), "'guided'"),
        (("--target", "a1000"), "a100"),
    ],
)
def test_what_makes_no_sense_is_refused(monkeypatch, capsys, given, message):
    assert run(monkeypatch, *given) == 2
    assert message in capsys.readouterr().err
