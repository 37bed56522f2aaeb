"""What a hint is worth to the claim loop: a round trip less when nothing else is ready, and never another queue's turn."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg

from server.database import Database
from server.executor import Executor
from services.tasks import Task
from tests.engine import QUICK, ended, enqueue, running_executor

PATIENT = replace(QUICK, poll_min=timedelta(minutes=1), poll_max=timedelta(minutes=1))


async def hint_until_ended(executor: Executor, database: Database, task: Task, queues: list[str]) -> Task:
    """Say again and again that *queues* have work until the task has ended."""

    async def keep_hinting() -> None:
        while True:
            for queue in queues:
                executor.wake(queue)
            await asyncio.sleep(0)  # no run ends without a hint beside it

    hinting = asyncio.create_task(keep_hinting())
    try:
        return await ended(database, task)
    finally:
        hinting.cancel()


async def test_a_queue_named_by_a_hint_is_claimed_from_without_asking_which_are_ready(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    await admin.execute("ALTER FUNCTION app.ready_queues RENAME TO asked_for_ready_queues")
    await admin.execute(
        "CREATE FUNCTION app.ready_queues(text[], smallint[], timestamptz[], uuid[]) RETURNS text[]"
        " LANGUAGE sql AS $$SELECT '{}'::text[]$$"
    )
    async with running_executor(database, PATIENT) as executor:
        task = await enqueue(database, tenant, "noop")
        task = await hint_until_ended(executor, database, task, ["default"])
    assert task.state == "succeeded"


async def test_hints_that_lead_nowhere_take_no_other_queues_turn(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    await admin.execute("INSERT INTO queues (name) VALUES ('other'), ('paused')")
    await admin.execute("UPDATE queues SET paused_at = now(), paused_by = 'user:ada' WHERE name = 'paused'")
    async with running_executor(database, PATIENT) as executor:
        looked = await enqueue(database, tenant, "noop")
        await hint_until_ended(executor, database, looked, ["default"])
        # Unasked it would look again in a minute.
        await enqueue(database, tenant, "noop", queue="paused")
        task = await enqueue(database, tenant, "noop", queue="other")
        task = await hint_until_ended(executor, database, task, ["default", "paused"])
    assert task.state == "succeeded"


async def test_hints_of_a_busy_queue_take_no_other_queues_turn_when_slots_are_few(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    await admin.execute("INSERT INTO queues (name) VALUES ('busy')")
    async with running_executor(database, replace(PATIENT, slots=1)) as executor:
        for _ in range(200):
            await enqueue(database, tenant, "noop", {"seconds": 0.01}, queue="busy")
        task = await enqueue(database, tenant, "noop")
        task = await hint_until_ended(executor, database, task, ["busy"])
        left = await admin.fetchval("SELECT count(*) FROM tasks WHERE queue = 'busy'")
    assert (task.state, left > 0) == ("succeeded", True)
