"""Dead letters: tasks that failed or timed out for good and wait for a person, who requeues or discards each of them once.

The engine writes one with the end of the task. Whoever handles it first wins, and whoever comes second is told who that was.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from services import tasks
from services.errors import Conflict, NotFound
from services.tasks import Task
from sql import SQL, Connection

# What a task waits that is requeued after it was a dead letter never, once, twice and more often before: whatever broke it may be
# broken still, and an operator who requeues everything must not bring it down again.
BACKOFF_SECONDS = (60, 120, 240, 3600)
COUNTED_MOST = 10_000  # of the newest, for counts by type and error class
GROUPS_MOST = 50
CHAIN_MOST = 50
LONGEST_TEXT = 2000  # characters of a note or a reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which dead letters; None is any. *q* is part of an id, or of type, error class, message, note or reason."""

    queue: str | None = None
    type: str | None = None
    state: str | None = None
    error_class: str | None = None
    failed_after: datetime | None = None
    failed_before: datetime | None = None
    q: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the filter as SQL and bulk operations read it: only what is asked for."""
        values = {
            "queue": self.queue,
            "type": self.type,
            "state": self.state,
            "error_class": self.error_class,
            "failed_after": self.failed_after and self.failed_after.isoformat(),
            "failed_before": self.failed_before and self.failed_before.isoformat(),
            "q": self.q or None,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A task that nobody has helped yet, or what was done about it. `requeues` is how often its chain was a dead letter before."""

    task_id: UUID
    queue: str
    type: str
    state: str
    error_class: str
    error: dict[str, Any] | None
    requeues: int
    failed_at: datetime
    note: str | None
    noted_at: datetime | None
    noted_by: str | None
    handled_at: datetime | None
    handled_as: str | None
    handled_by: str | None
    handled_reason: str | None
    successor_id: UUID | None

    @property
    def id(self) -> UUID:
        """The task's."""
        return self.task_id

    @property
    def backoff(self) -> timedelta:
        """How long its successor waits unless it is to run at once."""
        return backoff(self.requeues)

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> DeadLetter:
        """Build a dead letter from its row and its task's error."""
        return cls(
            task_id=row["task_id"],
            queue=row["queue"],
            type=row["type"],
            state=row["state"],
            error_class=row["error_class"],
            error=row["error"],
            requeues=row["requeues"],
            failed_at=row["failed_at"],
            note=row["note"],
            noted_at=row["noted_at"],
            noted_by=row["noted_by"],
            handled_at=row["handled_at"],
            handled_as=row["handled_as"],
            handled_by=row["handled_by"],
            handled_reason=row["handled_reason"],
            successor_id=row["successor_id"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Open dead letters of one type and error class."""

    type: str
    error_class: str
    count: int
    oldest_at: datetime
    newest_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One task of a requeue chain."""

    task_id: UUID
    state: str
    created_at: datetime
    created_by: str
    run_at: datetime
    finished_at: datetime | None
    message: str | None


def backoff(requeues: int) -> timedelta:
    """Return how long the successor of a dead letter waits whose chain was one *requeues* times before."""
    return timedelta(seconds=BACKOFF_SECONDS[min(requeues, len(BACKOFF_SECONDS) - 1)])


async def list_letters(
    db: Connection,
    tenant_id: UUID,
    wanted: Filter,
    *,
    handled: bool = False,
    before: UUID | None = None,
    limit: int = 50,
) -> list[DeadLetter]:
    """Return open or handled dead letters, those of the newest tasks first, of tasks older than *before*."""
    statement = SQL["dead_letters.list_handled"] if handled else SQL["dead_letters.list_open"]
    rows = await db.fetch(statement, tenant_id, before, limit, wanted.to_json())
    return [DeadLetter.from_row(row) for row in rows]


async def get(db: Connection, tenant_id: UUID, task_id: UUID) -> DeadLetter:
    """Return the dead letter of a task. Raises: NotFound."""
    found = await find(db, tenant_id, task_id)
    if found is None:
        raise NotFound(f"task {task_id} is no dead letter")
    return found


async def find(db: Connection, tenant_id: UUID, task_id: UUID) -> DeadLetter | None:
    """Return the dead letter of a task, or None when it never was one."""
    row = await db.fetchrow(SQL["dead_letters.get"], tenant_id, task_id)
    return None if row is None else DeadLetter.from_row(row)


async def count_groups(db: Connection, tenant_id: UUID, wanted: Filter) -> tuple[list[Group], int]:
    """Return the open ones by type and error class, the largest groups first, and how many were counted: COUNTED_MOST at most."""
    rows = await db.fetch(
        SQL["dead_letters.count_groups"], tenant_id, wanted.to_json(), COUNTED_MOST, GROUPS_MOST
    )
    groups = [
        Group(
            type=row["type"],
            error_class=row["error_class"],
            count=row["letters"],
            oldest_at=row["oldest_at"],
            newest_at=row["newest_at"],
        )
        for row in rows
    ]
    return groups, rows[0]["counted"] if rows else 0


async def list_chain(db: Connection, tenant_id: UUID, task_id: UUID) -> list[Link]:
    """Return the task, those it was made from and those made from it, oldest first, CHAIN_MOST at most."""
    return [
        Link(
            task_id=row["id"],
            state=row["state"],
            created_at=row["created_at"],
            created_by=row["created_by"],
            run_at=row["run_at"],
            finished_at=row["finished_at"],
            message=row["message"],
        )
        for row in await db.fetch(SQL["dead_letters.list_chain"], tenant_id, task_id, CHAIN_MOST)
    ]


async def requeue(
    db: Connection,
    tenant_id: UUID,
    task_id: UUID,
    *,
    actor: str,
    request_id: str | None = None,
    changes: dict[str, Any] | None = None,
    reuse_steps: bool = True,
    at_once: bool = False,
    reason: str | None = None,
) -> Task:
    """Create a new task from a dead letter; it waits for its back-off unless *at_once*, or *changes* say when it runs.

    Raises: NotFound, Conflict when somebody has handled it, Invalid.
    """
    await tasks.lock_requeue(db, task_id)
    letter = await _lock_open(db, tenant_id, task_id)
    wanted = dict(changes or {})
    if not at_once:
        wanted.setdefault("run_at", letter["moment"] + backoff(letter["requeues"]))
    return await tasks.requeue(
        db,
        tenant_id,
        task_id,
        actor=actor,
        request_id=request_id,
        changes=wanted,
        reuse_steps=reuse_steps,
        reason=reason,
    )


async def discard(db: Connection, tenant_id: UUID, task_id: UUID, *, actor: str, reason: str) -> DeadLetter:
    """Decide that nothing more is done about it. The task stays in history, and may still be requeued as any other.

    Raises: NotFound, Conflict when somebody has handled it.
    """
    await _lock_open(db, tenant_id, task_id)
    await db.execute(SQL["dead_letters.discard"], tenant_id, [task_id], actor, reason)
    return await get(db, tenant_id, task_id)


async def note(db: Connection, tenant_id: UUID, task_id: UUID, *, actor: str, text: str) -> DeadLetter:
    """Keep a note in the place of the one before. Raises: NotFound."""
    await db.fetchval(SQL["dead_letters.note"], tenant_id, task_id, text, actor)
    return await get(db, tenant_id, task_id)


async def _lock_open(db: Connection, tenant_id: UUID, task_id: UUID) -> asyncpg.Record:
    """Lock it for this transaction; a second caller waits here and then learns who was first."""
    row = await db.fetchrow(SQL["dead_letters.lock"], tenant_id, task_id)
    if row is None:
        raise NotFound(f"task {task_id} is no dead letter")
    if row["handled_at"] is not None:
        successor = f" as {row['successor_id']}" if row["successor_id"] else ""
        raise Conflict(
            f"it was {row['handled_as']}{successor} by {row['handled_by']} at {row['handled_at']:%Y-%m-%d %H:%M:%S} UTC",
            slug="dead-letter-handled",
        )
    return row
