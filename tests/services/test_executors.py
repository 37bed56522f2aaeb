"""Executors as people see them: in what state, with what they run, and for whom."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.database import Database
from services import executors
from services.errors import Forbidden, NotFound
from sql import SQL
from tests import engine


@pytest.fixture
async def operating(admin: Any, tenant: UUID) -> UUID:
    await admin.execute("UPDATE tenants SET operates = true WHERE id = $1", tenant)
    return tenant


async def register(admin: Any, *, lease: float = 3600.0, draining: bool = False) -> UUID:
    """Put an executor there that no process stands for."""
    executor_id: UUID = await admin.fetchval(
        "INSERT INTO executors (id, host, pid, release, slots, lease_until, draining_at, draining_by)"
        " VALUES ($1, 'press-1', 4711, '0.1.0', 200, app.now() + make_interval(secs => $2),"
        " CASE WHEN $3 THEN app.now() END, CASE WHEN $3 THEN 'user:ada' END) RETURNING id",
        uuid4(), lease, draining,
    )  # fmt: skip
    return executor_id


async def test_an_executor_serves_drains_is_drained_or_lost(
    database: Database, admin: Any, operating: UUID
) -> None:
    ids = {
        await register(admin): "serving",
        await register(admin, draining=True): "drained",
        await register(admin, lease=-1.0): "lost",
        await register(admin, lease=-1.0, draining=True): "lost",
    }
    busy = await register(admin)
    await engine.enqueue(database, operating, "noop")
    await admin.fetch(SQL["executors.claim"], busy, "default", 10, None, None, None)
    async with database.tenant(operating, "user:ada") as db:
        await executors.drain(db, busy, actor="user:ada")
        found = await executors.list_executors(db, installation=True)

    assert {one.id: one.state for one in found} == ids | {busy: "draining"}


async def test_what_runs_is_listed_for_its_own_tenant_longest_first(
    database: Database, admin: Any, operating: UUID, other_tenant: UUID
) -> None:
    executor_id = await register(admin)
    made = []
    for owner in (operating, other_tenant, operating):
        made.append(await engine.enqueue(database, owner, "noop"))
        await admin.fetch(SQL["executors.claim"], executor_id, "default", 1, None, None, None)

    async with database.tenant(operating, "user:ada") as db:
        running = await executors.list_running(db, operating)

    assert [task.id for task in running[executor_id]] == [made[0].id, made[2].id]


async def test_the_database_itself_refuses_those_who_may_not(
    database: Database, admin: Any, other_tenant: UUID
) -> None:
    executor_id = await register(admin)
    for statement, values in (
        ("executors.drain", (executor_id, True, "user:eve")),
        ("executors.list", (True,)),
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.tenant(other_tenant, "user:eve") as db:
                await db.fetch(SQL[statement], *values)
    with pytest.raises(Forbidden, match="only operators of a tenant that operates it"):
        async with database.tenant(other_tenant, "user:eve") as db:
            await executors.undrain(db, executor_id, actor="user:eve")

    assert await admin.fetchval("SELECT draining_at FROM executors") is None


async def test_one_that_never_was_is_not_found(database: Database, operating: UUID) -> None:
    async with database.tenant(operating, "user:ada") as db:
        for verb in (executors.drain, executors.undrain):
            with pytest.raises(NotFound):
                await verb(db, uuid4(), actor="user:ada")
