"""The storage benchmark on few trials: its figures are there, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import storage_scale

from nas.storage.database import open_database
from nas.storage.studies import Studies


@pytest.mark.parametrize("targets", [1, 2])
def test_figures_of_a_small_study(tmp_path: Path, targets: int) -> None:
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    found = storage_scale.measure(url, 300, targets)
    assert found["storage"] == "sqlite"
    assert {"open_s", "pareto_s", "resume_s", "commit_ms"} <= found.keys()
    with open_database(url) as database:
        assert Studies(database).list_studies() == []
