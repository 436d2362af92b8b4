import json

import pytest
import two_fidelities


def test_both_ways_are_judged_alike(capsys, monkeypatch):
    given = ["--samplers", "random", "--trials", "12", "--seeds", "1", "--first-look", "0.25"]
    monkeypatch.setattr("sys.argv", ["two_fidelities", *given])
    assert two_fidelities.main() == 0
    found = json.loads(capsys.readouterr().out)["random"]
    whole, looked = found["whole"], found["first look 0.25"]
    assert 0.3 < whole["hypervolume"] < 1
    assert looked["hypervolume"] == pytest.approx(whole["hypervolume"], rel=0.02)
    assert whole["examples_share"] == 1
    assert looked["given_up"] > 0
    assert looked["examples_share"] == pytest.approx(1 - 0.75 * looked["given_up"] / 12, abs=1e-3)
    assert looked["would_be_on_front"] == 0
    assert looked["error_in_standard_errors"] < 4


def test_what_cannot_be_run_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["two_fidelities", "--samplers", "gided"])
    assert two_fidelities.main() == 2
    assert "guided" in capsys.readouterr().err
