"""How runs ended is written down: in batches, several at a time, and nothing that cannot be written holds up anything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.database import Database
from server.finisher import Finisher, Outcome
from server.supervisor import Supervisor
from services.tasks import Task
from sql import SQL
from tests.engine import ended, enqueue, get, running_executor
from tests.server.test_executor_races import run_of

Admin = asyncpg.Connection


@asynccontextmanager
async def keeping(finisher: Finisher) -> AsyncIterator[None]:
    """Keep one loop going that writes; at the end of the block wait until everything is written."""
    supervisor = Supervisor()
    supervisor.start("finisher", finisher.keep, interval=1)
    try:
        yield
        async with asyncio.timeout(15):
            await finisher.flushed()
    finally:
        await supervisor.stop()


async def claim_all(database: Database, tasks: list[Task]) -> list[Task]:
    async with database.statement() as db:
        executor_id = uuid4()
        await db.execute(SQL["executors.register"], executor_id, "here", 1, "0", 10, 60.0)
        await db.fetch(SQL["executors.claim"], executor_id, "default", 10, None, None, None)
    return [await get(database, task.tenant_id, task.id) for task in tasks]


@pytest.mark.parametrize("state", ["failed", "retry"])
async def test_an_outcome_that_cannot_be_written_fails_its_task_and_holds_up_nobody(
    database: Database, tenant: UUID, state: str
) -> None:
    tasks = await claim_all(database, [await enqueue(database, tenant, "noop") for _ in range(3)])
    first, bad, last = (run_of(task) for task in tasks)
    told: dict[UUID, bool] = {}
    finisher = Finisher(
        database, on_written=lambda outcome, accepted: told.update({outcome.run.id: accepted})
    )
    unwritable = {"class": "odd", "message": "\ud800"}
    finisher.put(Outcome(run=first, state="succeeded", result="1"))
    finisher.put(
        Outcome(run=bad, retry_event="retry_scheduled", error=unwritable)
        if state == "retry"
        else Outcome(run=bad, state=state, error=unwritable)
    )
    finisher.put(Outcome(run=last, state="succeeded", result='"\\u0000"'))  # refused by PostgreSQL itself
    async with keeping(finisher):
        pass

    ends = [await get(database, tenant, task.id) for task in tasks]
    assert [task.state for task in ends] == ["succeeded", "failed", "failed"]
    assert ends[1].error is not None
    assert ends[1].error["message"] == "how it ended cannot be written down: DataError"
    assert told == {run.id: True for run in (first, bad, last)}


async def test_of_two_runs_of_a_task_in_one_batch_only_the_present_one_ends_it(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    (task,) = await claim_all(database, [await enqueue(database, tenant, "noop")])
    await admin.fetchval(SQL["executors.give_back"], task.executor_id, [task.id], [task.fence])
    (task,) = await claim_all(database, [task])
    await admin.fetch(
        SQL["executors.finish"],
        *([task.id] * 2, [1, task.fence], ["failed", "succeeded"], ['"old"', '"new"'], [None, None]),
    )

    task = await get(database, tenant, task.id)
    assert (task.state, task.result) == ("succeeded", "new")


TRIED = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' AND query LIKE '%app.finish(%')
"""


@pytest.mark.parametrize("late_first", [True, False])
async def test_a_run_that_came_too_late_takes_nothing_from_the_present_one_whose_row_is_locked(
    database: Database, tenant: UUID, admin: Admin, late_first: bool
) -> None:
    (task,) = await claim_all(database, [await enqueue(database, tenant, "noop")])
    late = run_of(task)
    await admin.fetchval(SQL["executors.give_back"], task.executor_id, [task.id], [task.fence])
    (task,) = await claim_all(database, [task])
    present = run_of(task)
    told: list[tuple[int, bool]] = []
    finisher = Finisher(
        database, on_written=lambda outcome, accepted: told.append((outcome.run.fence, accepted))
    )
    async with keeping(finisher), admin.transaction():
        await admin.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", task.id)
        for run in (late, present) if late_first else (present, late):
            finisher.put(Outcome(run=run, state="succeeded", result=str(run.fence)))
        async with asyncio.timeout(15):
            while not await admin.fetchval(TRIED):
                await admin.execute("SELECT pg_stat_clear_snapshot()")
                await asyncio.sleep(0.01)

    assert sorted(told) == [(late.fence, False), (present.fence, True)]
    task = await get(database, tenant, task.id)
    assert (task.state, task.result) == ("succeeded", present.fence)


async def test_a_task_that_somebody_writes_to_does_not_hold_up_the_retries_of_others(
    database: Database, tenant: UUID
) -> None:
    tasks = await claim_all(database, [await enqueue(database, tenant, "noop") for _ in range(3)])
    written: list[UUID] = []
    finisher = Finisher(database, on_written=lambda outcome, accepted: written.append(outcome.run.id))
    async with keeping(finisher), asyncio.timeout(10), database.tenant(tenant, "user:ada") as db:
        await db.fetchrow(SQL["tasks.lock"], tenant, tasks[0].id)
        for task in tasks:
            error = {"class": "odd", "message": "odd"}
            finisher.put(Outcome(run=run_of(task), retry_event="retry_scheduled", error=error, delay=60.0))
        while len(written) < 2:
            await asyncio.sleep(0.01)

    assert written == [tasks[1].id, tasks[2].id, tasks[0].id]
    assert {(await get(database, tenant, task.id)).state for task in tasks} == {"scheduled"}


SLOW_END = """
CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(7);
  RETURN NEW;
END $$;
CREATE TRIGGER slow_end BEFORE INSERT ON task_history FOR EACH ROW WHEN (NEW.concurrency_key = 'slow') EXECUTE FUNCTION wait_for_the_test();
"""


async def test_an_end_that_takes_long_to_write_holds_up_no_other(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    await admin.execute(SLOW_END)
    async with running_executor(database):
        async with admin.transaction():
            await admin.execute("SELECT pg_advisory_xact_lock(7)")
            slow = await enqueue(database, tenant, "noop", concurrency_key="slow", concurrency_limit=1)
            async with asyncio.timeout(15):
                while not await admin.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                    await asyncio.sleep(0.01)
            quick = await enqueue(database, tenant, "noop")
            assert (await ended(database, quick)).state == "succeeded"
            assert (await get(database, tenant, slow.id)).state == "running"
        assert (await ended(database, slow)).state == "succeeded"
