"""Sheets of boards."""

from __future__ import annotations

from pathlib import Path

import pytest

import hw_profiles
from hw_profiles.boards import is_board, read_board
from hw_profiles.errors import ProfileError
from hw_profiles.gpus import read_device

SHEETS = sorted((Path(hw_profiles.__file__).parent / "sheets").glob("*.yaml"))


@pytest.mark.parametrize("path", SHEETS, ids=lambda path: path.stem)
def test_every_sheet_that_ships_is_read(path: Path) -> None:
    device = read_board(path).device if is_board(path) else read_device(path)
    assert device.memory_bytes
    assert device.bandwidth_bytes_per_s
    assert device.peak_flops


def _stm32() -> str:
    return next(path for path in SHEETS if path.stem == "stm32f746").read_text()


def test_a_microcontroller_keeps_weights_in_flash(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(_stm32())
    board = read_board(path)
    assert (board.device.memory_bytes, board.device.flash_bytes) == (320 * 2**10, 2**20)
    assert (board.device.kind, board.runtime.plans_buffers) == ("mcu", True)
    assert board.power_w is not None
    assert board.highest_w is not None
    assert board.power_w < board.highest_w


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("  mem_bw: 864e6", "  x: 1", "no mem_bw under board"),
        ("  name: STM32F746", "  x: 1", "no name under board"),
        ("name: STM32F746", "name: ''", "no name under board"),
        ("  threads: 1", "  cores: 2", "states cores twice"),
        ("kind: mcu", "kind: toaster", "kind is not 'toaster'"),
        ("runtime: cmsis-nn", "runtime: abacus", "unknown runtime 'abacus'"),
        ("mem_bw: 864e6", "mem_bw: -1", "no positive number"),
        ("mem_bw: 864e6", "mem_bw: nan", "no positive number"),
        ("mem_bw: 864e6", "mem_bw: 0.864", "mem_bw 0.864, which no device has.*in FLOP/s, B/s"),
        ("op_overhead: 20e-6", "op_overhead: 20", "op_overhead 20, which no device has"),
        ("threads: 1", "threads: 0.5", "threads 0.5, which no device has"),
        ("cores: 1", "cores: 0.5", "cores 0.5, which no device has"),
    ],
)
def test_a_broken_sheet_is_refused(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert before in _stm32()
    path = tmp_path / "board.yaml"
    path.write_text(_stm32().replace(before, after))
    with pytest.raises(ProfileError, match=said):
        read_board(path)
