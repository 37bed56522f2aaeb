"""What two parties do to one task at the same moment, each interleaving arranged step by step."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.database import Database
from server.executor import Executor
from services import runs, tasks
from services.errors import Conflict, StaleAttempt, Unavailable
from services.task_context import Run, TaskContext
from services.tasks import Cancelled, Task
from sql import SQL
from tests.engine import (
    QUICK,
    cancel,
    ended,
    enqueue,
    get,
    history,
    running_executor,
    signal,
    task_type,
    until,
)

Admin = asyncpg.Connection


async def claimed(database: Database, tenant: UUID, **more: Any) -> tuple[UUID, Task]:
    """Create a task and claim it for an executor that lives for a minute; returns the executor and the task."""
    executor_id = uuid4()
    task = await enqueue(database, tenant, "noop", **more)
    async with database.statement() as db:
        await db.execute(SQL["executors.register"], executor_id, "here", 1, "0", 10, 60.0)
        await db.fetch(SQL["executors.claim"], executor_id, task.queue, 10, None, None, None)
    return executor_id, await get(database, tenant, task.id)


def run_of(task: Task) -> Run:
    """Return the run that the task's row describes."""
    return Run(
        id=task.id,
        tenant_id=task.tenant_id,
        type=task.type,
        type_version=task.type_version,
        fence=task.fence,
        attempt=task.attempt,
        max_attempts=task.max_attempts,
        seconds_left=60,
        created_by=task.created_by,
        request_id=None,
        payload=task.payload,
    )


