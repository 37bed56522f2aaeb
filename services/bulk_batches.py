"""One batch of a bulk operation: some of the tasks it is about, its counts and its place, in one transaction.

Rows that somebody else has locked are passed over and tried again at the end, a few times with growing pauses; what is locked even then
is counted as skipped. Whether a task still is what was asked for is decided under its lock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

from services import bulk_operations, dead_letters, tasks
from services.bulk_operations import BulkOperation
from services.errors import Invalid
from services.tasks import Cancelled, NewTask, Task
from sql import SQL, Connection

BATCH = 250  # rows: 0.1 s of work, so that a stop and the queue's own work get their turn
PASSES = (
    4  # over rows that were locked, 1, 2 and 4 s apart: longer than any write of a run may take (RULINGS 6)
)
BUSY_MOST = 2000  # rows remembered as locked
FAILURES_KEPT = 20


@dataclass(slots=True, kw_only=True)
class Batch:
    """What one batch did: what the process has to do about it once it has committed."""

    done: int = 0
    skipped: int = 0
    busy: list[UUID] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    cancelled: list[Cancelled] = field(default_factory=list)
    queues: set[str] = field(default_factory=set)
    over: bool = False


async def run_batch(db: Connection, tenant_id: UUID, operation_id: UUID) -> Batch | None:
    """Do the next batch; None when there is none to do or another process is at it. The caller's transaction is the batch."""
    row = await db.fetchrow(SQL["bulk_operations.lock"], tenant_id, operation_id)
    if row is None:
        return None
    operation = BulkOperation.from_row(row)
    again = operation.busy if operation.passes else None
    matches = await bulk_operations.list_matches(
        db,
        tenant_id,
        operation,
        after=None if again is not None else operation.cursor,
        limit=BATCH if again is None else BUSY_MOST,
        among=again,
    )
    batch = await _CARRY_OUT[operation.action](db, tenant_id, operation, matches) if matches else Batch()
    await _advance(db, tenant_id, operation, matches, batch)
    return batch


async def _advance(
    db: Connection, tenant_id: UUID, operation: BulkOperation, matches: list[UUID], batch: Batch
) -> None:
    """Move the operation's place and counts; decide whether it is over, or what was locked gets another pass."""
    cursor, passes, pause = operation.cursor, operation.passes, 0.0
    busy = batch.busy if passes else operation.busy + batch.busy
    busy, beyond = busy[:BUSY_MOST], busy[BUSY_MOST:]
    if not passes and len(matches) == BATCH:
        cursor = matches[-1]
    elif busy and passes < PASSES - 1:
        passes, pause = passes + 1, 2.0**passes
    else:
        batch.over = True
        busy, beyond = [], busy + beyond
    batch.skipped = len(beyond)
    room = max(0, FAILURES_KEPT - len(operation.failures))
    await db.execute(
        SQL["bulk_operations.advance"],
        *(tenant_id, operation.id, batch.done, batch.skipped, len(batch.failures), batch.failures[:room]),
        *(cursor, busy, passes, pause, batch.over),
    )


async def _cancel(db: Connection, tenant_id: UUID, operation: BulkOperation, ids: list[UUID]) -> Batch:
    state = operation.filter.get("state")
    free = [row["id"] for row in await db.fetch(SQL["bulk_operations.lock_tasks"], tenant_id, ids, state)]
    held = await db.fetchval(SQL["bulk_operations.lock_reviewed"], free)
    free = _without(free, held)
    rows = await db.fetch(SQL["tasks.cancel"], tenant_id, free, operation.created_by, operation.reason)
    return Batch(
        done=len(rows),
        busy=_without(ids, free),
        cancelled=[
            Cancelled(task_id=row["id"], executor_id=row["executor_id"], fence=row["fence"]) for row in rows
        ],
    )


async def _discard(db: Connection, tenant_id: UUID, operation: BulkOperation, ids: list[UUID]) -> Batch:
    free = [row["task_id"] for row in await db.fetch(SQL["dead_letters.lock_free"], tenant_id, ids)]
    await db.execute(SQL["dead_letters.discard"], tenant_id, free, operation.created_by, operation.reason)
    return Batch(done=len(free), busy=_without(ids, free))


