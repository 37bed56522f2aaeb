"""What became of a task: its events, its steps, its live text, and the tasks that were made from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.errors import NotFound
from services.tasks import Task, get
from sql import SQL, Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of a task's history. `fence` is the run it concerns."""

    at: datetime
    event: str
    fence: int
    attempt: int
    actor: str
    executor_id: UUID | None
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A finished step of a task and what it returned."""

    name: str
    kind: str
    fence: int
    output: Any
    started_at: datetime
    finished_at: datetime


async def list_events(db: Connection, tenant_id: UUID, task_id: UUID) -> list[Event]:
    """Return the whole history of a task, oldest first: what its row tells and what was recorded. Raises: NotFound."""
    task = await get(db, tenant_id, task_id)
    rows = await db.fetch(SQL["tasks.list_events"], tenant_id, task_id)
    recorded = [
        Event(
            at=row["at"],
            event=row["event"],
            fence=row["fence"],
            attempt=row["attempt"],
            actor=row["actor"],
            executor_id=row["executor_id"],
            detail=row["detail"],
        )
        for row in rows
    ]
    return sorted(
        _told_by_row(task, {event.event for event in recorded}) + recorded, key=lambda event: event.at
    )


async def list_steps(db: Connection, tenant_id: UUID, task_id: UUID) -> list[Step]:
    """Return a task's finished steps in the order in which they finished."""
    rows = await db.fetch(SQL["tasks.list_steps"], tenant_id, task_id)
    return [
        Step(
            name=row["name"],
            kind=row["kind"],
            fence=row["fence"],
            output=row["output"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
        )
        for row in rows
    ]


async def read_output(
    db: Connection, tenant_id: UUID, task_id: UUID, fence: int, *, after: int = 0
) -> tuple[str, int]:
    """Return the live text of a run written after piece *after*, and the number of the last piece."""
    rows = await db.fetch(SQL["tasks.list_output"], tenant_id, task_id, fence, after)
    return "".join(row["text"] for row in rows), rows[-1]["seq"] if rows else after


async def pulse(db: Connection, tenant_id: UUID, task_id: UUID) -> tuple[object, ...]:
    """Return a value that differs whenever what a page shows of the task does, at the price of one statement. Raises: NotFound."""
    row = await db.fetchrow(SQL["tasks.pulse"], tenant_id, task_id)
    if row is None:
        raise NotFound(f"there is no task {task_id}")
    return tuple(row.values())


def _told_by_row(task: Task, recorded: set[str]) -> list[Event]:
    """Return the events that are not recorded because the task's own row tells them."""

    def event(at: datetime, name: str, actor: str, **detail: Any) -> Event:
        attempt = 0 if name == "created" else task.attempt
        # Whatever takes a task from its run raises the fence by one, and leaves no executor behind.
        fence = 0 if name == "created" else task.fence - (task.executor_id is None)
        return Event(
            at=at,
            event=name,
            fence=fence,
            attempt=attempt,
            actor=actor,
            executor_id=task.executor_id,
            detail=detail,
        )

    told = [
        event(
            task.created_at,
            "created",
            task.created_by,
            **({"retry_of": str(task.retry_of)} if task.retry_of else {}),
        )
    ]
    if task.started_at:
        told.append(event(task.started_at, "started", "executor"))
    if task.finished_at and task.state not in recorded and not recorded & {"crash_limit"}:
        told.append(
            event(
                task.finished_at,
                task.state,
                task.ended_by or "executor",
                **({"error": task.error} if task.error and task.state != "succeeded" else {}),
            )
        )
    return told
