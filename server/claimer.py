"""Looks for work and claims it: as much as there is room for, from every queue that has some."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from uuid import UUID

import asyncpg

from server.database import Database
from server.lease import Lease
from server.supervisor import Beat
from services.task_context import Run
from sql import SQL

log = logging.getLogger(__name__)

BATCH = 500
CONTENDED_SECONDS = (0.002, 0.010)
FLOOR_SECONDS = 0.25  # what comes in below a floor waits for it no longer than this
SHORTEST_PAUSE_SECONDS = 0.005
MOST_HINTED = 3  # queues that are claimed from without asking which are ready
_in_order = itemgetter("priority", "run_at", "id")
_fields_of_run = itemgetter(*Run._fields)

Floor = tuple[int, datetime, UUID]


class Claimer:
    """The claim loop of an executor. `room()` says how many slots are free, `start(run)` takes what was claimed.

    `on_claimed` is told of each claim: the queue, and how many seconds each task had been due.

    The last task of a full batch is kept as the queue's floor for a moment: the next claim begins there instead of at the dead index
    entries before it, which an open snapshot elsewhere keeps from being cleared away.
    """

    def __init__(
        self,
        database: Database,
        lease: Lease,
        *,
        poll: tuple[timedelta, timedelta],
        room: Callable[[], int],
        start: Callable[[Run], None],
        dice: random.Random,
        on_claimed: Callable[[str, Sequence[float]], None] = lambda queue, waits: None,
    ) -> None:
        self.stopped = False  # for good, or until a drain is called off
        self._database, self._lease = database, lease
        self._shortest, self._longest = poll[0].total_seconds(), poll[1].total_seconds()
        self._room_of_slots, self._start, self._dice = room, start, dice
        self._on_claimed = on_claimed
        self._wake = asyncio.Event()
        self._expected: set[str] = set()  # queues that are said to have got work
        self._nothing_ready = False  # so said the database when it was last asked, and it was asked just now
        self._round = asyncio.Lock()  # held while claims are under way
        self._floors: dict[str, Floor] = {}
        self._floors_until = 0.0
        self._next_token = self._longest  # seconds until a rate-limited queue may give something again

    def wake(self) -> None:
        """Look again now: a slot is free."""
        self._wake.set()

    def expect(self, queue: str) -> None:
        """Look again now: *queue* got work, which may come before what was claimed last."""
        self._floors.pop(queue, None)
        self._expected.add(queue)
        self._wake.set()

    async def keep(self, beat: Beat) -> None:
        """Claim until cancelled, pausing longer and longer while there is nothing."""
        pause = self._shortest
        while True:
            await self._lease.held.wait()
            self._wake.clear()
            expected, self._expected = self._expected, set()
            known = self._nothing_ready and len(expected) <= MOST_HINTED and "" not in expected
            hinted = expected if known else set()
            async with self._round:
                claimed = 0 if self.stopped else await self._claim_round(hinted)
            beat()
            if claimed or hinted:
                pause = self._shortest
                continue
            await self._pause(min(pause, self._next_token))
            pause = min(pause * 2, self._longest)

    async def settle(self) -> None:
        """Wait until no claim is under way: what was being claimed has been started."""
        async with self._round:
            return

    async def _pause(self, seconds: float) -> None:
        """Wait for a hint, or for *seconds* give or take a fifth so that replicas do not poll in step."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds * self._dice.uniform(0.8, 1.2), SHORTEST_PAUSE_SECONDS)):
                await self._wake.wait()

    async def _claim_round(self, hinted: Collection[str]) -> int:
        """Fill free slots from *hinted* queues, or from every queue that has work. Returns how many tasks were claimed."""
        self._next_token = self._longest
        self._nothing_ready = False
        claimed = 0
        if self._room() <= 0:
            return 0  # the end of a run wakes this loop
        if self._floors_until < time.monotonic():
            self._floors.clear()
            self._floors_until = time.monotonic() + FLOOR_SECONDS
        async with self._database.statement() as db:
            queues = list(hinted) or await self._ready_queues(db)
            self._nothing_ready = not queues
            self._dice.shuffle(queues)
            for queue in queues:
                while (room := self._room()) > 0:
                    got = await self._claim(db, queue, room)
                    claimed += got
                    if got < room:
                        break
        return claimed

    async def _ready_queues(self, db: asyncpg.Connection[asyncpg.Record]) -> list[str]:
        floors = self._floors.items()
        found: list[str] = await db.fetchval(
            SQL["executors.ready_queues"],
            [queue for queue, _ in floors],
            [floor[0] for _, floor in floors],
            [floor[1] for _, floor in floors],
            [floor[2] for _, floor in floors],
        )
        return found

    def _room(self) -> int:
        return 0 if self.stopped else min(self._room_of_slots(), BATCH)

    async def _claim(self, db: asyncpg.Connection[asyncpg.Record], queue: str, room: int) -> int:
        executor_id = self._lease.executor_id
        floor = self._floors.get(queue, (None, None, None))
        rows = await db.fetch(SQL["executors.claim"], executor_id, queue, room, *floor)
        outcome = rows[0]["outcome"] if rows else "empty"
        if outcome == "contended":
            await asyncio.sleep(self._dice.uniform(*CONTENDED_SECONDS))
            self._wake.set()
            return 0
        if outcome == "limited" and rows[0]["seconds_left"] is not None:
            self._next_token = min(self._next_token, rows[0]["seconds_left"])
        if outcome != "claimed":
            self._floors.pop(queue, None)
            return 0
        if executor_id != self._lease.executor_id or not self._lease.held.is_set():
            return 0  # the lease was lost while the answer was on its way: the rescuer will see to them
        self._begin(queue, rows, full=len(rows) == room)
        return len(rows)

    def _begin(self, queue: str, rows: Sequence[asyncpg.Record], *, full: bool) -> None:
        rows = sorted(rows, key=_in_order)
        if full:
            self._floors[queue] = _in_order(rows[-1])
        else:
            self._floors.pop(queue, None)
        for row in rows:
            self._start(read_run(row))
        self._on_claimed(queue, [row["waited_seconds"] for row in rows])
        log.info("tasks claimed", extra={"queue": queue, "tasks": len(rows)})


def read_run(row: asyncpg.Record) -> Run:
    """Return the run that a row of app.claim stands for."""
    return Run._make(_fields_of_run(row))
