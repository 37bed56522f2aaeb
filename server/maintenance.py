"""What must be put right now and then, by whichever replica comes first: dead executors, missed deadlines, leftovers, partitions."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from server.database import Database
from server.supervisor import Beat
from sql import SQL

log = logging.getLogger(__name__)

BATCH = 500
OVERDUE_SECONDS = 30  # a run this long past its deadline is taken from its executor, lease or not
SWEEP_SECONDS = 2.0
HOUSEKEEPING_SECONDS = 60.0


class Maintenance:
    """Three loops; `on_work(queue)` is told of each queue that got work by them."""

    def __init__(self, database: Database, *, rescue_seconds: float, on_work: Callable[[str], None]) -> None:
        self._database = database
        self._rescue_seconds = rescue_seconds
        self._on_work = on_work

    async def keep_rescuing(self, beat: Beat) -> None:
        """Take over what dead executors left, until cancelled."""
        while True:
            async with self._database.statement() as db:
                rows = await db.fetch(SQL["executors.rescue"], BATCH, OVERDUE_SECONDS)
            beat()
            for queue in {row["queue"] for row in rows}:
                self._on_work(queue)
            if rows:
                log.warning(
                    "runs rescued",
                    extra={"runs": len(rows), "failed": sum(row["outcome"] == "failed" for row in rows)},
                )
            if len(rows) < BATCH:
                await asyncio.sleep(self._rescue_seconds * random.uniform(0.8, 1.0))  # noqa: S311 - keeps replicas out of step

    async def keep_sweeping(self, beat: Beat) -> None:
        """End what came too late and wake keys that have room, until cancelled."""
        while True:
            async with self._database.statement() as db:
                row = await db.fetchrow(SQL["executors.sweep"], BATCH)
            assert row is not None
            beat()
            for queue in row["woken"]:
                self._on_work(queue)
            await asyncio.sleep(SWEEP_SECONDS)

    async def keep_house(self, beat: Beat) -> None:
        """Clear leftovers and make the partitions of the coming months, until cancelled."""
        while True:
            async with self._database.statement() as db:
                await db.fetchval(SQL["executors.sweep_leftovers"], BATCH)
                await db.fetchval(SQL["executors.ensure_partitions"])
            beat()
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
