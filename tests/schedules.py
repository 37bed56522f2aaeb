"""Schedules under a clock that the test moves: the setting app.now of a whole database, as every replica would read it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from server.database import Database
from server.ticker import Ticker
from services import schedules, tasks, ticks
from services.schedules import NewSchedule, Schedule
from services.tasks import Task
from services.ticks import Tick
from sql import Connection
from tests.conftest import Cluster

ADA = "user:ada"


def at(text: str) -> datetime:
    """Return the moment of an ISO text; UTC unless it says otherwise."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class World:
    """A database whose clock the test moves, and a tenant in it."""

    def __init__(
        self, cluster: Cluster, admin: asyncpg.Connection[asyncpg.Record], name: str, tenant: UUID
    ) -> None:
        self.dsn = cluster.web(name)
        self.admin, self.name, self.tenant = admin, name, tenant
        self.woken: list[str] = []

    async def move_to(self, moment: str) -> None:
        """Set the clock of every connection that is opened from now on."""
        await self.admin.execute(f"ALTER DATABASE {self.name} SET app.now = '{at(moment).isoformat()}'")

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """A replica's connections, at the time of now."""
        database = Database(self.dsn)
        await database.open()
        try:
            yield database
        finally:
            await database.close()

    @asynccontextmanager
    async def db(self, actor: str = ADA) -> AsyncIterator[Connection]:
        """One transaction of the tenant."""
        async with self.database() as database, database.tenant(self.tenant, actor) as db:
            yield db

    async def tick(self, moment: str) -> float | None:
        """Move the clock and let a replica that has just started look once."""
        await self.move_to(moment)
        async with self.database() as database:
            return await Ticker(database, on_work=self.woken.append).tick_due()

    async def create(self, moment: str, name: str = "nightly", **more: Any) -> Schedule:
        """Make a schedule at that moment; every hour unless the test says otherwise."""
        await self.move_to(moment)
        if "interval_seconds" not in more:
            more.setdefault("cron", "0 * * * *")
        new = NewSchedule(name=name, type=more.pop("type", "noop"), payload=more.pop("payload", {}), **more)
        async with self.db() as db:
            return await schedules.create(db, self.tenant, new, actor=ADA)

    async def get(self, schedule: Schedule) -> Schedule:
        """Read it again."""
        async with self.db() as db:
            return await schedules.get(db, self.tenant, schedule.id)

    async def ticks(self, schedule: Schedule) -> list[Tick]:
        """Return what became of its ticks, oldest first."""
        async with self.db() as db:
            return (await ticks.list_ticks(db, self.tenant, schedule.id, limit=1000))[::-1]

    async def told(self, schedule: Schedule) -> list[tuple[str, str]]:
        """Return (when, what became of it) of its ticks, oldest first; `when` as day, hour and minute in UTC."""
        return [(_when(tick), tick.outcome) for tick in await self.ticks(schedule)]

    async def tasks(self) -> list[Task]:
        """Return all tasks, oldest first."""
        async with self.db() as db:
            return (await tasks.list_tasks(db, self.tenant, limit=1000))[::-1]


def _when(tick: Tick) -> str:
    first = f"{tick.tick_at:%d %H:%M}"
    return f"{first} – {tick.until_at:%d %H:%M}" if tick.until_at else first
