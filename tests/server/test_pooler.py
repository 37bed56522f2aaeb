"""Galley behind PgBouncer in transaction mode: found out by itself, nothing kept in a session, everything works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server import database as server_database
from server import migrations
from server.database import Database
from services.errors import Unavailable
from services.task_context import TaskContext
from tests.conftest import Cluster
from tests.engine import ended, enqueue, running_executor, task_type
from tests.pooler import pooler

CLIENTS = 50
ROUNDS = 6


@pytest.fixture
async def through(cluster: Cluster, database_name: str) -> AsyncIterator[str]:
    """The address of the test's database through a PgBouncer with three server connections."""
    async with pooler(cluster.web(database_name)) as dsn:
        yield dsn


@pytest.fixture
async def pooled(through: str) -> AsyncIterator[Database]:
    """The test's database as the application sees it through PgBouncer, with no way round it."""
    opened = Database(through, web_connections=CLIENTS)
    await opened.open()
    yield opened
    await opened.close()


async def test_a_pooler_is_found_out_and_a_plain_postgresql_is_not(
    cluster: Cluster, database_name: str, through: str
) -> None:
    found = [await server_database.is_pooled(dsn) for dsn in (through, cluster.web(database_name))]

    assert found == [True, False]


async def test_a_pooler_that_drops_start_up_parameters_is_found_out_too(
    cluster: Cluster, database_name: str
) -> None:
    dropped = ",".join([*server_database.SERVER_SETTINGS, "statement_timeout", "role"])
    async with pooler(cluster.web(database_name), ignored=dropped) as dsn:
        assert await server_database.is_pooled(dsn)


async def test_tenants_do_not_leak_between_fifty_interleaved_clients(
    pooled: Database, tenant: UUID, other_tenant: UUID, admin: asyncpg.Connection
) -> None:
    for owner, count in ((tenant, 3), (other_tenant, 5)):
        await admin.execute(
            "INSERT INTO tasks (tenant_id, queue, type, state, created_by, payload)"
            " SELECT $1, 'default', 'noop', 'scheduled', 'x', '{}' FROM generate_series(1, $2::int)",
            owner,
            count,
        )
    seen: list[tuple[UUID, UUID | None, list[UUID]]] = []
    strays: list[Any] = []

    async def work(number: int) -> None:
        mine = (tenant, other_tenant)[number % 2]
        for _ in range(ROUNDS):
            async with pooled.tenant(mine, f"user:{number}") as db:
                await asyncio.sleep(0)
                rows = await db.fetch("SELECT tenant_id FROM tasks")
                who = await db.fetchval("SELECT current_setting('app.actor')")
                seen.append(
                    (mine, await db.fetchval("SELECT app.current_tenant()"), [r["tenant_id"] for r in rows])
                )
                assert who == f"user:{number}"
            async with pooled.lookup() as db:
                strays.append(await db.fetchval("SELECT app.current_tenant()"))
                strays.append(await db.fetchval("SELECT min(tenant_id::text) FROM tasks"))

    await asyncio.gather(*(work(number) for number in range(CLIENTS)))

    assert len(seen) == CLIENTS * ROUNDS
    for mine, current, rows in seen:
        assert current == mine
        assert rows == [mine] * (3 if mine == tenant else 5)
    assert set(strays) == {None}


async def test_connections_through_a_pooler_have_time_limits(pooled: Database, tenant: UUID) -> None:
    names = ("jit", "lock_timeout", "idle_in_transaction_session_timeout", "statement_timeout")
    asked = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)

    async with pooled.tenant(tenant, "user:ada") as db:
        on_a_page = tuple(await db.fetchrow(asked) or ())
    async with pooled.statement() as db:
        in_the_engine = tuple(await db.fetchrow(asked) or ())

    assert on_a_page == ("off", "2s", "10s", "5s")
    assert in_the_engine == ("off", "2s", "10s", "30s")


async def test_tasks_run_to_their_end_behind_a_pooler(pooled: Database, through: str, tenant: UUID) -> None:
    async def run(task: TaskContext, payload: Any) -> Any:
        async def count() -> int:
            return task.fence

        first = await task.step("first", count)
        signal = await task.write("second", lambda db: db.fetchval("SELECT 2"))
        return [first, signal]

    other = Database(through)
    await other.open()
    with task_type("stepping", run):
        async with running_executor(pooled) as one, running_executor(other) as two:
            made = [await enqueue(pooled, tenant, "stepping") for _ in range(40)]
            done = [await ended(pooled, task) for task in made]
            assert one.lease.executor_id != two.lease.executor_id
    await other.close()

    assert {task.state for task in done} == {"succeeded"}
    assert all(task.result == [1, 2] for task in done)


async def test_nothing_listens_through_a_pooler_and_everything_does_round_it(
    cluster: Cluster, database_name: str, through: str, pooled: Database
) -> None:
    direct = Database(through, direct_dsn=cluster.web(database_name))
    await direct.open()
    heard = asyncio.Event()
    try:
        connection = await direct.dedicated("listener")
        await connection.add_listener("galley_probe", lambda *_: heard.set())
        async with pooled.statement() as db:
            await db.execute("SELECT pg_notify('galley_probe', 'x')")
        async with asyncio.timeout(15):
            await heard.wait()
        connection.terminate()
        assert (direct.pooled, direct.can_listen) == (True, True)
        assert (pooled.pooled, pooled.can_listen) == (True, False)
    finally:
        await direct.close()


async def test_a_direct_address_that_is_not_direct_is_refused(
    through: str, cluster: Cluster, database_name: str
) -> None:
    async with pooler(cluster.web(database_name)) as another:
        with pytest.raises(
            Unavailable, match="DIRECT_DATABASE_URL leads through a connection pooler as well"
        ):
            await Database(through, direct_dsn=another).open()


async def test_migrations_through_a_pooler_are_refused_in_one_sentence(through: str) -> None:
    with pytest.raises(
        migrations.MigrationError, match=r"set MIGRATE_DATABASE_URL or DIRECT_DATABASE_URL to an address"
    ):
        await migrations.migrate(through)

    assert not (await migrations.check(through)).behind
