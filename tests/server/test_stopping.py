"""What a stopping executor leaves behind: nothing that anybody has to wait for (P18)."""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg

from server.database import Database
from tests.engine import enqueue, get, history, running_executor

Admin = asyncpg.Connection


async def until_a_claim_waits(admin: Admin) -> None:
    async with asyncio.timeout(10):
        while not await admin.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query LIKE '%app.claim(%')"
        ):
            await admin.execute("SELECT pg_stat_clear_snapshot()")  # inside a transaction it looks only once
            await asyncio.sleep(0.01)


async def test_what_is_being_claimed_when_the_executor_stops_is_given_back(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    """Its claim would be committed after the drain had looked, and be found by the rescuer, which counts an attempt."""
    hurry = asyncio.Event()
    hurry.set()
    task = await enqueue(database, tenant, "noop", {"seconds": 60})
    async with admin.transaction():
        await admin.execute("LOCK TABLE tasks IN SHARE MODE")  # a claim gets as far as its last statement
        async with running_executor(database, drain=False) as executor:
            await until_a_claim_waits(admin)
            draining = asyncio.create_task(executor.drain(hurry=hurry))
            await asyncio.sleep(0.05)
            await admin.execute("COMMIT; BEGIN")
            await draining
            left = await get(database, tenant, task.id)

            assert (left.state, left.attempt, left.executor_id) == ("queued", 0, None)
            assert "interrupted" in await history(database, task)
