"""Queues what has come due: delayed tasks, retries, and waits whose time is up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from server.database import Database
from server.supervisor import Beat
from sql import SQL

BATCH = 1000
LONGEST_PAUSE_SECONDS = 1.0
SHORTEST_PAUSE_SECONDS = 0.01


class Scheduler:
    """Promotes due tasks on every replica; SKIP LOCKED shares the work. `on_work(queue)` is told of each queue that got some."""

    def __init__(self, database: Database, *, on_work: Callable[[str], None]) -> None:
        self._database = database
        self._on_work = on_work
        self._poked = asyncio.Event()

    def poke(self) -> None:
        """Look again now: something may be due sooner than this loop knows."""
        self._poked.set()

    async def keep(self, beat: Beat) -> None:
        """Promote until cancelled, sleeping until the next task is due, one second at most."""
        while True:
            self._poked.clear()
            async with self._database.statement() as db:
                row = await db.fetchrow(SQL["executors.promote"], BATCH)
            assert row is not None
            beat()
            for queue in row["queues"]:
                self._on_work(queue)
            if row["promoted"] < BATCH:
                due_in = row["next_due_seconds"]
                pause = LONGEST_PAUSE_SECONDS if due_in is None else min(due_in, LONGEST_PAUSE_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(pause, SHORTEST_PAUSE_SECONDS)):
                        await self._poked.wait()
