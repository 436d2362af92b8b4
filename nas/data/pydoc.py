"""The language reference of Python: the English text that `help()` shows, split by section.

The text is that of `pydoc_data.topics` in CPython 3.11, bundled with its licence
(`bundled/LICENSE-CPython.txt`). A copy, not the running interpreter's own: that differs between
versions of Python, so that a bit per byte of one would not compare to that of another, and some
distributions leave it out.

The topics repeat each other: `compound` holds all of `with`. They are cut at their headings, a
repeated paragraph is kept once, and a section's title decides its part.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from functools import cache
from pathlib import Path

from nas.data.dataset import Dataset
from nas.data.registry import register_dataset
from nas.data.text import PARTS, part_of, text_dataset, window_length

BUNDLED = Path(__file__).parent / "bundled" / "pydoc-3.11.json.gz"
VERSION = 1  # of the code that cuts and splits
SEED = 2  # of eight tried, the one that shares the bytes out most evenly
SHORT = 40  # characters; such a paragraph may stand in several sections
# A line, underlined by one of the characters of reStructuredText's headings.
_HEADING = re.compile(r"^(\S.*)\n([*=\-~])\2{2,}$", re.MULTILINE)


def sections(topics: dict[str, str]) -> list[tuple[str, str]]:
    """(title, text) of every section, in the order of the topics' names.

    A paragraph of `SHORT` characters and more that stood in an earlier section is left out, and
    so is a section of which nothing is left but its heading.
    """
    seen: set[str] = set()
    found = []
    for topic in sorted(topics):
        text = topics[topic]
        headings = list(_HEADING.finditer(text))
        ends = [heading.start() for heading in headings[1:]] + [len(text)]
        for heading, end in zip(headings, ends, strict=True):
            kept = []
            for paragraph in re.split(r"\n\s*\n", text[heading.end() : end].strip("\n")):
                plain = " ".join(paragraph.split())
                if len(plain) < SHORT or plain not in seen:
                    seen.add(plain)
                    kept.append(paragraph.rstrip())
            if any(len(paragraph) >= SHORT for paragraph in kept):
                found.append((heading[1], "\n\n".join([heading[0], *kept])))
    return found


def split(found: list[tuple[str, str]], seed: int) -> dict[str, bytes]:
    """The sections of each part in their order, UTF-8; those of one title stay together."""
    joined: dict[str, list[str]] = {part: [] for part in PARTS}
    for title, text in found:
        joined[part_of(title, seed)].append(text)
    return {part: "\n\n\n".join(texts).encode() for part, texts in joined.items()}


@cache
def _texts() -> tuple[dict[str, bytes], str]:
    """The bundled text by part, and its hash."""
    content = gzip.decompress(BUNDLED.read_bytes())
    texts = split(sections(json.loads(content)), SEED)
    return texts, hashlib.sha256(content).hexdigest()


@register_dataset("pydoc", kind="tokens")
def pydoc(input_shape: tuple[int, ...] | None = None) -> Dataset:
    """Python's language reference in English, byte by byte: the text behind `help()`."""
    texts, content = _texts()
    shaped_by = {"name": "pydoc", "version": VERSION, "seed": SEED, "content": content}
    return text_dataset("pydoc", texts, window_length(input_shape), shaped_by)


def main() -> None:
    """Write the bundled file anew, from the interpreter that runs this."""
    from pydoc_data.topics import topics

    content = json.dumps(topics, sort_keys=True, ensure_ascii=False, indent=0)
    BUNDLED.write_bytes(gzip.compress(content.encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
