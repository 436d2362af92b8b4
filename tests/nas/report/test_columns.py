"""Columns of text against Rich's table, and when there is too little room."""

from __future__ import annotations

import io

import rich.table
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from nas.report.columns import LEAST, Column, Table

WORDS = st.text(st.sampled_from("ab-表 "), max_size=40).map(str.strip)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    rows = draw(st.integers(0, 4))
    columns = [
        Column(
            draw(WORDS), draw(st.lists(WORDS, min_size=rows, max_size=rows)), draw(st.booleans())
        )
        for _ in range(draw(st.integers(1, 4)))
    ]
    return Table(columns)


@given(tables())
def test_with_room_it_is_the_table_that_rich_prints(table: Table) -> None:
    theirs = rich.table.Table(box=None, pad_edge=False, padding=(0, 1))
    for column in table.columns:
        theirs.add_column(column.title, justify="right" if column.figures else "left")
    for row in zip(*(column.cells for column in table.columns), strict=True):
        theirs.add_row(*row)
    out = io.StringIO()
    Console(width=400, file=out, markup=False, emoji=False).print(theirs)
    head, body = table.lines(400)
    assert head + body == [line.rstrip() for line in out.getvalue().splitlines()]


@given(tables(), st.integers(1, 80))
def test_words_are_folded_to_the_width_and_none_is_lost(table: Table, width: int) -> None:
    head, body = table.lines(width)
    figures = [c for c in table.columns if c.figures]
    words = len(table.columns) - len(figures)
    needed = sum(max(map(cell_len, (c.title, *c.cells))) for c in figures)
    needed += 2 * (len(table.columns) - 1) + LEAST * words
    assert max(map(cell_len, head + body), default=0) <= max(width, needed)
    for texts, lines in (
        ([c.title for c in table.columns], head),
        ([text for c in table.columns for text in c.cells], body),
    ):
        assert sorted("".join(texts).replace(" ", "")) == sorted("".join(lines).replace(" ", ""))


def test_the_widest_gives_way() -> None:
    table = Table(
        [Column("n", ["100"], True), Column("name", ["vit"]), Column("what", ["ab " * 9])]
    )
    head, body = table.lines(20)
    assert head == ["  n  name  what"]
    assert body == ["100  vit   ab ab ab", *["           ab ab ab"] * 2]


def test_titles_end_at_the_bottom() -> None:
    head, _ = Table([Column("trial", ["1"], True), Column("a100\nlatency", ["5 ms"], True)]).lines(
        80
    )
    assert head == ["          a100", "trial  latency"]
