"""Progress as it reaches a log, and a terminal."""

from __future__ import annotations

import pytest

from nas.events import Event
from nas.report.progress import progress

NOTE = Event("note", "[bold]what is said")


def test_a_log_gets_every_note_and_a_line_at_each_tenth(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    with progress() as listener:
        listener(NOTE)
        for done in range(101):
            listener(Event("search", f"trial {done}", done, 100, ("a detail",)))
        listener(NOTE)
    out, err = capsys.readouterr()
    first, *tenths, last = err.splitlines()
    assert out == ""
    assert first == last == NOTE.text
    assert tenths == [f"search {10 * i}% trial {10 * i}" for i in range(11)]


def test_a_terminal_keeps_the_notes_and_sees_bars_with_details_meanwhile(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with progress() as listener:
        listener(NOTE)
        listener(Event("search", "trial 3", 3, 10, ("best of all",)))
        listener(Event("note", "the end"))
    out, err = capsys.readouterr()
    assert out == ""
    assert NOTE.text in err
    assert err.index("trial 3") < err.index("best of all")
    assert "30%" in err
    assert "best of all" not in err[err.rindex("\x1b[2K") :]  # what is left behind is wiped
