"""Entry points of packages that are really installed: in a folder of the module path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hw_profiles.errors import PluginError
from hw_profiles.plugins import load_plugins

PLUGIN = """
from pathlib import Path

from hw_profiles.registry import shipped
from nas.data.registry import register_dataset
from nas.engine.samplers import register_sampler
from nas.quantization.arithmetic import register_arithmetic
from nas.quantization.schemes import Scheme, register_scheme
from nas.training.recipe import register_recipe
from nas.training.recipes.sandwich import Sandwich
from search_spaces.space import register_space

register_space("plugged", ("one",), "a space")(lambda preset: None)
register_arithmetic(register_scheme(Scheme("fp32", "plugged")))(lambda batch_size: None)
register_sampler("plugged", "a sampler")(lambda problem, seed: None)
register_dataset("plugged")(lambda: None)
register_recipe("plugged", "a recipe")(type("Plugged", (Sandwich,), {}))


def device():
    return Path(__file__).with_name("device.json")
"""
LISTED = """
import json
from hw_profiles import registry
from nas.data import list_datasets
from nas.engine.samplers import list_samplers
from nas.quantization.arithmetic import register_arithmetic
from nas.quantization.schemes import runtimes
from nas.training.recipe import recipes
from search_spaces.space import names

lists = registry.shipped(), names(), runtimes(), list_samplers(), list_datasets(), recipes()
print(json.dumps([list(names) for names in lists]))
"""


def install(folder: Path, entry_points: str, module: str = "") -> None:
    """A package `plugged` with a module of that name."""
    (folder / "plugged.py").write_text(module)
    info = folder / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def beside(folder: Path) -> dict[str, str]:
    """The environment of a process that finds the packages in a folder too."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def test_each_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "[made.group]\none = plugged:ONE\nall = plugged\n", "ONE = object()")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = load_plugins("made.group")
    module = sys.modules.pop("plugged")
    assert found == {"one": module.ONE, "all": module}
    assert load_plugins("made.group") is found
    assert "plugged" not in sys.modules
    assert load_plugins("made.other") == {}


def test_names_of_the_program_s_own_stay_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "[shadow.group]\nvit = plugged:ONE\nnew = plugged:ONE\n", "ONE = object")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(load_plugins("shadow.group", {"vit": None}, called=True)) == ["new"]
    sys.modules.pop("plugged")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("gone", "No module named 'gone'"),
        ("plugged:gone", "module 'plugged' has no attribute 'gone'"),
        ("plugged", "division by zero"),
        ("plugged:one", "no file"),
    ],
)
def test_one_that_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, says: str
) -> None:
    module = "1 / 0" if entry == "plugged" else "def one():\n    raise OSError('no file')"
    install(tmp_path, f"[broken.group]\nmine = {entry}\n", module)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError) as caught:
        load_plugins("broken.group", called=True)
    sys.modules.pop("plugged", None)  # it was found, only what it should hold was not
    assert str(caught.value) == (
        f"plug-in mine of package plugged cannot be loaded: {says}. Update or uninstall it."
    )


def test_every_registry_is_open(tmp_path: Path) -> None:
    groups = ("spaces", "schemes", "samplers", "datasets", "recipes")
    entries = "".join(f"[nas.{group}]\nplugged = plugged\n" for group in groups)
    install(tmp_path, f"{entries}[nas.devices]\nplugged = plugged:device\n", PLUGIN)
    done = subprocess.run(
        [sys.executable, "-c", LISTED],
        capture_output=True,
        text=True,
        check=True,
        env=beside(tmp_path),
    )
    assert ["plugged" in names for names in json.loads(done.stdout)] == [True] * 6


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    install(tmp_path, "[nas.samplers]\nmine = gone\n")
    done = subprocess.run(
        [sys.executable, "-m", "cli", "samplers"],
        capture_output=True,
        text=True,
        check=False,
        env=beside(tmp_path),
    )
    assert done.returncode == 1
    assert not done.stdout
    assert (
        "plug-in mine of package plugged cannot be loaded: No module named 'gone'." in done.stderr
    )
    assert "Traceback" not in done.stderr
