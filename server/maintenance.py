"""What must be put right now and then, by whichever replica comes first: dead executors, missed deadlines, leftovers, partitions."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import asyncpg

from server.database import Database
from server.supervisor import Beat
from sql import SQL, Connection

log = logging.getLogger(__name__)

BATCH = 500
OVERDUE_SECONDS = 30  # a run this long past its deadline is taken from its executor, lease or not
SWEEP_SECONDS = 2.0
HOUSEKEEPING_SECONDS = 60.0
HOUSE_SECONDS = 30.0  # what is cleared away rarely may be much
RETENTION_SECONDS = 6 * 3600.0
RETENTION_RETRY_SECONDS = 60.0  # after a month that somebody was reading
LOOK_BATCH = 20_000  # rows of history looked at in one transaction
STATISTICS_DAYS = 30


class Maintenance:
    """Four loops; `on_work(queue)` is told of each queue that got work by them. *history_days*: how long ended tasks are kept; 0: for ever."""

    def __init__(
        self,
        database: Database,
        *,
        rescue_seconds: float,
        on_work: Callable[[str], None],
        history_days: int = 0,
    ) -> None:
        self._database = database
        self._rescue_seconds = rescue_seconds
        self._on_work = on_work
        self._history_days = history_days

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
        """End what came too late, wake keys that have room and drop what has expired, until cancelled."""
        while True:
            async with self._database.statement() as db:
                await self._time_out(db, beat)
                await self._wake_keys(db, beat)
                while await db.fetchval(SQL["executors.clear_expired"], BATCH) >= BATCH:
                    beat()
            beat()
            await asyncio.sleep(SWEEP_SECONDS)

    async def _time_out(self, db: Connection, beat: Beat) -> None:
        """End all that is over, but for what somebody is writing to: that is left to the next round."""
        while True:
            row = await db.fetchrow(SQL["executors.time_out"], BATCH)
            assert row is not None
            beat()
            if not row["remaining"]:
                return
            if not row["timed_out"]:
                log.info("tasks past their time are being written to", extra={"tasks": row["remaining"]})
                return

    async def _wake_keys(self, db: Connection, beat: Beat) -> None:
        """Look at every key that has blocked tasks, as many at a time as one transaction should."""
        place: tuple[UUID | None, str | None, str | None] = (None, None, None)
        while True:
            row = await db.fetchrow(SQL["executors.wake_keys"], BATCH, *place)
            assert row is not None
            beat()
            for queue in row["woken"]:
                self._on_work(queue)
            if row["tenant_id"] is None:
                return
            place = (row["tenant_id"], row["queue"], row["key"])

    async def keep_house(self, beat: Beat) -> None:
        """Clear leftovers and make the partitions of the coming months, until cancelled."""
        while True:
            await self.tidy(beat)
            beat()
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    async def tidy(self, beat: Beat = lambda: None) -> None:
        """Clear what ended tasks left, fold their numbers, and make the partitions of the coming months."""
        async with self._database.statement() as db:
            while await self._sweep_leftovers(db):
                beat()
            while await db.fetchval(SQL["executors.fold_statistics"], STATISTICS_DAYS, timeout=HOUSE_SECONDS):
                beat()
            try:
                await db.fetchval(SQL["executors.ensure_partitions"], timeout=HOUSE_SECONDS)
            except (
                asyncpg.LockNotAvailableError
            ):  # a long reader; months are made ahead and readiness watches
                log.info("partitions wait for a reader")

    async def _sweep_leftovers(self, db: Connection) -> bool:
        """Clear away what a batch of ended tasks left; returns whether there may be more."""
        rows = await db.fetchval(SQL["executors.sweep_leftovers"], BATCH, timeout=HOUSE_SECONDS)
        return bool(rows >= BATCH)

    async def keep_history(self, beat: Beat) -> None:
        """Drop months of history whose retention is over, until cancelled."""
        while True:
            waiting = await self.drop_expired(beat)
            beat()
            await asyncio.sleep(RETENTION_RETRY_SECONDS if waiting else RETENTION_SECONDS)

    async def drop_expired(self, beat: Beat = lambda: None) -> int:
        """Drop what has expired. Returns how many months have to wait for a reader, or for another replica."""
        if not self._history_days:
            return 0
        async with self._database.statement() as db:
            while await db.fetchval(SQL["retention.forget_closed"], self._history_days, BATCH) >= BATCH:
                beat()
            months = await db.fetch(SQL["retention.old_months"], self._history_days)
        waiting = 0
        for parent, month in months:
            about = {"table": parent, "month": f"{month:%Y-%m}"}
            while (answer := await self._retire(parent, month)) == "more":
                beat()
            if answer in ("read", "busy"):
                waiting += 1
                log.info("expired month waits", extra={**about, "reason": answer})
            elif answer == "dropped":
                log.info("expired month dropped", extra=about)
        return waiting

    async def _retire(self, parent: str, month: datetime) -> str:
        """Look at the next part of a month and drop it after the last one: a transaction of its own. Returns what app.retire_month found."""
        try:
            async with self._database.statement() as db:
                found: str = await db.fetchval(
                    SQL["retention.retire_month"],
                    parent,
                    month,
                    self._history_days,
                    LOOK_BATCH,
                    timeout=HOUSE_SECONDS,
                )
        except asyncpg.LockNotAvailableError:
            return "read"
        return found
