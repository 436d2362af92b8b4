import itertools
import json
import sys

import pytest
import taught_predictor


def run(monkeypatch, tmp_path, every, *more):
    """The script on each `every`th of 81 networks."""
    lines = ["arch,accuracy,flops"]
    for genes in itertools.product("012", repeat=4):
        steps = [int(gene) for gene in genes]
        lines.append(f"{''.join(genes)},{60 + sum(steps) ** 0.5 + steps[0]},{10 + sum(steps)}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join([lines[0], *lines[1::every]]))
    words = ["--objective", "accuracy:max", "--objective", "flops:min", "--cost-known", "flops"]
    words += ["--reference", "accuracy=50", "--reference", "flops=1.05*max", *more]
    monkeypatch.setattr(taught_predictor, "TREES", 20)
    monkeypatch.setattr(sys, "argv", ["taught_predictor.py", "--table", str(table), *words])
    return taught_predictor.main()


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("goal", [0.9, 1.1])
def test_a_goal_is_reached_or_not(monkeypatch, tmp_path, capsys, goal, every):
    assert run(monkeypatch, tmp_path, every, "--goal", str(goal), "--most", "81") == 0
    found = json.loads(capsys.readouterr().out)
    # The dearest and the cheapest alone are not enough; more than the whole front is out of reach.
    assert found["evaluations"] is None if goal > 1 else 2 < found["evaluations"] < 81
    assert 0 < found["error"] < 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--arch", "genes"], "no column 'genes'"),
        (["--cost-known", "accuracy"], "one objective is predicted"),
    ],
)
def test_what_makes_no_sense_is_refused(monkeypatch, tmp_path, capsys, more, message):
    assert run(monkeypatch, tmp_path, 1, "--goal", "0.9", *more) == 2
    assert message in capsys.readouterr().err