async def test_a_cancel_waits_for_a_write_under_way_and_nothing_is_written_after_it(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    """Without the row lock the write below would commit after the cancel was acknowledged."""
    _, task = await claimed(database, tenant)
    async with database.tenant(tenant, "task") as writing:
        await runs.lock(writing, task.id, task.fence)

        with pytest.raises(Unavailable, match="try again"):
            await cancel(database, task)

        await admin.execute("CREATE TABLE versions (at timestamptz DEFAULT clock_timestamp())")
        await admin.execute("GRANT INSERT ON versions TO galley_web")
        await writing.execute("INSERT INTO versions DEFAULT VALUES")
    await cancel(database, task)

    assert await admin.fetchval(
        "SELECT (SELECT max(at) FROM versions) < finished_at FROM task_history WHERE id = $1", task.id
    )
    async with database.tenant(tenant, "task") as writing:
        with pytest.raises(StaleAttempt):
            await runs.lock(writing, task.id, task.fence)


async def test_the_rescuer_leaves_a_task_alone_while_its_run_writes(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    _, task = await claimed(database, tenant)
    await admin.execute("UPDATE executors SET lease_until = now() - interval '1 s'")
    async with database.tenant(tenant, "task") as writing:
        await runs.lock(writing, task.id, task.fence)
        async with database.statement() as db:
            during = await db.fetch(SQL["executors.rescue"], 10, 30)
    async with database.statement() as db:
        after = await db.fetch(SQL["executors.rescue"], 10, 30)

    assert ([row["id"] for row in during], [row["id"] for row in after]) == ([], [task.id])


async def test_every_write_of_a_run_that_lost_its_task_is_refused(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    """A step, a write, a wait, a retry and a result of run 1 while run 3 has the task."""
    executor_id, old = await claimed(database, tenant)
    zombie = TaskContext(run_of(old), database=database)
    async with database.statement() as db:
        await db.fetchval(SQL["executors.give_back"], executor_id, [old.id], [old.fence])
        await db.fetch(SQL["executors.claim"], executor_id, old.queue, 10, None, None, None)

    async def nothing(*_: Any) -> None: ...

    with pytest.raises(StaleAttempt):
        await zombie.step("paid", nothing)
    with pytest.raises(StaleAttempt):
        await zombie.write("version", nothing)
    with pytest.raises(StaleAttempt):
        await zombie.wait_for("go")
    async with database.statement() as db:
        retried = await db.fetchval(
            SQL["runs.retry"], old.id, old.fence, "retry_scheduled", {"class": "x"}, 0, True
        )
        finished = await db.fetch(
            SQL["executors.finish"], [old.id], [old.fence], ["succeeded"], ["1"], [None]
        )

    now = await get(database, tenant, old.id)
    assert (retried, [row["outcome"] for row in finished]) == (False, ["stale"])
    assert (now.state, now.fence, now.attempt, now.result) == ("running", 3, 1, None)
    assert await admin.fetchval("SELECT count(*) FROM task_steps") == 0


async def test_an_executor_whose_lease_is_over_claims_nothing(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    executor_id, _ = await claimed(database, tenant)
    await admin.execute("UPDATE executors SET lease_until = now() - interval '1 ms'")
    task = await enqueue(database, tenant, "noop")
    async with database.statement() as db:
        dead = await db.fetch(SQL["executors.claim"], executor_id, "default", 10, None, None, None)
        stranger = await db.fetch(SQL["executors.claim"], uuid4(), "default", 10, None, None, None)

    assert [row["outcome"] for row in (*dead, *stranger)] == ["unregistered", "unregistered"]
    assert (await get(database, tenant, task.id)).state == "queued"


async def test_a_signal_that_comes_before_the_wait_ends_it_at_once(database: Database, tenant: UUID) -> None:
    _, task = await claimed(database, tenant)
    await signal(database, task, "go", {"n": 1})
    async with database.tenant(tenant, "task") as db:
        outcome = await runs.wait(db, run_of(task), "go", timeout=None)

    assert outcome == {"data": {"n": 1}, "actor": "user:bob", "expired": False}
    assert (await get(database, tenant, task.id)).state == "running"


async def test_a_signal_sent_while_the_wait_commits_comes_after_it_and_wakes_the_task(
    database: Database, tenant: UUID
) -> None:
    _, task = await claimed(database, tenant)
    async with database.tenant(tenant, "task") as waiting:
        assert await runs.wait(waiting, run_of(task), "go", timeout=None) is None
        sending = asyncio.create_task(signal(database, task, "go"))
        await asyncio.sleep(0.2)
        assert not sending.done()
    await sending

    assert (await get(database, tenant, task.id)).state == "queued"


async def test_a_task_parked_behind_a_holder_runs_as_soon_as_the_holder_waits(
    database: Database, tenant: UUID
) -> None:
    """No sweep runs here: the wait itself must let the next one go."""
    parked = asyncio.Event()

    async def hold(task: TaskContext, payload: Any) -> None:
        if payload.first:
            await parked.wait()
            await task.wait_for("go")

    with task_type("hold", hold):
        async with running_executor(database):
            key = {"concurrency_key": "k", "concurrency_limit": 1}
            holder = await until(
                database, await enqueue(database, tenant, "hold", {"first": True}, **key), "running"
            )
            behind = await until(
                database, await enqueue(database, tenant, "hold", {"first": False}, **key), "blocked"
            )
            parked.set()

            assert (await ended(database, behind)).state == "succeeded"
            assert (await get(database, tenant, holder.id)).state == "waiting"


async def test_a_cancel_takes_the_task_away_from_its_run_for_good(database: Database, tenant: UUID) -> None:
    """A cancel that only left a mark would let the result below in."""
    _, task = await claimed(database, tenant)
    await cancel(database, task)
    async with database.statement() as db:
        finished = await db.fetch(
            SQL["executors.finish"], [task.id], [task.fence], ["succeeded"], ["1"], [None]
        )

    task = await get(database, tenant, task.id)
    assert [row["outcome"] for row in finished] == ["stale"]
    assert (task.state, task.result) == ("cancelled", None)


async def test_of_a_cancel_and_a_result_exactly_one_wins_and_both_are_told(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    """A hundred races; the end that is told is the end that stands."""
    pairs = [await claimed(database, tenant) for _ in range(100)]

    async def finish(task: Task) -> bool:
        while True:
            async with database.statement() as db:
                rows = await db.fetch(
                    SQL["executors.finish"], [task.id], [task.fence], ["succeeded"], ["1"], [None]
                )
            if not rows or rows[0]["outcome"] != "busy":
                return not rows

    async def stop(task: Task) -> bool:
        try:
            async with database.tenant(tenant, "user:bob") as db:
                await tasks.cancel(db, tenant, task.id, actor="user:bob")
        except Conflict:
            return False
        return True

    told = []
    for start in range(0, len(pairs), 10):
        racing = [task for _, task in pairs[start : start + 10]]
        told += await asyncio.gather(*(asyncio.gather(finish(task), stop(task)) for task in racing))
    states = dict(await admin.fetch("SELECT id, state FROM task_history"))

    for (_, task), (finished, cancelled) in zip(pairs, told, strict=True):
        assert (finished, cancelled) == (states[task.id] == "succeeded", states[task.id] == "cancelled")
    assert await admin.fetchval("SELECT count(*) FROM tasks") == 0


async def test_a_run_stopped_in_the_tick_of_its_start_frees_its_slot(
    database: Database, tenant: UUID
) -> None:
    _, task = await claimed(database, tenant)
    executor = Executor(database, options=QUICK)
    executor._start(run_of(task))
    executor.stop_cancelled([Cancelled(task_id=task.id, executor_id=uuid4(), fence=task.fence)])
    await asyncio.sleep(0.01)

    assert executor.busy == 0


async def test_late_news_of_an_earlier_run_does_not_stop_the_present_one(
    database: Database, tenant: UUID
) -> None:
    """A heartbeat may ask about run 1 and be answered when run 3 of the same task has begun here."""
    told = asyncio.Event()

    async def work(task: TaskContext, payload: Any) -> None:
        await told.wait()

    with task_type("work", work):
        async with running_executor(database) as executor:
            task = await until(database, await enqueue(database, tenant, "work"), "running")
            executor._stop_lost({task.id: task.fence - 1})
            told.set()
            task = await ended(database, task)

    assert (task.state, task.fence) == ("succeeded", 1)


async def test_a_claim_whose_answer_was_lost_is_given_back_by_the_heartbeat(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    async with running_executor(database) as executor:
        await executor.lease.held.wait()
        task = await enqueue(database, tenant, "noop", {"seconds": 0}, queue="content")
        await ended(database, task)
        lost = await admin.fetchval(
            "INSERT INTO tasks (tenant_id, created_by, type, type_version, payload, queue, state, run_at, attempt, fence, executor_id,"
            " started_at) SELECT tenant_id, created_by, type, type_version, payload, queue, 'running', run_at, 1, 1, $2,"
            " now() - interval '6 s' FROM task_history WHERE id = $1 RETURNING id",
            task.id,
            executor.lease.executor_id,
        )
        again = await ended(database, await get(database, tenant, lost))

    assert (again.state, again.attempt, again.fence) == ("succeeded", 1, 3)
    assert "interrupted" in await history(database, again)


async def test_an_executor_that_goes_while_it_registers_leaves_no_lease_behind(
    database: Database, admin: Admin
) -> None:
    for pause in (0, 0.001, 0.003, 0.01):
        async with running_executor(database):
            await asyncio.sleep(pause)

        assert await admin.fetchval("SELECT count(*) FROM executors") == 0


async def test_when_the_clock_is_set_back_the_living_keep_their_runs_and_the_dead_lose_theirs_in_time(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    """Both leases reach into an hour that comes again; only one executor is there to renew its own."""
    living, kept = await claimed(database, tenant)
    _, lost = await claimed(database, tenant)
    await admin.execute(
        "UPDATE executors SET seen_at = seen_at + interval '1 hour', lease_until = lease_until + interval '1 hour'"
    )

    async with database.statement() as db:
        at_once = await db.fetch(SQL["executors.rescue"], 10, 30)
        alive = await db.fetchval(
            SQL["executors.heartbeat"], living, 60.0, [kept.id], [kept.fence], 0, 0, 0.0
        )
        leases = await admin.fetch("SELECT extract(epoch FROM lease_until - app.now()) FROM executors")
        await admin.execute(
            "UPDATE executors SET lease_until = lease_until - interval '60 s' WHERE id <> $1", living
        )
        in_time = await db.fetch(SQL["executors.rescue"], 10, 30)

    assert at_once == []
    assert alive
    assert all(50 < row[0] <= 60 for row in leases)
    assert [row["id"] for row in in_time] == [lost.id]
