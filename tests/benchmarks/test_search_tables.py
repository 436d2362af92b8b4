import itertools
import json
import sys

import pytest
import search_tables


@pytest.fixture
def table(tmp_path):
    """Networks of 4 genes, accuracy 60 + what each gene adds; `sparse.csv` has a third of them."""
    lines = []
    for genes in itertools.product("abc", "01", "012", "xy"):
        steps = ["abc".index(genes[0]), int(genes[1]), int(genes[2]), "xy".index(genes[3])]
        accuracy = 60 + 7 * steps[0] ** 0.5 + 5 * steps[1] + 3.3 * steps[2] ** 0.7 + steps[3]
        cost = 10 + 9 * steps[0] + 8 * steps[1] + 5 * steps[2] + 4 * steps[3]
        lines.append(f"{''.join(genes)},{accuracy},{cost}")
    for name, kept in (("full.csv", lines), ("sparse.csv", lines[::3])):
        (tmp_path / name).write_text("\n".join(["arch,accuracy,flops", *kept]))
    return tmp_path


def run(monkeypatch, path, *more):
    options = ["--objective", "accuracy:max", "--objective", "flops:min", "--cost-known", "flops"]
    options += ["--reference", "accuracy=50", "--reference", "flops=1.05*max", *more]
    monkeypatch.setattr(sys, "argv", ["search_tables.py", "--table", str(path), *options])
    return search_tables.main()


@pytest.mark.parametrize(("name", "size"), [("full.csv", 36), ("sparse.csv", 12)])
def test_shares_grow_to_one(monkeypatch, table, capsys, name, size):
    more = ["--evaluations", f"6,{size}", "--seeds", "2", "--samplers", "guided,random"]
    assert run(monkeypatch, table / name, *more) == 0
    shares = json.loads(capsys.readouterr().out)
    assert list(shares) == ["guided", "random"]
    for share in shares.values():
        assert 0 < share["6"] <= share[str(size)] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--samplers", "guide"], "'guided'"),
        (["--arch", "genes"], "no column 'genes'"),
        (["--reference", "loss=1"], "those of the objectives"),
        (["--reference", "flops=2*mean"], "no reference"),
        (["--objective", "accuracy:up"], "NAME:max"),
    ],
)
def test_what_makes_no_sense_is_refused(monkeypatch, table, capsys, more, message):
    assert run(monkeypatch, table / "full.csv", *more) == 2
    assert message in capsys.readouterr().err
