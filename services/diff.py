"""What changed between two texts, word by word, in bounded time.

Lines are compared first, then the words inside the lines that differ. Both use Myers' shortest edit script with one budget of
steps for the whole comparison: where the budget is spent, what is left is shown as removed and added in full, never guessed.
Whatever happens, the equal and deleted segments spell the old text and the equal and inserted ones the new text.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Operation = Literal["equal", "delete", "insert"]

BUDGET = 400_000  # steps; about 0.2 s on one slow core
SIMILAR = 0.35  # below this share of common words a passage reads better as replaced in full

_WORD = re.compile(r"\w+|[^\w\s]|\s+")


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text that stands in both versions, only in the old one or only in the new one."""

    operation: Operation
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """A comparison; `complete` is False where the budget ran out and passages are shown as replaced in full."""

    segments: tuple[Segment, ...]
    words_added: int
    words_removed: int
    complete: bool

    @property
    def changed(self) -> bool:
        """Whether the texts differ at all."""
        return any(segment.operation != "equal" for segment in self.segments)


class _Budget:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def spend(self, steps: int) -> bool:
        self.left -= steps
        return self.left > 0


def compare(old: str, new: str, *, budget: int = BUDGET) -> Diff:
    """Return the segments that turn *old* into *new*. *budget* bounds the work; see `Diff.complete`."""
    steps = _Budget(budget)
    segments = tuple(_merged(_by_line(old, new, steps)))
    return Diff(
        segments=segments,
        words_added=sum(_words(s.text) for s in segments if s.operation == "insert"),
        words_removed=sum(_words(s.text) for s in segments if s.operation == "delete"),
        complete=steps.left > 0,
    )


def fold(segments: Iterable[Segment], *, lines: int = 3) -> list[tuple[Segment, int]]:
    """Shorten long unchanged passages to *lines* lines beside each change.

    Returns (segment, hidden): hidden is the number of unchanged lines left out right after that segment. The unchanged part
    of a line that holds a change is no line of its own, and always shown.
    """
    pieces = list(segments)
    folded: list[tuple[Segment, int]] = []
    for index, segment in enumerate(pieces):
        rows = segment.text.splitlines(keepends=True)
        head = lines + (not pieces[index - 1].text.endswith("\n")) if index > 0 else 0
        tail = lines + (not segment.text.endswith("\n")) if index < len(pieces) - 1 else 0
        hidden = len(rows) - head - tail
        if segment.operation != "equal" or hidden < 2:
            folded.append((segment, 0))
            continue
        folded.append((Segment("equal", "".join(rows[:head])), hidden))
        folded.append((Segment("equal", "".join(rows[len(rows) - tail :])), 0))
    return folded


def _by_line(old: str, new: str, budget: _Budget) -> Iterator[Segment]:
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    for matched, left, right in _blocks(before, after, budget):
        if matched:
            yield Segment("equal", "".join(left))
        else:
            yield from _by_word("".join(left), "".join(right), budget)


def _by_word(old: str, new: str, budget: _Budget) -> Iterator[Segment]:
    before, after = _WORD.findall(old), _WORD.findall(new)
    blocks = list(_blocks(before, after, budget)) if old and new else []
    common = sum(_inked(left) for matched, left, _ in blocks if matched)
    if not blocks or 2 * common < SIMILAR * (_inked(before) + _inked(after)):
        yield from _replaced(old, new)
        return
    for position, (matched, left, right) in enumerate(blocks):
        inside = 0 < position < len(blocks) - 1
        if matched and not (inside and _is_noise(left)):
            yield Segment("equal", "".join(left))
        else:
            yield from _replaced("".join(left), "".join(right))


def _inked(words: Sequence[str]) -> int:
    """How many of *words* are more than white space, which matches everywhere and says nothing."""
    return sum(not word.isspace() for word in words)


def _is_noise(words: Sequence[str]) -> bool:
    """Whether a common run between two changes is too small to help a reader: a comma, 'of', a lone space."""
    return len("".join(words).strip()) <= 3


def _replaced(old: str, new: str) -> Iterator[Segment]:
    if old:
        yield Segment("delete", old)
    if new:
        yield Segment("insert", new)


