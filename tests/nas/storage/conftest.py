"""Records to store, and an open repository in each kind of database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nas.storage.database import Database, open_database
from nas.storage.records import StudyRecord, TrialRecord
from nas.storage.studies import Studies


def make_study(name: str = "vit-a100-5ms", **changes: Any) -> StudyRecord:
    """A study as a first search would open it."""
    fields: dict[str, Any] = {
        "space": "vit",
        "preset": "digits",
        "target": "a100",
        "runtime": "cuda-graph",
        "batch_size": 1,
        "data": "digits-hard",
        "objectives": [{"name": "accuracy", "goal": "max"}, {"name": "latency_ms", "goal": "min"}],
        "budgets": ["latency_ms<=5"],
        "seed": 0,
        "sampler": "guided",
        "request": {"trials": 100},
        "supernet_fingerprint": "f" * 16,
        "supernet_digest": "d" * 64,
        "version": "0.1.0",
    }
    return StudyRecord(name=name, **(fields | changes))


def make_trial(number: int = 0, **changes: Any) -> TrialRecord:
    """A complete trial whose key follows from its number."""
    fields: dict[str, Any] = {
        "key": f"key-{number}",
        "genome": (number, 0, 3),
        "architecture": {"depth": 6, "heads": [1, 2]},
        "policy": {"layers.0.qkv": "int8"},
        "quality": 0.9,
        "latency_ms": 0.25,
        "feasible": True,
    }
    return TrialRecord(number=number, **(fields | changes))


@pytest.fixture
def new_study() -> Callable[..., StudyRecord]:
    """Make a study record."""
    return make_study


@pytest.fixture
def new_trial() -> Callable[..., TrialRecord]:
    """Make a trial record."""
    return make_trial


@pytest.fixture
def database(storage_url: str) -> Iterator[Database]:
    """A fresh, open database."""
    with open_database(storage_url) as opened:
        yield opened


@pytest.fixture
def studies(database: Database) -> Studies:
    """A repository over a fresh database."""
    return Studies(database)
