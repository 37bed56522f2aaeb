"""A parsed document to chunks: stretches that belong together and that the embedding model reads whole.

A chunk never crosses a heading. Within a section the text is divided evenly, at the best border that fits: between blocks,
else between lines, sentences, words, and only then inside a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from services import wordpiece
from services.embeddings import MARKS, MAX_PIECES
from services.parsing import Block, Parsed, parse, readable

CONTEXT_PIECES = 48  # of title and headings, repeated in every chunk so that it stands alone
CHARACTERS_PER_PIECE = (
    8  # twice what prose has; a longer "word" is one unknown piece to the model, however long it is
)
Span = tuple[int, int]  # start and end in the document's text

# What ends a unit, best first. The last one ends a unit at each character, for text without any spaces.
_BORDERS = tuple(
    re.compile(border) for border in (r"\n+", r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])", r"\s+", r"(?<=.)")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One stretch of a document. `text` is `document.text[start:end]` unchanged; `search_text` is what is embedded and indexed."""

    ordinal: int
    start: int
    end: int
    headings: tuple[str, ...]
    text: str
    search_text: str
    pieces: int


def cut(source: str, mime: str, title: str) -> list[Chunk]:
    """Return the chunks of a document as it was handed in. Raises: Invalid.

    For a worker process: what somebody has uploaded may crash a parser or keep it busy for ever.
    """
    return chunk(parse(source, mime), title=title)


def chunk(parsed: Parsed, *, title: str, budget: int = MAX_PIECES) -> list[Chunk]:
    """Divide *parsed* into chunks whose search text has at most *budget* word pieces, the model's marks included."""
    chunks: list[Chunk] = []
    for (_, path), blocks in groupby(parsed.blocks, key=lambda block: (block.section, block.headings)):
        headings = path[1:] if path[:1] == (title,) else path
        context = _context(title, headings)
        room = budget - MARKS - _size(context)
        for start, end in _divide(parsed.text, blocks, room):
            text = parsed.text[start:end]
            search_text = f"{context}\n{readable(text, parsed.mime)}"
            chunks.append(
                Chunk(
                    ordinal=len(chunks),
                    start=start,
                    end=end,
                    headings=headings,
                    text=text,
                    search_text=search_text,
                    pieces=wordpiece.minilm().count(search_text) + MARKS,
                )
            )
    return chunks


def _context(title: str, headings: tuple[str, ...]) -> str:
    """Return title and headings in one line, without repetition; of a line that is too long, its end."""
    words = ": ".join(dict.fromkeys((title, *headings))).split()
    while len(words) > 1 and _size(" ".join(words)) > CONTEXT_PIECES:
        words = words[max(1, len(words) // 8) :]
    line = " ".join(words)
    return line if _size(line) <= CONTEXT_PIECES else line[:CONTEXT_PIECES]


def _divide(text: str, blocks: Iterable[Block], room: int) -> Iterator[Span]:
    """Yield the stretches of one section, each at most *room* pieces and all of about the same size."""
    units = [unit for block in blocks for unit in _units(text, (block.start, block.end), room)]
    sizes = [_size(text[start:end]) for start, end in units]
    target = math.ceil(sum(sizes) / math.ceil(max(1, sum(sizes)) / room))
    first, size = 0, 0
    for position, added in enumerate(sizes):
        if size and (size + added > room or size >= target):
            yield units[first][0], units[position - 1][1]
            first, size = position, 0
        size += added
    if units:
        yield units[first][0], units[-1][1]


def _units(text: str, span: Span, room: int, border: int = 0) -> Iterator[Span]:
    """Yield the parts of *span* that fit into *room*, divided at the best border that makes them fit."""
    if _size(text[slice(*span)]) <= room:
        yield span
        return
    for part in _split(text, span, _BORDERS[border]):
        yield from _units(text, part, room, border + 1)


def _split(text: str, span: Span, border: re.Pattern[str]) -> Iterator[Span]:
    start, end = span
    for match in border.finditer(text, start, end):
        if match.start() > start:
            yield start, match.start()
        start = match.end()
    if start < end:
        yield start, end


def _size(text: str) -> int:
    """Return what *text* takes of a budget, in word pieces; never less than its length allows."""
    return max(wordpiece.minilm().count(text), len(text) // CHARACTERS_PER_PIECE)
