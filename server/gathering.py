"""Does together what is asked for at the same time: one statement or one transaction instead of many (group commit).

Whoever comes when next to nothing is under way begins at once, alone. Those who come meanwhile wait, and go together as soon as that
is over: an idle process pays nothing for this, and a busy one sends the fewer statements the busier it is. What takes long is
overtaken, so that one silent connection holds up nobody else.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from services.errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

SINGLES = 2  # so many begin alone, side by side: a second caller does not wait for the first
MOST = 100  # items that go together
OVERTAKE_SECONDS = 0.01  # where commits take longer than this, they overlap
OVERTAKERS = 8  # rounds under way at the same time when what began earlier does not end


@dataclass(slots=True, eq=False)
class _Asked(Generic[Item]):
    item: Item
    answer: asyncio.Future[Any]
    since: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class _Group(Generic[Item]):
    """What is asked for under one key."""

    key: Any
    waiting: deque[_Asked[Item]] = field(default_factory=deque)
    rounds: int = 0  # under way
    items: int = 0  # in them
    watch: asyncio.TimerHandle | None = None


class Gathering(Generic[Item, Result]):
    """Calls `do(key, items)`, which returns a result for each item. Only what has the same key goes together.

    `refused(error)` says whether an error means that something is wrong with one of the items; they are then tried again one by
    one, so that each caller gets what it would have got alone. Any other error is everybody's.
    """

    def __init__(
        self,
        do: Callable[[Any, Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        refused: Callable[[BaseException], bool],
        seconds: float,
    ) -> None:
        self._do, self._refused, self._seconds = do, refused, seconds
        self._groups: dict[Hashable, _Group[Item]] = {}
        self._rounds: set[asyncio.Task[None]] = set()

    @property
    def groups(self) -> int:
        """How many keys are being asked for."""
        return len(self._groups)

    async def ask(self, key: Hashable, item: Item) -> Result:
        """Return the result for *item*. Raises: Unavailable when it could not even begin within `seconds`; whatever `do` raises."""
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key)
        if group.items < SINGLES and not group.waiting:
            return await self._alone(group, item)
        loop = asyncio.get_running_loop()
        asked = _Asked(item, loop.create_future())
        group.waiting.append(asked)
        if group.watch is None:
            group.watch = loop.call_later(OVERTAKE_SECONDS, self._look_after, group)
        result: Result = await asked.answer
        return result

    async def _alone(self, group: _Group[Item], item: Item) -> Result:
        group.rounds += 1
        group.items += 1
        try:
            return (await self._do(group.key, [item]))[0]
        finally:
            self._leave(group, 1)

    def _leave(self, group: _Group[Item], items: int) -> None:
        group.rounds -= 1
        group.items -= items
        if group.rounds:
            return
        if group.waiting:
            self._begin(group)
        else:
            if group.watch is not None:
                group.watch.cancel()
            self._groups.pop(group.key, None)

    def _begin(self, group: _Group[Item]) -> None:
        """Let those who wait go together."""
        batch = [group.waiting.popleft() for _ in range(min(len(group.waiting), MOST))]
        group.rounds += 1
        group.items += len(batch)
        # In a context of its own: what it logs belongs to no request in particular.
        task = asyncio.get_running_loop().create_task(
            self._together(group, batch), context=contextvars.Context()
        )
        self._rounds.add(task)
        task.add_done_callback(self._rounds.discard)

    def _look_after(self, group: _Group[Item]) -> None:
        """Let those who have waited long overtake, or tell them that it will not come to anything."""
        group.watch = None
        now = time.monotonic()
        if group.waiting and now - group.waiting[0].since >= OVERTAKE_SECONDS and group.rounds < OVERTAKERS:
            self._begin(group)
        while group.waiting and now - group.waiting[0].since >= self._seconds:
            asked = group.waiting.popleft()
            if not asked.answer.done():
                asked.answer.set_exception(Unavailable("the database is not answering", retry_after=2))
        if group.waiting:
            group.watch = asyncio.get_running_loop().call_later(OVERTAKE_SECONDS, self._look_after, group)

    async def _together(self, group: _Group[Item], batch: Sequence[_Asked[Item]]) -> None:
        try:
            await self._answer(group.key, [asked for asked in batch if not asked.answer.done()])
        finally:
            for asked in batch:
                asked.answer.cancel()  # does nothing to one that is answered
            self._leave(group, len(batch))

    async def _answer(self, key: Hashable, batch: Sequence[_Asked[Item]]) -> None:
        try:
            results = await self._do(key, [asked.item for asked in batch]) if batch else []
        except Exception as exc:  # noqa: BLE001 - goes to whoever asked, and is handled there as if each had been alone
            if len(batch) > 1 and self._refused(exc):
                for asked in batch:
                    await self._answer(key, [asked])
                return
            for asked in batch:
                if not asked.answer.done():
                    asked.answer.set_exception(exc)
            return
        for asked, result in zip(batch, results, strict=True):
            if not asked.answer.done():
                asked.answer.set_result(result)
