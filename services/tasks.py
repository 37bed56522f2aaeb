"""Tasks as callers see them: create, look up, cancel, requeue, signal. What runs them is server/executor.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from services import faults, task_columns, task_search
from services.errors import Conflict, Fault, Invalid, NotFound, Unavailable
from services.task_rows import Cancelled, NewTask, Task
from services.task_states import is_final
from sql import SQL, Connection, savepoint

__all__ = [
    "Cancelled",
    "NewTask",
    "Task",
    "cancel",
    "check",
    "enqueue",
    "enqueue_bulk",
    "enqueue_each",
    "enqueue_many",
    "get",
    "is_live",
    "link_requeued",
    "list_chosen",
    "list_queues",
    "list_tasks",
    "repeat",
    "requeue",
    "send_signal",
]

CANCEL_TRIES = 3  # of 250 ms each (RULINGS 8)


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
    asked = _Asked(tenant_id, actor, new, [request_id] * len(new), task_columns.complete(new))
    made = await _insert(db, SQL["tasks.enqueue"], asked)
    if not made:
        raise _unknown_queue(new, await list_queues(db))
    return asked.tasks(made)


async def enqueue_bulk(
    db: Connection,
    tenant_id: UUID,
    new: Sequence[NewTask],
    *,
    actor: str,
    request_id: str | None = None,
) -> tuple[list[UUID], set[str]]:
    """Do as enqueue_many, but return only the ids, and the queues that got work."""
    asked = _Asked(tenant_id, actor, new, [request_id] * len(new), task_columns.complete(new))
    made = await _insert(db, SQL["tasks.enqueue_bulk"], asked)
    if not made:
        raise _unknown_queue(new, await list_queues(db))
    return [row["id"] for row in made], {row.queue for row in asked.rows}


async def enqueue_each(
    db: Connection, tenant_id: UUID, asked: Sequence[tuple[NewTask, str | None]], *, actor: str
) -> list[Task | Invalid]:
    """Create tasks that were asked for one by one, each with the id of its request, in one statement.

    Returns in the order given; whoever asked for what cannot be gets the reason, and costs nobody else their task.
    """
    found: dict[int, Task | Invalid] = {}
    good = []
    for place, (new, request_id) in enumerate(asked):
        try:
            good.append((place, new, request_id, task_columns.complete([new])[0]))
        except Invalid as exc:
            found[place] = exc
    while good:
        places, new, request_ids, rows = zip(*good, strict=True)
        batch = _Asked(tenant_id, actor, new, request_ids, rows)
        made = await _insert(db, SQL["tasks.enqueue"], batch)
        found |= zip(places, batch.tasks(made), strict=bool(made))
        if made:
            break
        queues = await list_queues(db)
        found |= {
            place: _unknown_queue([one], queues) for place, one, _, row in good if row.queue not in queues
        }
        good = [entry for entry in good if entry[0] not in found]
    return [found[place] for place in range(len(asked))]


class _Asked(NamedTuple):
    """Tasks to create: what was asked for, and the same completed."""

    tenant_id: UUID
    actor: str
    new: Sequence[NewTask]
    request_ids: Sequence[str | None]
    rows: Sequence[task_columns.Row]

    def tasks(self, made: Sequence[asyncpg.Record]) -> list[Task]:
        """Return the tasks as they are now; none where none were made."""
        return [
            Task.created(
                row,
                given,
                tenant_id=self.tenant_id,
                actor=self.actor,
                retry_of=new.retry_of,
                request_id=request_id,
            )
            for row, new, request_id, given in zip(
                made, self.new, self.request_ids, self.rows, strict=bool(made)
            )
        ]


async def _insert(db: Connection, statement: str, asked: _Asked) -> list[asyncpg.Record]:
    """Return a row for each task, or none at all: then a queue is unknown."""
    callers = [
        (request_id, new.retry_of) for request_id, new in zip(asked.request_ids, asked.new, strict=True)
    ]
    return await db.fetch(
        statement,
        asked.tenant_id,
        asked.actor,
        *task_columns.arrays(callers),
        *task_columns.arrays(asked.rows),
    )


def _unknown_queue(new: Sequence[NewTask], queues: list[str]) -> Invalid:
    known = ", ".join(queues)
    wrong = [(index, one.queue) for index, one in enumerate(new) if one.queue and one.queue not in queues]
    found = tuple(
        Fault(
            "/queue" if len(new) == 1 else f"/tasks/{index}/queue",
            f"must be one of {known}, not {faults.shown(queue)}",
        )
        for index, queue in wrong
    )
    what = f"there is no queue {wrong[0][1]}" if wrong else "there is no such queue"
    return Invalid(f"{what}; there are {known}", slug="unknown-queue", faults=found)


def check(new: NewTask) -> None:
    """Raises: Invalid naming each fault, as `enqueue` would; only whether the queue exists is left to the caller."""
    task_columns.complete([new])


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
    if lower is None and (state or type or queue or text):
        rows = await db.fetch(SQL["tasks.list_filtered"], tenant_id, before, limit, state, type, queue, text)
    else:
        rows = await db.fetch(SQL["tasks.list"], tenant_id, before, limit, state, type, queue, lower, upper)
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


async def run_now(db: Connection, tenant_id: UUID, task_id: UUID, *, actor: str) -> Task:
    """Make a scheduled task due: one for later, or one that waits for its next try. Raises: NotFound, Conflict when it is not scheduled."""
    held = await db.fetchrow(SQL["tasks.lock"], tenant_id, task_id)
    if held is not None and held["state"] == "scheduled":
        await db.fetchval(SQL["tasks.hurry"], tenant_id, task_id, actor)
    task = await get(db, tenant_id, task_id)
    if held is None or held["state"] != "scheduled":
        raise Conflict(f"task {task_id} is {task.state}; only a scheduled task can be run before it is due")
    return task


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
    await lock_requeue(db, task_id)
    old = await get(db, tenant_id, task_id)
    if not old.is_final:
        raise Conflict(
            f"task {task_id} is {old.state}; only a task that has ended can be requeued", slug="task-live"
        )
    new = await enqueue(db, tenant_id, repeat(old, **(changes or {})), actor=actor, request_id=request_id)
    await link_requeued(db, tenant_id, [(old, new)], actor=actor, reason=reason, reuse_steps=reuse_steps)
    return new


async def lock_requeue(db: Connection, task_id: UUID) -> None:
    """Wait for whoever is requeueing the task, a bulk operation for instance, and let nobody else until the transaction ends."""
    await db.execute(SQL["tasks.lock_requeue"], task_id)


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
