"""Networks too large for an ONNX file are refused before the search, and before a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import search_spaces
from nas.errors import ExportError
from nas.export.onnx import export_onnx
from nas.request import RunOptions, SearchRequest
from nas.service import search


def test_too_large_networks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"some text of many lines\n" * 1_000)
    request = SearchRequest("matlm", "a100", preset="1b", data=str(tmp_path))
    storage = f"sqlite:///{tmp_path / 'nas.db'}"
    with pytest.raises(ExportError, match=r"matlm \(1b\) has 3\.6 GiB") as caught:
        search(request, RunOptions(storage=storage, out=tmp_path))
    assert "--no-export" in caught.value.hint
    assert not (tmp_path / "nas.db").exists()

    space = search_spaces.get("matlm", "1b")
    with torch.device("meta"):  # of no weights
        network = space.build(space.largest())
    with pytest.raises(ExportError, match=r"this network has 4\.6 GiB"):
        export_onnx(network, space.example(space.largest()))
