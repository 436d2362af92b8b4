"""Text in columns, for a terminal or a file of a given width.

Rich has tables too; they take a millisecond a row, which a study of 100,000 trials has no time for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len

GAP = "  "
LEAST = 8
"""Of a folded column. Lines are longer than asked for if that leaves no room for the figures."""


@dataclass(frozen=True)
class Column:
    """A title, which may have several lines, over its cells.

    Attributes:
        figures: aligned to the right and never folded; words are aligned to the left, and folded
            where they are too long.
    """

    title: str
    cells: Sequence[str]
    figures: bool = False


@dataclass(frozen=True)
class Table:
    """Columns with equally many cells."""

    columns: Sequence[Column]

    def lines(self, width: int) -> tuple[list[str], list[str]]:
        """Those of the titles and those of the cells, for so many columns of a terminal."""
        widths = self._widths(width)
        titles = [_folded(c.title, w) for c, w in zip(self.columns, widths, strict=True)]
        height = max(map(len, titles), default=0)
        level = [[""] * (height - len(lines)) + lines for lines in titles]
        head = [self._line(line, widths) for line in zip(*level, strict=True)]
        body = []
        for row in zip(*(column.cells for column in self.columns), strict=True):
            if all(map(_fits, row, widths)):
                body.append(self._line(row, widths))
                continue
            cells = [_folded(text, w) for text, w in zip(row, widths, strict=True)]
            body += [self._line(line, widths) for line in zip_longest(*cells, fillvalue="")]
        return head, body

    def _line(self, texts: Sequence[str], widths: Sequence[int]) -> str:
        aligned = []
        for column, text, width in zip(self.columns, texts, widths, strict=True):
            space = " " * (width - _width(text))
            aligned.append(space + text if column.figures else text + space)
        return GAP.join(aligned).rstrip()

    def _widths(self, width: int) -> list[int]:
        """Of each column: what it needs, or its share of what the narrower ones leave."""
        widths = [
            max(_width(line) for text in (c.title, *c.cells) for line in text.split("\n"))
            for c in self.columns
        ]
        words = [i for i, column in enumerate(self.columns) if not column.figures]
        figures = sum(w for i, w in enumerate(widths) if i not in words)
        room = width - len(GAP) * (len(widths) - 1) - figures
        for n, i in enumerate(sorted(words, key=lambda i: widths[i])):
            widths[i] = min(widths[i], max(room // (len(words) - n), LEAST))
            room -= widths[i]
        return widths


def _width(text: str) -> int:
    """Columns of a terminal; some characters take two."""
    return len(text) if text.isascii() else cell_len(text)


def _fits(text: str, width: int) -> bool:
    return _width(text) <= width and "\n" not in text


def _folded(text: str, width: int) -> list[str]:
    """A text in lines of at most so many columns, broken at spaces if there are any."""
    if _fits(text, width):
        return [text]
    from rich.console import Console
    from rich.text import Text

    lines = Text(text).wrap(Console(), width, overflow="fold")
    return [line.plain.rstrip() for line in lines]
