"""The README's commands are the ones that are tested, and name only what exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_two_commands_stand_as_blocks_of_their_own() -> None:
    search = "nas search --space vit --target a100 --budget 5ms"
    assert f"\n    pip install -c constraints.txt -e . && {search}\n" in README
    test = "pytest -n 2 --dist worksteal"
    assert f"\n    pip install -c constraints.txt -e '.[test]' && {test}\n" in README


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"`nas ([a-z]+)", README))))
def test_every_verb_exists(verb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", verb, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_every_dependency_has_a_tested_version() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]
    names = {re.split(r"[\[<>=~]", w)[0].lower() for w in wanted} - {"frontier-nas"}
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").open()}
    assert sorted(names - pinned) == []


def test_the_api_of_the_readme_is_there_whatever_was_imported_before() -> None:
    code = (
        "import nas.service, nas.engine.loop, nas\n"
        "assert callable(nas.search) and callable(nas.open_study) and callable(nas.load_subnet)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
