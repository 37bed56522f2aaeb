"""What becomes of a transaction whose connection breaks under it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server.database import ACQUIRE_SECONDS, CONNECTION_ERRORS, Database
from sql import Connection

Admin = asyncpg.Connection


def borrow(database: Database, tenant: UUID, how: str) -> AbstractAsyncContextManager[Any]:
    return database.tenant(tenant, "test") if how == "tenant" else getattr(database, how)()


@pytest.mark.parametrize("how", ["tenant", "engine", "statement"])
async def test_a_cancel_stays_one_when_the_connection_has_broken_meanwhile(
    database: Database, tenant: UUID, admin: Admin, how: str
) -> None:
    lent: asyncio.Future[tuple[int, Any]] = asyncio.get_running_loop().create_future()

    async def hold() -> None:
        async with borrow(database, tenant, how) as db:
            lent.set_result((await db.fetchval("SELECT pg_backend_pid()"), db))
            await asyncio.sleep(60)

    holding = asyncio.create_task(hold())
    pid, db = await lent
    await admin.execute("SELECT pg_terminate_backend($1)", pid)
    async with asyncio.timeout(15):
        while not _broken(db):
            await asyncio.sleep(0.01)
    holding.cancel()

    with pytest.raises(asyncio.CancelledError):
        await holding


def _broken(db: Any) -> bool:
    try:
        return bool(db.is_closed())
    except asyncpg.InterfaceError:  # it has left its pool
        return True


async def test_a_connection_that_breaks_costs_its_transaction_and_no_other(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    async def be_broken_off() -> None:
        async with database.tenant(tenant, "test") as db:
            await admin.execute(
                "SELECT pg_terminate_backend($1)", await db.fetchval("SELECT pg_backend_pid()")
            )
            await db.fetchval("SELECT pg_sleep(5)")

    for _ in range(3):
        with pytest.raises(CONNECTION_ERRORS):
            await be_broken_off()
        async with database.tenant(tenant, "test") as db:
            assert await db.fetchval("SELECT app.current_tenant()") == tenant


async def test_who_is_looked_up_waits_no_longer_for_others_than_for_the_database(database: Database) -> None:
    """Twelve callers come one after the other while nothing answers: each learns it in time, whether theirs had begun or not."""

    async def silent(db: Connection, items: Sequence[int]) -> Sequence[int]:
        await asyncio.Event().wait()
        return items

    async def ask(number: int) -> float:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await database.look_up(silent, number)
        return time.monotonic() - began

    asked = []
    for number in range(12):
        asked.append(asyncio.create_task(ask(number)))
        await asyncio.sleep(0.03)  # longer than what a round is given before the next one overtakes it

    assert max(await asyncio.gather(*asked)) < 1.5 * ACQUIRE_SECONDS
