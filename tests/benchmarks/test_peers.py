"""Searches of other packages: what they are told, and that they search where they are installed."""

import importlib.util
import itertools
import json
import sys

import numpy as np
import peers
import pytest
import search_tables
from known_problems import read_table

from nas.errors import UsageError


@pytest.fixture
def table(tmp_path):
    """256 networks of 8 genes with two options each."""
    path = tmp_path / "table.csv"
    lines = []
    for g in itertools.product(range(2), repeat=8):
        accuracy = 60 + 4 * sum(g) + g[0] * g[1]
        latency = 10 + sum(i * gene for i, gene in enumerate(g))
        lines.append(f"{''.join(map(str, g))},{accuracy},{latency}")
    path.write_text("\n".join(["arch,acc,ms", *lines]))
    return path


def problem(path, *more):
    return read_table(path, "arch", ["acc:max", "ms:min"], ["acc=50", "ms=1.05*max"], ["ms"])


def test_only_new_networks_are_evaluations(table):
    answers = peers.Answers(problem(table), 2)
    first = answers(np.zeros(8, dtype=int))
    np.testing.assert_array_equal(first, [-60, 10])  # to be minimised
    np.testing.assert_array_equal(answers(np.zeros(8)), first)
    np.testing.assert_array_equal(answers(np.ones(8)), [-93, 38])
    with pytest.raises(peers._Enough):
        answers(np.zeros(8))
    np.testing.assert_array_equal(answers.points(), [[60, 10], [93, 38]])


def test_a_search_that_repeats_itself_ends(table):
    answers = peers.Answers(problem(table), 3)
    for _ in range(3 * peers.PATIENCE):
        answers(np.zeros(8))
    with pytest.raises(peers._Enough):
        answers(np.ones(8))


def test_a_table_with_gaps_is_refused(table):
    table.write_text("\n".join(table.read_text().splitlines()[:200]))
    with pytest.raises(UsageError, match="without gaps"):
        peers.Answers(problem(table), 3)


def run(monkeypatch, table, *more):
    given = ["search_tables.py", "--table", str(table), "--objective", "acc:max"]
    given += ["--objective", "ms:min", "--reference", "acc=50", "--reference", "ms=1.05*max"]
    monkeypatch.setattr(sys, "argv", [*given, "--evaluations", "30,60", "--seeds", "2", *more])
    return search_tables.main()


@pytest.mark.parametrize("name", list(peers.PEERS))
def test_a_peer_searches_where_it_is_installed(monkeypatch, capsys, table, name):
    if importlib.util.find_spec(peers.PEERS[name][0]) is None:
        pytest.skip("its package is not installed")
    assert run(monkeypatch, table, "--samplers", f"{name},random") == 0
    shares = json.loads(capsys.readouterr().out)
    assert 0.5 < shares[name]["30"] <= shares[name]["60"] <= 1


def test_a_peer_that_is_not_installed_is_refused(monkeypatch, capsys, table):
    monkeypatch.setitem(peers.PEERS, "absent", ("no_such_package", peers.dynast_linas))
    assert run(monkeypatch, table, "--samplers", "random,absent") == 2
    assert "needs the package no-such-package" in capsys.readouterr().err
