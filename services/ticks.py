"""Which ticks of a schedule enqueue a task, and why the others do not.

A tick is decided once, by whichever replica locks the schedule first, in one transaction: the tick's row, its task and the time
of the next tick. The clock is the database's. Ticks that fall into a pause do not exist; those that nobody was there for are
missed, and the schedule says what becomes of them:

    skip   only a tick that comes at most LATE after its time, and before the next one, enqueues a task
    once   the latest enqueues one, however late
    all    each enqueues one, the latest CATCH_UP of them at most

With overlap `skip` a tick enqueues nothing while the task of the latest tick that did is still live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from services import tasks
from services.errors import GalleyError, Invalid
from services.tasks import NewTask, Task
from services.timings import UNREADABLE, Timing
from sql import SQL, Connection

LATE = timedelta(minutes=1)
CATCH_UP = 100  # tasks of one schedule at once
ACTOR = "system:scheduler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What became of a tick, or of all of them from `tick_at` until `until_at`; a manual one is somebody's run by hand."""

    tick_at: datetime
    until_at: datetime | None
    manual: bool
    outcome: str
    task_id: UUID | None
    task_state: str | None
    reason: str | None
    actor: str
    decided_at: datetime

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Tick:
        """Build a tick from a row of schedule_ticks with its task's state; None of that once the task's history is dropped."""
        return cls(
            tick_at=row["tick_at"],
            until_at=row["until_at"],
            manual=row["manual"],
            outcome=row["outcome"],
            task_id=row["task_id"],
            task_state=row["task_state"],
            reason=row["reason"],
            actor=row["actor"],
            decided_at=row["decided_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """What one look at a due schedule came to: how many tasks, in which queue, and the fault if they could not be made."""

    tasks: int
    queue: str | None
    missed: bool
    fault: str | None


async def decide(db: Connection, tenant_id: UUID, schedule_id: UUID) -> Ticked | None:
    """Decide what has come due of one schedule. None when there is nothing to decide, or another replica is at it.

    A task that can no longer be made (its type or queue is gone, its payload no longer valid) is a failed tick, not an error.
    """
    row = await db.fetchrow(SQL["schedules.lock_due"], tenant_id, schedule_id)
    if row is None:
        return None
    timing, now = Timing.from_row(row), row["now"]
    due = timing.latest(row["next_tick_at"], now, most=CATCH_UP + 1)
    chosen = _chosen(due, row["missed"], now)
    missed = due[: len(due) - len(chosen)]
    overlapped: list[datetime] = []
    if row["overlap"] == "skip" and chosen:
        chosen, overlapped = ([], chosen) if row["last_is_live"] else (chosen[:1], chosen[1:])
    made, fault = await _enqueue(db, tenant_id, row, len(chosen))
    decided: list[tuple[Any, ...]] = [
        (at, None, "enqueued", task.id, None) for at, task in zip(chosen, made, strict=False)
    ]
    if missed:
        decided.append(
            (row["next_tick_at"], missed[-1], "missed", None, None)
        )  # earlier ones than were looked at too
    if overlapped:
        decided.append((overlapped[0], overlapped[-1], "overlapped", None, None))
    if fault:
        decided.append((chosen[0], chosen[-1], "failed", None, fault))
    await _write(db, tenant_id, schedule_id, decided)
    last_task = made[-1].id if made else None
    await db.execute(SQL["schedules.move_on"], tenant_id, schedule_id, timing.next(now), last_task)
    return Ticked(tasks=len(made), queue=made[0].queue if made else None, missed=bool(missed), fault=fault)


async def give_up(db: Connection, tenant_id: UUID, schedule_id: UUID, *, reason: str) -> None:
    """Record that deciding a tick raised what nobody foresaw, and move on, so that one schedule is tried once per tick."""
    row = await db.fetchrow(SQL["schedules.lock_due"], tenant_id, schedule_id)
    if row is None:
        return
    try:
        next_tick_at = Timing.from_row(row).next(row["now"])
    except UNREADABLE:
        next_tick_at = row["now"] + timedelta(hours=1)
    await db.execute(
        SQL["schedules.insert_failure"], tenant_id, schedule_id, ACTOR, row["next_tick_at"], reason[:1000]
    )
    await db.execute(SQL["schedules.move_on"], tenant_id, schedule_id, next_tick_at, None)


async def list_ticks(
    db: Connection,
    tenant_id: UUID,
    schedule_id: UUID,
    *,
    before: tuple[datetime, bool] | None = None,
    limit: int = 50,
) -> list[Tick]:
    """Return what became of ticks, newest first, those before the (tick_at, manual) given."""
    moment, manual = before or (None, None)
    rows = await db.fetch(SQL["schedules.list_ticks"], tenant_id, schedule_id, moment, manual, limit)
    return [Tick.from_row(row) for row in rows]


def new_task(row: asyncpg.Record) -> NewTask:
    """Return what a tick of the schedule in *row* enqueues."""
    return NewTask(
        type=row["type"],
        payload=row["payload"],
        queue=row["queue"],
        priority=row["priority"],
        timeout_seconds=row["timeout_seconds"],
        total_timeout_seconds=row["total_timeout_seconds"],
        max_attempts=row["max_attempts"],
        concurrency_key=row["concurrency_key"],
        concurrency_limit=row["concurrency_limit"],
    )


def _chosen(due: list[datetime], missed: str, now: datetime) -> list[datetime]:
    """Return the ticks that enqueue a task, the latest ones of *due*."""
    if missed == "all":
        return due[-CATCH_UP:]
    if missed == "skip" and due and now - due[-1] > LATE:
        return []
    return due[-1:]


async def _enqueue(
    db: Connection, tenant_id: UUID, row: asyncpg.Record, count: int
) -> tuple[Sequence[Task], str | None]:
    """Create *count* tasks, or say why none can be made."""
    if not count:
        return [], None
    new = new_task(row)
    try:
        tasks.check(new)
        return await tasks.enqueue_many(db, tenant_id, [new] * count, actor=f"schedule:{row['id']}"), None
    except GalleyError as exc:  # raised before anything was written, or for a statement that stored nothing
        told = exc.faults[0] if isinstance(exc, Invalid) and len(exc.faults) == 1 else None
        return [], (f"{told.pointer.strip('/')}: {told.message}" if told else str(exc))[:1000]


async def _write(db: Connection, tenant_id: UUID, schedule_id: UUID, decided: list[tuple[Any, ...]]) -> None:
    if decided:
        at, until, *rest = (list(column) for column in zip(*decided, strict=True))
        several = [None if last == first else last for first, last in zip(at, until, strict=True)]
        await db.execute(SQL["schedules.insert_ticks"], tenant_id, schedule_id, ACTOR, at, several, *rest)
