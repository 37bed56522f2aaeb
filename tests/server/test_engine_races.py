"""Two of the engine's own parts, or one and a caller, at one task at the same moment: each interleaving arranged step by step.

The first party's transaction is open while the second acts, as happens by chance once in a million; what runs and its writes are in
test_executor_races.py.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.database import Database
from services import runs, tasks
from services.task_context import Run
from services.tasks import Task
from sql import SQL, Connection
from tests.engine import cancel, enqueue, get, history, signal

Admin = asyncpg.Connection
KEY = {"concurrency_key": "account-1", "concurrency_limit": 1}


async def register(database: Database) -> UUID:
    """Register an executor that lives for a minute."""
    executor_id = uuid4()
    async with database.statement() as db:
        await db.execute(SQL["executors.register"], executor_id, "here", 1, "0", 10, 60.0)
    return executor_id


async def claim(db: Connection, executor_id: UUID, want: int = 10) -> dict[UUID, int]:
    """Claim in the caller's transaction; returns the fence of each task."""
    rows = await db.fetch(SQL["executors.claim"], executor_id, "default", want, None, None, None)
    return {row["id"]: row["fence"] for row in rows if row["outcome"] == "claimed"}


async def finish(db: Connection, task_id: UUID, fence: int) -> str:
    """End a run well; returns what became of it."""
    rows = await db.fetch(SQL["executors.finish"], [task_id], [fence], ["succeeded"], ["1"], [None])
    return rows[0]["outcome"] if rows else "done"


async def waiting(database: Database, tenant: UUID, name: str) -> tuple[Task, UUID]:
    """A task that waits for a signal, until a moment ago; returns the executor that ran it too."""
    executor_id = await register(database)
    task = await enqueue(database, tenant, "noop")
    async with database.engine() as db:
        (fence,) = (await claim(db, executor_id)).values()
    async with database.tenant(tenant, "task") as db:
        assert await runs.wait(db, run_of(task, fence), name, timeout=None) is None
    return await get(database, tenant, task.id), executor_id


def run_of(task: Task, fence: int) -> Run:
    """Return one run of the task."""
    return Run(
        id=task.id,
        tenant_id=task.tenant_id,
        type=task.type,
        type_version=task.type_version,
        fence=fence,
        attempt=1,
        max_attempts=task.max_attempts,
        seconds_left=60,
        created_by=task.created_by,
        request_id=None,
        payload=task.payload,
    )


async def test_what_is_being_cancelled_is_not_given_back(database: Database, tenant: UUID) -> None:
    executor_id = await register(database)
    made = [await enqueue(database, tenant, "noop") for _ in range(2)]
    async with database.engine() as db:
        fences = await claim(db, executor_id)
    given = (executor_id, list(fences), list(fences.values()))

    async with database.tenant(tenant, "user:bob") as stopping, database.statement() as db:
        await tasks.cancel(stopping, tenant, made[0].id, actor="user:bob")
        during = await db.fetchrow(SQL["executors.give_back"], *given)
    async with database.statement() as db:
        after = await db.fetchrow(SQL["executors.give_back"], *given)

    assert tuple(during) == ([made[1].id], [made[0].id])
    assert tuple(after) == ([], [])
    assert [(await get(database, tenant, task.id)).state for task in made] == ["cancelled", "queued"]


