import json

import judging
import numpy as np
import pytest

from hw_profiles.errors import ProfileError

MEASURED = np.array([1.0, 2.0, 4.0, 8.0])
PREDICTED = np.array([1.1, 2.0, 3.0, 8.4])  # off by 10, 0, 25 and 5 percent
PATHS = ["--train", "a.csv", "b.csv", "--test", "c.csv"]


def test_figures_are_in_percent_and_the_coverage_is_a_share():
    made = judging.figures([1.0, 2.0, 4.0, 8.0], [1.0, 2.1, 3.0, 8.8], [1.1, 2.2, 3.3, 9.9])
    assert made["mape"] == pytest.approx((0 + 5 + 25 + 10) / 4)
    assert made["median_error"] == pytest.approx(7.5)
    assert (made["within_5"], made["within_10"]) == (50.0, 75.0)
    assert (made["kendall_tau"], made["spearman"]) == (1.0, 1.0)
    assert made["coverage"] == 0.75
    assert made["bound_width"] == pytest.approx(100 * (0.1 + 0.1 / 2.1 + 0.1 + 1.1 / 8.8) / 4, 1e-3)
    assert made["rows"] == 4


def test_an_error_of_the_limit_is_within_it():
    assert judging.within(MEASURED, PREDICTED, 5) == 50.0
    assert judging.within(MEASURED, PREDICTED, 10) == 75.0


def test_rank_correlation_ignores_scale_and_is_zero_for_a_constant():
    assert judging.spearman(MEASURED, 10 * MEASURED) == 1.0
    assert judging.spearman(MEASURED, -PREDICTED) == -1.0
    assert judging.spearman(MEASURED, np.ones(4)) == 0.0


def test_a_bound_s_width_is_in_percent_of_the_prediction():
    assert judging.bound_width(PREDICTED, 1.3 * PREDICTED) == pytest.approx(30.0)
    assert judging.bound_width([1.0, 2.0], [1.1, 2.6]) == pytest.approx(20.0)


def test_one_json_object_on_stdout(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["judge", *PATHS])
    parser = judging.arguments("Judge.\n\nMore.")
    assert judging.run(lambda given: {"rows": len(given.train)}, parser) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 2}


def test_a_file_at_fault_is_one_line_and_code_2(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["judge", *PATHS, "--spec", "s.yaml"])

    def judge(given):
        raise ProfileError(f"{given.spec} is no sheet.", "Give another.")

    assert judging.run(judge, judging.arguments("Judge.", spec=True)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "s.yaml is no sheet. Give another.\n"
