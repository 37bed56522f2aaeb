"""Makes the tasks of schedules when they come due, on every replica: whichever locks a schedule first decides its ticks."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from uuid import UUID

from server.database import CONNECTION_ERRORS, Database
from server.supervisor import Beat
from services import ticks
from services.errors import Unavailable
from services.ticks import Ticked
from sql import SQL

log = logging.getLogger(__name__)

BATCH = 100
LONGEST_PAUSE_SECONDS = 1.0  # a schedule made on another replica ticks this late at most
TICK_SECONDS = 5.0  # within which the loop promises to prove itself; one tick may take as long
SHORTEST_PAUSE_SECONDS = 0.01
SWEEP_SECONDS = 3600.0
SWEEP_BATCH = 1000
TRIES = 3  # at deciding a schedule's ticks, in a row, before they count as failed


class Ticker:
    """The loop of the schedules. `on_work(queue)` is told of each queue that got a task. *history_days*: how long ticks stay; 0: for ever."""

    def __init__(self, database: Database, *, on_work: Callable[[str], None], history_days: int = 0) -> None:
        self._database = database
        self._on_work = on_work
        self._history_days = history_days
        self._failures: Counter[UUID] = Counter()

    async def keep(self, beat: Beat) -> None:
        """Decide ticks until cancelled, sleeping until the next is due, one second at most."""
        while True:
            due_in = await self.tick_due(beat)
            beat()
            pause = LONGEST_PAUSE_SECONDS if due_in is None else min(due_in, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(max(pause, SHORTEST_PAUSE_SECONDS))

    async def tick_due(self, beat: Beat = lambda: None) -> float | None:
        """Decide what is due now. Returns the seconds until the next tick, by the database's clock; None when there is none."""
        async with self._database.statement() as db:
            *due, after = await db.fetch(SQL["schedules.list_due"], BATCH)
        decided = False
        for row in due:
            decided |= await self._tick(row["tenant_id"], row["schedule_id"])
            beat()
        if decided:
            return 0.0  # what was decided has a next tick, perhaps a close one
        due_in: float | None = after["next_due_seconds"]
        return due_in

    async def keep_swept(self, beat: Beat) -> None:
        """Forget ticks whose tasks have been forgotten, until cancelled."""
        while True:
            swept = SWEEP_BATCH if self._history_days else 0
            while swept == SWEEP_BATCH:
                async with self._database.statement() as db:
                    swept = await db.fetchval(SQL["schedules.sweep_ticks"], self._history_days, SWEEP_BATCH)
                beat()
            beat()
            await asyncio.sleep(SWEEP_SECONDS)

    async def _tick(self, tenant_id: UUID, schedule_id: UUID) -> bool:
        """Decide one schedule's ticks in a transaction of its own: whatever is wrong with it stops no other. False: not decided."""
        about = {"tenant_id": str(tenant_id), "schedule_id": str(schedule_id)}
        try:
            async with self._database.tenant(tenant_id, ticks.ACTOR) as db:
                ticked = await ticks.decide(db, tenant_id, schedule_id)
        except (*CONNECTION_ERRORS, TimeoutError, Unavailable):
            raise  # nothing wrong with the schedule: the supervisor tries again
        except Exception as exc:
            log.exception("tick could not be decided", extra=about)
            await self._count_failure(tenant_id, schedule_id, exc)
            return False
        del self._failures[schedule_id]
        if ticked is not None:
            self._tell(ticked, about)
        return ticked is not None

    async def _count_failure(self, tenant_id: UUID, schedule_id: UUID, exc: Exception) -> None:
        """Leave the tick due, since a deadlock or a time-out passes; but not for ever."""
        self._failures[schedule_id] += 1
        if self._failures[schedule_id] < TRIES:
            return
        async with self._database.tenant(tenant_id, ticks.ACTOR) as db:
            await ticks.give_up(db, tenant_id, schedule_id, reason=f"{type(exc).__name__}: {exc}")
        del self._failures[schedule_id]

    def _tell(self, ticked: Ticked, about: dict[str, str]) -> None:
        if ticked.fault is not None:
            log.warning("tick failed", extra={**about, "fault": ticked.fault})
        if ticked.missed:
            log.warning("ticks missed", extra=about)
        if ticked.queue is not None:
            self._on_work(ticked.queue)
