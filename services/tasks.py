"""Tasks as callers see them: create, look up, cancel, requeue, signal. What runs them is server/executor.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from services import task_columns, task_search
from services.errors import Conflict, Fault, Invalid, NotFound, Unavailable
from services.task_states import is_final
from sql import SQL, Connection, savepoint

CANCEL_TRIES = 3  # of 250 ms each (RULINGS 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """What a caller asks for; None means the default of the task type or of the queue."""

    type: str
    payload: dict[str, Any]
    queue: str | None = None
    priority: int = 2
    run_at: datetime | None = None
    timeout_seconds: int | None = None
    max_attempts: int | None = None
    concurrency_key: str | None = None
    concurrency_limit: int | None = None
    start_before: datetime | None = None
    total_timeout_seconds: int | None = None
    retry_of: UUID | None = None  # the task that it repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task, live or ended. Times are aware; `error` is that of the latest run that failed."""

    id: UUID
    tenant_id: UUID
    queue: str
    type: str
    type_version: int
    state: str
    priority: int
    attempt: int
    max_attempts: int
    crashes: int
    snoozes: int
    fence: int
    executor_id: UUID | None
    run_at: datetime
    created_at: datetime
    created_by: str
    started_at: datetime | None
    finished_at: datetime | None
    timeout_seconds: int
    start_before: datetime | None
    deadline_at: datetime | None
    retry_of: UUID | None
    concurrency_key: str | None
    concurrency_limit: int | None
    waiting_for: str | None
    wait_until: datetime | None
    progress: dict[str, Any] | None
    payload: dict[str, Any]
    result: Any
    error: dict[str, Any] | None
    ended_by: str | None
    reason: str | None
    request_id: str | None

    @property
    def is_final(self) -> bool:
        """Whether it has ended for good."""
        return is_final(self.state)

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Task:
        """Build a task from a row of all_tasks."""
        return cls(
            id=row["id"],
            tenant_id=row["tenant_id"],
            queue=row["queue"],
            type=row["type"],
            type_version=row["type_version"],
            state=row["state"],
            priority=row["priority"],
            attempt=row["attempt"],
            max_attempts=row["max_attempts"],
            crashes=row["crashes"],
            snoozes=row["snoozes"],
            fence=row["fence"],
            executor_id=row["executor_id"],
            run_at=row["run_at"],
            created_at=row["created_at"],
            created_by=row["created_by"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            timeout_seconds=row["timeout_seconds"],
            start_before=row["start_before"],
            deadline_at=row["deadline_at"],
            retry_of=row["retry_of"],
            concurrency_key=row["concurrency_key"],
            concurrency_limit=row["concurrency_limit"],
            waiting_for=row["waiting_for"] if row["state"] == "waiting" else None,
            wait_until=row["wait_until"] if row["state"] == "waiting" else None,
            progress=row["progress"],
            payload=row["payload"],
            result=row["result"],
            error=row["error"],
            ended_by=row["ended_by"],
            reason=row["reason"],
            request_id=row["request_id"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """A run that lost its task to a cancel: where it ran, for whoever stops it. `executor_id` is None when it did not run."""

    task_id: UUID
    executor_id: UUID | None
    fence: int


async def enqueue(
    db: Connection, tenant_id: UUID, new: NewTask, *, actor: str, request_id: str | None = None
) -> Task:
    """Create one task in the caller's transaction. Raises: Invalid (unknown type or queue, bad payload)."""
    return (await enqueue_many(db, tenant_id, [new], actor=actor, request_id=request_id))[0]


async def enqueue_many(
    db: Connection,
    tenant_id: UUID,
    new: Sequence[NewTask],
    *,
    actor: str,
    request_id: str | None = None,
) -> list[Task]:
    """Create tasks, all or none, and return them in the order given. Raises: Invalid naming each fault and its place."""
    rows = await _enqueue(db, SQL["tasks.enqueue"], tenant_id, new, actor=actor, request_id=request_id)
    return [Task.from_row(row) for row in rows]


async def enqueue_bulk(
    db: Connection,
    tenant_id: UUID,
    new: Sequence[NewTask],
    *,
    actor: str,
    request_id: str | None = None,
) -> tuple[list[UUID], set[str]]:
    """Do as enqueue_many, but return only the ids, and the queues that got work: reading a thousand tasks back takes as long as writing them."""
    rows = await _enqueue(db, SQL["tasks.enqueue_bulk"], tenant_id, new, actor=actor, request_id=request_id)
    return [row["id"] for row in rows], {row["queue"] for row in rows}


async def _enqueue(
    db: Connection,
    statement: str,
    tenant_id: UUID,
    new: Sequence[NewTask],
    *,
    actor: str,
    request_id: str | None,
) -> list[asyncpg.Record]:
    repeated = [one.retry_of for one in new]
    rows: list[asyncpg.Record] = await db.fetch(
        statement, tenant_id, actor, request_id, repeated, *task_columns.of(new)
    )
    if len(rows) < len(new):  # none were: a queue is unknown
        names = [row["name"] for row in await db.fetch(SQL["tasks.list_queues"])]
        known = ", ".join(names)
        faults = tuple(
            Fault("/queue" if len(new) == 1 else f"/tasks/{index}/queue", f"must be one of {known}")
            for index, one in enumerate(new)
            if one.queue is not None and one.queue not in names
        )
        raise Invalid(f"there is no such queue; there are {known}", slug="unknown-queue", faults=faults)
    return rows


def check(new: NewTask) -> None:
    """Raises: Invalid naming each fault, as `enqueue` would; only whether the queue exists is left to the caller."""
    task_columns.of([new])


async def get(db: Connection, tenant_id: UUID, task_id: UUID) -> Task:
    """Return a task, live or ended. Raises: NotFound."""
    row = await db.fetchrow(SQL["tasks.get"], tenant_id, task_id)
    if row is None:
        raise NotFound(f"there is no task {task_id}")
    return Task.from_row(row)


async def list_chosen(db: Connection, tenant_id: UUID, ids: Sequence[UUID]) -> list[Task]:
    """Return those of the tasks that there are, oldest first."""
    return [Task.from_row(row) for row in await db.fetch(SQL["tasks.list_chosen"], tenant_id, list(ids))]


async def list_tasks(
    db: Connection,
    tenant_id: UUID,
    *,
    before: UUID | None = None,
    limit: int = 50,
    state: str | None = None,
    type: str | None = None,  # noqa: A002 - the column is called so
    queue: str | None = None,
    q: str | None = None,
) -> list[Task]:
    """Return tasks, newest first, those older than *before*. *q* is a prefix of an id or of a type, or a concurrency key."""
    lower, upper, text = task_search.read(q)
    rows = await db.fetch(SQL["tasks.list"], tenant_id, before, limit, state, type, queue, lower, upper, text)
    return [Task.from_row(row) for row in rows]


async def cancel(
    db: Connection, tenant_id: UUID, task_id: UUID, *, actor: str, reason: str | None = None
) -> tuple[Task, list[Cancelled]]:
    """Cancel a task, final with the caller's commit; a second cancel answers the same. Returns what runs must be stopped.

    Raises: NotFound, Conflict when it ended otherwise, Unavailable when its row stays locked.
    """
    stopped = await _cancel_rows(db, tenant_id, [task_id], actor, reason)
    task = await get(db, tenant_id, task_id)
    if task.state != "cancelled":
        raise Conflict(f"task {task_id} has already {task.state}", slug="task-ended")
    return task, stopped


async def requeue(
    db: Connection,
    tenant_id: UUID,
    task_id: UUID,
    *,
    actor: str,
    request_id: str | None = None,
    changes: dict[str, Any] | None = None,
    reuse_steps: bool = True,
    reason: str | None = None,
) -> Task:
    """Create a new task from one that has ended, with *changes* to it; finished steps are kept when the payload is the same.

    A dead letter of the old task is handled by this, unless somebody has handled it before.

    Raises: NotFound, Conflict when it is still live, Invalid.
    """
    old = await get(db, tenant_id, task_id)
    if not old.is_final:
        raise Conflict(
            f"task {task_id} is {old.state}; only a task that has ended can be requeued", slug="task-live"
        )
    new = await enqueue(db, tenant_id, repeat(old, **(changes or {})), actor=actor, request_id=request_id)
    await link_requeued(db, tenant_id, [(old, new)], actor=actor, reason=reason, reuse_steps=reuse_steps)
    return new


def repeat(old: Task, **changes: Any) -> NewTask:
    """Return what has to be asked for to do *old* again."""
    return replace(
        NewTask(
            type=old.type,
            payload=old.payload,
            queue=old.queue,
            priority=old.priority,
            timeout_seconds=old.timeout_seconds,
            max_attempts=old.max_attempts,
            concurrency_key=old.concurrency_key,
            concurrency_limit=old.concurrency_limit,
            retry_of=old.id,
        ),
        **changes,
    )


async def link_requeued(
    db: Connection,
    tenant_id: UUID,
    pairs: Sequence[tuple[Task, Task]],
    *,
    actor: str,
    reason: str | None,
    reuse_steps: bool,
) -> None:
    """Finish what requeueing means for each pair of an old and its new task: steps are kept, dead letters handled."""
    same = [
        (old.id, new.id)
        for old, new in pairs
        if reuse_steps and new.payload == old.payload and new.type_version == old.type_version
    ]
    if same:
        await db.execute(SQL["tasks.copy_steps"], tenant_id, *task_columns.transposed(same))
    both = [(old.id, new.id) for old, new in pairs]
    await db.execute(
        SQL["dead_letters.mark_requeued"], tenant_id, *task_columns.transposed(both), actor, reason
    )


async def send_signal(
    db: Connection, tenant_id: UUID, task_id: UUID, *, name: str, data: dict[str, Any], actor: str
) -> str | None:
    """Send a live task a signal; the first of a name wins. Returns the queue that has work now, if the task was waiting for it.

    Raises: NotFound, Conflict when the task has ended.
    """
    held = await db.fetchrow(SQL["tasks.lock"], tenant_id, task_id)
    if held is None:
        task = await get(db, tenant_id, task_id)
        raise Conflict(f"task {task_id} has already {task.state}", slug="task-ended")
    await db.fetchval(SQL["tasks.insert_signal"], tenant_id, task_id, name, data, actor)
    queue: str | None = await db.fetchval(SQL["tasks.resume"], tenant_id, task_id, name, actor)
    return queue


async def is_live(db: Connection, tenant_id: UUID, task_id: UUID) -> bool:
    """Whether the task is there and has not ended."""
    row = await db.fetchrow(SQL["tasks.get"], tenant_id, task_id)
    return row is not None and not is_final(row["state"])


async def list_queues(db: Connection) -> list[str]:
    """Return the names of the installation's queues."""
    return [row["name"] for row in await db.fetch(SQL["tasks.list_queues"])]


async def _cancel_rows(
    db: Connection, tenant_id: UUID, ids: list[UUID], actor: str, reason: str | None
) -> list[Cancelled]:
    await db.execute(SQL["tasks.limit_lock_wait"])
    for tries_left in reversed(range(CANCEL_TRIES)):
        try:
            async with savepoint(db):
                rows = await db.fetch(SQL["tasks.cancel"], tenant_id, ids, actor, reason)
        except asyncpg.LockNotAvailableError as exc:
            if not tries_left:
                raise Unavailable(
                    f"task {ids[0]} is being written to; try again", slug="task-busy", retry_after=1
                ) from exc
        else:
            return [
                Cancelled(task_id=row["id"], executor_id=row["executor_id"], fence=row["fence"])
                for row in rows
            ]
    raise AssertionError("the last try returns or raises")
