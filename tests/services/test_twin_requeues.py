"""Several who requeue the same tasks at one moment: each finished task is repeated once, unless somebody asks for it again on purpose."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import asyncpg
import pytest

from server.bulk import BulkOperations
from server.database import Database
from services import bulk_batches, bulk_operations, dead_letters, tasks
from services.bulk_operations import BulkOperation
from tests import dead
from tests.conftest import Cluster
from tests.content import waiting_task

Admin = asyncpg.Connection
ACTOR = "user:ops"


async def start(
    database: Database, tenant: UUID, action: str = "requeue", target: str = "tasks", **wanted: object
) -> BulkOperation:
    """Preview and begin an operation."""
    async with database.tenant(tenant, ACTOR) as db:
        shown = await bulk_operations.preview(db, tenant, action=action, target=target, wanted=wanted)
        return (await bulk_operations.start(db, tenant, shown.plan, actor=ACTOR, reason="a test"))[0]


async def finish(database: Database, admin: Admin) -> None:
    """Carry out what there is, without the pauses before what was locked."""
    carrier = BulkOperations(database, on_work=lambda _: None, on_cancelled=lambda _: None)
    while await admin.fetchval("SELECT count(*) FROM bulk_operations WHERE state = 'running'"):
        await admin.execute("UPDATE bulk_operations SET resume_at = app.now()")
        await carrier.carry_out(lambda: None)


async def look(database: Database, tenant: UUID, operation: BulkOperation) -> tuple[str, int, int, int]:
    """Return state, done, skipped and changed."""
    async with database.tenant(tenant, ACTOR) as db:
        now = await bulk_operations.get(db, tenant, operation.id)
    return now.state, now.done, now.skipped, now.changed


async def cancelled(database: Database, tenant: UUID, count: int) -> list[UUID]:
    """Make tasks that have ended without leaving a dead letter."""
    made = [task.id for task in await dead.make(database, tenant, count)]
    async with database.tenant(tenant, ACTOR) as db:
        await db.fetch("SELECT FROM app.cancel($1, $2, 'user:ada', NULL)", tenant, made)
    return made


async def successors(admin: Admin) -> Counter[UUID]:
    """How often each task was made again."""
    return Counter(
        row[0] for row in await admin.fetch("SELECT retry_of FROM all_tasks WHERE retry_of IS NOT NULL")
    )


@pytest.mark.parametrize("failed", [False, True])
async def test_two_bulk_operations_over_the_same_tasks_repeat_each_once(
    database: Database, tenant: UUID, admin: Admin, failed: bool
) -> None:
    made = (
        [task.id for task in await dead.letters(database, admin, tenant, 5)]
        if failed
        else await cancelled(database, tenant, 5)
    )
    first, second = await start(database, tenant), await start(database, tenant)

    async with database.tenant(tenant, ACTOR) as one, database.tenant(tenant, ACTOR) as other:
        batches = [
            await bulk_batches.run_batch(one, tenant, first.id),
            await bulk_batches.run_batch(other, tenant, second.id),
        ]
    await finish(database, admin)

    assert [(batch.done, len(batch.busy)) for batch in batches if batch] == [(5, 0), (0, 5)]
    assert await successors(admin) == dict.fromkeys(made, 1)
    assert await look(database, tenant, first) == ("done", 5, 0, 0)
    assert await look(database, tenant, second) == ("done", 0, 0, 5)


@pytest.mark.parametrize("failed", [False, True])
async def test_a_bulk_operation_leaves_out_what_somebody_is_requeueing_just_then(
    database: Database, tenant: UUID, admin: Admin, failed: bool
) -> None:
    made = (
        [task.id for task in await dead.letters(database, admin, tenant, 3)]
        if failed
        else await cancelled(database, tenant, 3)
    )
    operation = await start(database, tenant)

    async with database.tenant(tenant, ACTOR) as person, database.tenant(tenant, ACTOR) as db:
        again = dead_letters.requeue if failed else tasks.requeue
        await again(person, tenant, made[1], actor="user:ada")
        await bulk_batches.run_batch(db, tenant, operation.id)
    await finish(database, admin)

    assert await successors(admin) == dict.fromkeys(made, 1)
    assert await look(database, tenant, operation) == ("done", 2, 0, 1)


async def test_a_requeue_that_commits_before_the_lock_is_seen_under_it(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    """Between looking for what matches and locking it somebody was quicker: what matched is not what counts."""
    matched = await cancelled(database, tenant, 3)
    operation = await start(database, tenant)
    async with database.tenant(tenant, ACTOR) as person:
        await tasks.requeue(person, tenant, matched[1], actor="user:ada")

    async with database.tenant(tenant, ACTOR) as db:
        batch = await bulk_batches._requeue(db, tenant, operation, matched)

    assert (batch.done, batch.busy) == (2, [])
    assert await successors(admin) == dict.fromkeys(matched, 1)


async def test_whoever_asks_for_it_again_on_purpose_gets_another(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    made = await cancelled(database, tenant, 1)
    await start(database, tenant)
    await finish(database, admin)

    for _ in range(2):
        async with database.tenant(tenant, ACTOR) as db:
            await tasks.requeue(db, tenant, made[0], actor="user:ada")

    assert await successors(admin) == {made[0]: 3}


async def test_two_people_who_requeue_one_dead_letter_two_ways_never_wait_for_each_other_in_a_circle(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    """One as a task, one as a dead letter: both lock the task's number before the letter."""
    (made,) = await dead.letters(database, admin, tenant, 1)

    async with database.tenant(tenant, ACTOR) as one, database.tenant(tenant, ACTOR) as other:
        await tasks.lock_requeue(one, made.id)
        await other.execute("SET LOCAL lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await dead_letters.requeue(other, tenant, made.id, actor="user:bob")
        await other.execute("ROLLBACK; BEGIN")
        await one.execute("SET LOCAL lock_timeout = '50ms'")
        await tasks.requeue(one, tenant, made.id, actor="user:ada")

    assert await successors(admin) == {made.id: 1}


async def test_a_bulk_cancel_passes_over_a_task_whose_item_is_being_written(
    database: Database, tenant: UUID, admin: Admin, cluster: Cluster, database_name: str
) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        held, review = await waiting_task(db, tenant)
        await waiting_task(db, tenant)
    operation = await start(database, tenant, "cancel")
    writer = await asyncpg.connect(cluster.admin(database_name))

    async with writer.transaction(), database.tenant(tenant, ACTOR) as db:
        await writer.execute("SELECT FROM content_items WHERE id = $1 FOR UPDATE", review.content_id)
        batch = await bulk_batches.run_batch(db, tenant, operation.id)
    await writer.close()
    await finish(database, admin)

    assert batch is not None
    assert (batch.done, batch.busy) == (1, [held])
    assert await look(database, tenant, operation) == ("done", 2, 0, 0)
