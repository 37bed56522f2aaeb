"""What a run shows while it works: nothing of it is lost by ending, and ending it can be stopped."""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg
import pytest

from server.database import Database
from services.live_output import FLUSH_SECONDS, LiveOutput
from tests.engine import enqueue

Admin = asyncpg.Connection
TEXT = "SELECT string_agg(text, '' ORDER BY seq) FROM task_output WHERE task_id = $1"


async def test_text_that_is_being_written_when_the_run_ends_is_not_lost(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    task = await enqueue(database, tenant, "noop")
    live = LiveOutput(database, tenant_id=tenant, task_id=task.id, fence=0)
    async with admin.transaction():
        await admin.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", task.id)  # the write has to wait
        live.progress({"fraction": 0.5, "text": "half"})
        live.append("the last words")
        await asyncio.sleep(2 * FLUSH_SECONDS)
        live.append(", and one more")
        closing = asyncio.create_task(live.close())
        await asyncio.sleep(0.05)
    await closing

    assert await admin.fetchval(TEXT, task.id) == "the last words, and one more"


async def test_a_stop_that_comes_while_it_closes_is_not_swallowed(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    task = await enqueue(database, tenant, "noop")
    live = LiveOutput(database, tenant_id=tenant, task_id=task.id, fence=0)
    async with admin.transaction():
        await admin.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", task.id)
        live.progress({"fraction": 0.5, "text": "half"})
        closing = asyncio.create_task(live.close())
        await asyncio.sleep(0.05)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing


async def test_it_goes_on_after_it_was_closed(database: Database, tenant: UUID, admin: Admin) -> None:
    task = await enqueue(database, tenant, "noop")
    live = LiveOutput(database, tenant_id=tenant, task_id=task.id, fence=0)
    for text in ("before a wait, ", "after it"):
        live.append(text)
        await live.close()

    written = await admin.fetchval(TEXT, task.id)
    assert written == "before a wait, after it"