def _merged(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Join neighbours: between two equal segments at most one deletion, followed by at most one insertion."""
    deleted = inserted = equal = ""
    for segment in segments:
        if segment.operation == "equal":
            yield from _replaced(deleted, inserted)
            deleted = inserted = ""
            equal += segment.text
            continue
        if equal:
            yield Segment("equal", equal)
            equal = ""
        if segment.operation == "delete":
            deleted += segment.text
        else:
            inserted += segment.text
    yield from _replaced(deleted, inserted)
    if equal:
        yield Segment("equal", equal)


def _blocks(
    old: Sequence[str], new: Sequence[str], budget: _Budget
) -> Iterator[tuple[bool, Sequence[str], Sequence[str]]]:
    """Yield (matched, old part, new part) in order; matched parts are equal, the others differ from end to end."""
    head = _common_head(old, new)
    tail = _common_head(old[head:][::-1], new[head:][::-1])
    middle_old, middle_new = old[head : len(old) - tail], new[head : len(new) - tail]
    runs = _common_runs(middle_old, middle_new, budget)
    runs = [
        (0, 0, head),
        *((i + head, j + head, size) for i, j, size in runs),
        (len(old) - tail, len(new) - tail, tail),
    ]
    i = j = 0
    for start_old, start_new, size in runs:
        if i < start_old or j < start_new:
            yield False, old[i:start_old], new[j:start_new]
        if size:
            yield True, old[start_old : start_old + size], new[start_new : start_new + size]
        i, j = start_old + size, start_new + size


def _common_head(old: Sequence[str], new: Sequence[str]) -> int:
    size = 0
    for left, right in zip(old, new, strict=False):
        if left != right:
            break
        size += 1
    return size


def _common_runs(old: Sequence[str], new: Sequence[str], budget: _Budget) -> list[tuple[int, int, int]]:
    """Return the runs (old index, new index, size) kept by a shortest edit script; none when the budget is spent."""
    rounds = _search(old, new, budget) if old and new else None
    if rounds is None:
        return []
    runs: list[tuple[int, int, int]] = []
    x, y = len(old), len(new)
    for distance in range(len(rounds), -1, -1):
        from_x, from_y = _origin(rounds, distance, x - y)
        size = min(x - from_x, y - from_y)
        if size:
            runs.append((x - size, y - size, size))
        x, y = from_x, from_y
    return runs[::-1]


def _search(old: Sequence[str], new: Sequence[str], budget: _Budget) -> list[array[int]] | None:
    """Myers' greedy search: after each number of edits, how far into *old* every diagonal reaches. None: over budget."""
    limit = len(old) + len(new)
    reach = [0] * (
        2 * limit + 3
    )  # by diagonal (old index - new index); negative ones count from the end of the list
    rounds: list[array[int]] = []
    for distance in range(limit + 1):
        walked = 0
        for diagonal in range(-distance, distance + 1, 2):
            down = diagonal == -distance or (
                diagonal != distance and reach[diagonal - 1] < reach[diagonal + 1]
            )
            start = x = reach[diagonal + 1] if down else reach[diagonal - 1] + 1
            y = x - diagonal
            while x < len(old) and y < len(new) and old[x] == new[y]:
                x, y = x + 1, y + 1
            reach[diagonal] = x
            walked += 1 + x - start
            if x >= len(old) and y >= len(new):
                return rounds
            if walked > budget.left:
                break
        rounds.append(array("l", [reach[diagonal] for diagonal in range(-distance, distance + 1, 2)]))
        if not budget.spend(walked):
            return None
    return None  # never reached: len(old) + len(new) edits always do


def _origin(rounds: list[array[int]], distance: int, diagonal: int) -> tuple[int, int]:
    """The point (old, new) from which edit number *distance* on the best path to *diagonal* started."""
    if distance == 0:
        return 0, 0
    previous, index = rounds[distance - 1], (diagonal + distance) // 2
    down = diagonal == -distance or (diagonal != distance and previous[index - 1] < previous[index])
    x = previous[index if down else index - 1]
    return x, x - (diagonal + 1 if down else diagonal - 1)


def _words(text: str) -> int:
    return len(text.split())