async def test_a_signal_that_is_on_its_way_when_the_wait_ends_still_counts(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    task, _ = await waiting(database, tenant, "go")
    await admin.execute("UPDATE tasks SET wait_until = app.now() - interval '1 ms'")

    async with database.tenant(tenant, "user:bob") as sending:
        await tasks.send_signal(sending, tenant, task.id, name="go", data={"n": 1}, actor="user:bob")
        async with database.statement() as db:
            during = await db.fetchval("SELECT promoted FROM app.promote(10)")
    async with database.statement() as db:
        after = await db.fetchval("SELECT promoted FROM app.promote(10)")

    assert (during, after) == (0, 0)
    assert (await history(database, task))[-1] == "signalled"


async def test_a_signal_behind_the_end_of_the_wait_is_found_by_the_run_that_follows(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    task, executor_id = await waiting(database, tenant, "go")
    await admin.execute("UPDATE tasks SET wait_until = app.now() - interval '1 ms'")
    async with database.engine() as promoting:
        assert await promoting.fetchval("SELECT promoted FROM app.promote(10)") == 1
        sending = asyncio.create_task(signal(database, task, "go", {"n": 1}))
        await _blocked(admin)
    await sending

    async with database.engine() as db:
        fences = await claim(db, executor_id)
    async with database.tenant(tenant, "task") as db:
        outcome = await runs.wait(db, run_of(task, fences[task.id]), "go", timeout=None)

    assert outcome == {"data": {"n": 1}, "actor": "user:bob", "expired": False}


@pytest.mark.parametrize("ending", ["finish", "cancel"])
async def test_what_is_parked_while_the_holder_of_its_key_ends_is_woken_by_the_next_sweep(
    database: Database, tenant: UUID, ending: str
) -> None:
    """The claim still sees the holder run, and the holder's end does not see yet what it parks."""
    executor_id = await register(database)
    holder = await enqueue(database, tenant, "noop", **KEY)
    async with database.engine() as db:
        (fence,) = (await claim(db, executor_id)).values()
    behind = await enqueue(database, tenant, "noop", **KEY)

    async with database.engine() as claiming:
        assert await claim(claiming, executor_id) == {}
        if ending == "cancel":
            await cancel(database, holder)
        else:
            async with database.statement() as db:
                assert await finish(db, holder.id, fence) == "done"
    stuck = await get(database, tenant, behind.id)
    async with database.statement() as db:
        row = await db.fetchrow(SQL["executors.wake_keys"], 10, None, None, None)

    assert stuck.state == "blocked"
    assert row["woken"] == ["default"]
    assert (await get(database, tenant, behind.id)).state == "queued"


async def test_of_a_result_and_a_rescue_whoever_locks_first_wins(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    executor_id = await register(database)
    first, second = [await enqueue(database, tenant, "noop") for _ in range(2)]
    async with database.engine() as db:
        fences = await claim(db, executor_id)
    await admin.execute("UPDATE executors SET lease_until = app.now() - interval '1 s'")

    async with database.engine() as finishing, database.engine() as rescuing:
        assert await finish(finishing, first.id, fences[first.id]) == "done"
        rescued = await rescuing.fetch(SQL["executors.rescue"], 10, 30)
        async with database.statement() as db:
            late = await finish(db, second.id, fences[second.id])
    async with database.statement() as db:
        refused = await finish(db, second.id, fences[second.id])

    assert [row["id"] for row in rescued] == [second.id]
    assert (late, refused) == ("busy", "stale")
    assert [(await get(database, tenant, task.id)).state for task in (first, second)] == [
        "succeeded",
        "queued",
    ]


async def test_a_pause_waits_for_the_claim_under_way_and_lets_none_begin_after_it(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    executor_id = await register(database)
    for _ in range(2):
        await enqueue(database, tenant, "noop")
    await admin.execute("UPDATE tenants SET operates = true")

    async def pause() -> None:
        async with database.tenant(tenant, "user:bob") as db:
            assert await db.fetchval("SELECT app.pause_queue('default', NULL, NULL, 'user:bob')")

    async with database.engine() as claiming:
        before = await claim(claiming, executor_id, 1)
        pausing = asyncio.create_task(pause())
        await _blocked(admin)
    await pausing
    async with database.engine() as db:
        after = await claim(db, executor_id, 1)

    assert (len(before), len(after)) == (1, 0)


async def test_a_task_that_is_being_claimed_when_its_time_is_up_is_left_to_its_run(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    """The run is told how little is left, and ends the task itself."""
    executor_id = await register(database)
    task = await enqueue(database, tenant, "noop", total_timeout_seconds=60)
    await admin.execute("UPDATE tasks SET total_deadline_at = app.now()")

    async with database.engine() as claiming:
        rows = await claiming.fetch(SQL["executors.claim"], executor_id, "default", 1, None, None, None)
        async with database.statement() as db:
            during = tuple(await db.fetchrow(SQL["executors.time_out"], 10))
    async with database.statement() as db:
        after = tuple(await db.fetchrow(SQL["executors.time_out"], 10))

    assert (during, after) == ((0, 1), (0, 0))
    assert rows[0]["seconds_left"] <= 0
    assert rows[0]["deadline_is_total"]
    assert (await get(database, tenant, task.id)).state == "running"


async def _blocked(admin: Any) -> None:
    """Wait until somebody waits for a lock."""
    async with asyncio.timeout(10):
        while not await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)
