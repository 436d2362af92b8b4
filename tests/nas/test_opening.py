"""Which study a search continues."""

from __future__ import annotations

from pathlib import Path

import pytest

import search_spaces
from nas.errors import StorageError
from nas.opening import continued_study
from nas.request import SearchRequest
from nas.storage.database import open_database
from nas.storage.records import StudyRecord
from nas.storage.studies import Studies
from nas.training.recipe_text import recipe_for, recipe_text


def test_a_study_whose_profile_is_gone_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    space = search_spaces.get("vit")
    recipe = recipe_text(recipe_for(space, None))
    request = SearchRequest(target="a100", data="digits-hard", recipe=recipe)
    assert continued_study("known", request, space, url) == (None, {})
    kept = {"asked": request.to_json(), "targets": {"a100": {"profile": "gone"}}}
    with open_database(url) as database:
        Studies(database).create_study(
            StudyRecord(
                "known", "vit", space.preset, "a100", "cudagraph", 1, "digits-hard", ["accuracy"],
                [], 0, "guided", kept, "", "", "0",
            )
        )  # fmt: skip
    assert continued_study("new", request, space, url) == (None, {})
    with pytest.raises(StorageError, match="'known' was begun with a device profile that"):
        continued_study("known", request, space, url)
