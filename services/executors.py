"""The processes that run tasks, as operators see them: who they are, how they do, what they run, and letting one run empty."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from services.errors import NotFound
from services.installation import guarded
from services.tasks import Task
from sql import SQL, Connection

RUNNING_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """An executor as it last reported. For tenants that do not operate the installation host, load and release are None.

    `running` counts the tasks that the database says it runs: everybody's for whoever asked for the installation, else the own ones.
    """

    id: UUID
    host: str | None
    pid: int | None
    release: str | None
    slots: int | None
    busy: int | None
    leaked: int | None
    lag_ms: float | None
    started_at: datetime
    seen_at: datetime
    seconds_left: float  # of its lease; 0: lost
    draining_at: datetime | None
    draining_by: str | None
    running: int

    @property
    def state(self) -> str:
        """What it does: serving, draining (ends what it runs), drained, or lost (its lease is over, its runs are taken from it)."""
        if not self.seconds_left:
            return "lost"
        if self.draining_at is None:
            return "serving"
        return "drained" if self.slots is not None and not self.running else "draining"

    @property
    def lease(self) -> timedelta:
        """How long its lease still lasts."""
        return timedelta(seconds=self.seconds_left)

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Executor:
        """Build an executor from a row of executors.list."""
        return cls(
            id=row["id"],
            host=row["host"],
            pid=row["pid"],
            release=row["release"],
            slots=row["slots"],
            busy=row["busy"],
            leaked=row["leaked"],
            lag_ms=row["lag_ms"],
            started_at=row["started_at"],
            seen_at=row["seen_at"],
            seconds_left=row["seconds_left"],
            draining_at=row["draining_at"],
            draining_by=row["draining_by"],
            running=row["running"],
        )


async def list_executors(db: Connection, *, installation: bool) -> list[Executor]:
    """Return all executors, oldest first; those lost stay for an hour. Raises: Forbidden when *installation* is not the caller's to see."""
    with guarded():
        return [Executor.from_row(row) for row in await db.fetch(SQL["executors.list"], installation)]


async def get(db: Connection, executor_id: UUID, *, installation: bool) -> Executor:
    """Return one executor. Raises: NotFound, Forbidden."""
    for executor in await list_executors(db, installation=installation):
        if executor.id == executor_id:
            return executor
    raise NotFound(f"there is no executor {executor_id}")


async def list_running(db: Connection, tenant_id: UUID) -> dict[UUID, list[Task]]:
    """Return what runs of the tenant's tasks right now, longest first, by executor; RUNNING_SHOWN in all."""
    found: dict[UUID, list[Task]] = {}
    for row in await db.fetch(SQL["executors.list_running"], tenant_id, RUNNING_SHOWN):
        found.setdefault(row["executor_id"], []).append(Task.from_row(row))
    return found


async def drain(db: Connection, executor_id: UUID, *, actor: str) -> Executor:
    """Let an executor end what it runs and claim nothing more; twice is fine. Raises: Forbidden, NotFound."""
    return await _set_draining(db, executor_id, actor, drain=True)


async def undrain(db: Connection, executor_id: UUID, *, actor: str) -> Executor:
    """Let an executor claim again; it begins within one heartbeat. Raises: Forbidden, NotFound."""
    return await _set_draining(db, executor_id, actor, drain=False)


async def _set_draining(db: Connection, executor_id: UUID, actor: str, *, drain: bool) -> Executor:
    with guarded():
        found = await db.fetchval(SQL["executors.drain"], executor_id, drain, actor)
    if not found:
        raise NotFound(f"there is no executor {executor_id}")
    return await get(db, executor_id, installation=True)
