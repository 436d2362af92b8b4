"""Data sets by name: known, unknown, and of another shape."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nas.data import list_datasets, load_dataset, register_dataset
from nas.data.digits import make_digits
from nas.data.registry import _LOADERS, full_name
from nas.errors import NotFoundError, UsageError


def test_built_in_data_sets_are_listed_with_a_line_each() -> None:
    known = list_datasets()
    assert {"digits", "digits-hard", "pydoc", "vowels"} <= known.keys()
    assert all(known.values())


def test_unknown_name_proposes_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="digits-hard"):
        load_dataset("digit-hard")


def test_path_that_is_no_folder() -> None:
    with pytest.raises(NotFoundError, match="no file or folder"):
        load_dataset("./nowhere/at/all")


def test_a_path_is_named_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_bytes(bytes(range(32, 127)) * 2_000)
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert full_name("notes.txt") == str(tmp_path / "notes.txt")
    assert full_name("hf:./digits") == f"hf:{tmp_path / 'digits'}"
    for name in ("digits", "hf:cifar10", "nowhere", ""):
        assert full_name(name) == name  # a data set's name comes before a path's
    assert load_dataset("notes.txt", (64,), "tokens").name == str(tmp_path / "notes.txt")


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UsageError, match=r"1x8x8.*3x224x224"):
        load_dataset("digits", (3, 224, 224))


def test_a_decorated_loader_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.data.registry._LOADERS", dict(_LOADERS))

    @register_dataset("mine")
    def mine() -> object:
        """My own."""
        return make_digits("mine", None)

    assert list_datasets()["mine"] == "My own."
    assert load_dataset("mine").name == "mine"


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, nas.data, nas.training; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
