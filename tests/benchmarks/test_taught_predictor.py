import itertools
import json
import sys

import pytest
import taught_predictor


@pytest.mark.parametrize("goal", [0.9, 1.1])
def test_a_goal_is_reached_or_not(monkeypatch, tmp_path, capsys, goal):
    lines = ["arch,accuracy,flops"]
    for genes in itertools.product("012", repeat=4):
        steps = [int(gene) for gene in genes]
        lines.append(f"{''.join(genes)},{60 + sum(steps) ** 0.5 + steps[0]},{10 + sum(steps)}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines))
    words = ["--objective", "accuracy:max", "--objective", "flops:min", "--cost-known", "flops"]
    words += ["--reference", "accuracy=50", "--reference", "flops=1.05*max", "--most", "81"]
    monkeypatch.setattr(taught_predictor, "TREES", 20)
    monkeypatch.setattr(
        sys, "argv", ["taught_predictor.py", "--table", str(table), *words, "--goal", str(goal)]
    )
    assert taught_predictor.main() == 0
    found = json.loads(capsys.readouterr().out)
    # The dearest and the cheapest alone are not enough; more than the whole front is out of reach.
    assert found["evaluations"] is None if goal > 1 else 2 < found["evaluations"] < 81
    assert 0 < found["error"] < 1