async def _requeue(db: Connection, tenant_id: UUID, operation: BulkOperation, ids: list[UUID]) -> Batch:
    changes = dict(operation.changes)
    at_once, reuse_steps = changes.pop("at_once", False), changes.pop("reuse_steps", True)
    ours = [row["id"] for row in await db.fetch(SQL["bulk_operations.lock_requeues"], ids)]
    # Whatever somebody requeued until just now has a successor: a look of its own, since the one at what matches came before the locks.
    left = [row["id"] for row in await db.fetch(SQL["bulk_operations.list_unrepeated"], tenant_id, ours)]
    letters = {row["task_id"]: row for row in await db.fetch(SQL["dead_letters.lock_free"], tenant_id, left)}
    known = {row["task_id"] for row in await db.fetch(SQL["dead_letters.list_known"], tenant_id, left)}
    free = [task_id for task_id in left if task_id in letters or task_id not in known]
    olds = await tasks.list_chosen(db, tenant_id, free)
    wanted = []
    for old in olds:
        letter = letters.get(old.id)
        wait = (
            None if letter is None or at_once else letter["moment"] + dead_letters.backoff(letter["requeues"])
        )
        wanted.append((old, tasks.repeat(old, run_at=wait, **changes)))
    pairs, failures = await _enqueue_all(db, tenant_id, operation, wanted)
    if pairs:
        await tasks.link_requeued(
            db,
            tenant_id,
            pairs,
            actor=operation.created_by,
            reason=operation.reason,
            reuse_steps=reuse_steps,
        )
    return Batch(
        done=len(pairs),
        busy=_without(ids, ours) + _without(left, free),
        failures=failures,
        queues={new.queue for _, new in pairs if new.state == "queued"},
    )


async def _enqueue_all(
    db: Connection, tenant_id: UUID, operation: BulkOperation, wanted: list[tuple[Task, NewTask]]
) -> tuple[list[tuple[Task, Task]], list[dict[str, str]]]:
    """Create them in one statement, or one by one when there is a fault among them: a type that is gone, a payload it no longer takes."""

    async def enqueue(several: list[tuple[Task, NewTask]]) -> list[tuple[Task, Task]]:
        made = await tasks.enqueue_many(
            db,
            tenant_id,
            [new for _, new in several],
            actor=operation.created_by,
            request_id=operation.request_id,
        )
        return [(old, new) for (old, _), new in zip(several, made, strict=True)]

    try:
        return (await enqueue(wanted) if wanted else []), []
    except Invalid:
        pass
    pairs: list[tuple[Task, Task]] = []
    failures = []
    for one in wanted:
        try:
            pairs += await enqueue([one])
        except Invalid as exc:
            faults = "; ".join(f"{fault.pointer} {fault.message}" for fault in exc.faults)
            failures.append({"task_id": str(one[0].id), "message": faults or str(exc)})
    return pairs, failures


_CARRY_OUT: dict[str, Callable[[Connection, UUID, BulkOperation, list[UUID]], Awaitable[Batch]]] = {
    "cancel": _cancel,
    "requeue": _requeue,
    "discard": _discard,
}


def _without(ids: list[UUID], done: list[UUID]) -> list[UUID]:
    left = set(done)
    return [one for one in ids if one not in left]


async def list_waiting(db: Connection) -> list[tuple[UUID, UUID, str]]:
    """Return (tenant, operation, actor) of what there is to do in all tenants, in the order of their turns."""
    return [
        (row["tenant_id"], row["id"], row["created_by"])
        for row in await db.fetch(SQL["bulk_operations.list_waiting"])
    ]


async def give_up(db: Connection, tenant_id: UUID, operation_id: UUID, *, error: str) -> None:
    """End an operation whose batches keep failing; what is done stays done."""
    await db.execute(SQL["bulk_operations.give_up"], tenant_id, operation_id, error[:2000])
