"""What a claim and a finish read stays small, however bad the state of the tables: counted in buffers, which do not depend on the machine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from sql import SQL
from tests.conftest import Cluster, make_tenant

Admin = asyncpg.Connection
MOST_BUFFERS = 250  # of one claim of ten tasks
MOST_BUFFERS_OF_FINISH = (
    600  # of ending ten: the row, its indexes, its place in the history, one row of numbers
)
HISTORY, READY, LATER, BLOCKED, DONE, TENANTS = 300_000, 300_000, 200_000, 20_000, 60_000, 200
INSERT = """
    INSERT INTO tasks (tenant_id, queue, type, state, created_by, payload, run_at, concurrency_key, concurrency_limit)
    SELECT $1, $2, 'noop', $3, 'test', '{}', app.now() - interval '1 hour' + n * interval '1 ms', $5, $6 FROM generate_series(1, $4) n"""
INSERT_HISTORY = """
    INSERT INTO task_history (id, tenant_id, queue, type, type_version, state, priority, attempt, max_attempts, crashes, snoozes, fence, run_at,
      created_at, created_by, started_at, timeout_seconds, payload, finished_at, result)
    SELECT app.uuid7(), $1, 'default', 'noop', 1, 'succeeded', 2, 1, 5, 0, 0, 1, app.now(), app.now(), 'test', app.now(), 300, '{}', app.now(), '{}'
    FROM generate_series(1, $2)"""


async def insert(
    admin: Admin,
    tenant: UUID,
    count: int,
    state: str = "queued",
    *,
    queue: str = "default",
    key: str | None = None,
) -> None:
    """Insert live tasks by the thousand."""
    await admin.execute(INSERT, tenant, queue, state, count, key, 1 if key else None)


@pytest.fixture
async def bulk(admin: Admin) -> Admin:
    """The superuser's connection without triggers: 300,000 rows need no foreign key checks."""
    await admin.execute("SET session_replication_role = replica; SET synchronous_commit = off")
    return admin


@pytest.fixture
async def claimer(cluster: Cluster, database_name: str) -> AsyncIterator[Admin]:
    """A connection of the role that serves, as an executor has it."""
    connection = await asyncpg.connect(cluster.web(database_name), server_settings={"jit": "off"})
    yield connection
    await connection.close()


async def buffers(db: Admin, name: str, *arguments: Any) -> tuple[int, dict[str, Any]]:
    """Run a statement and return how many buffers it touched, with its plan."""
    row = await db.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {SQL[name]}", *arguments)
    plan = json.loads(row)[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], plan


class Claims:
    """Claims and ends tasks as an executor does, and counts what that reads."""

    def __init__(self, db: Admin) -> None:
        self.db = db
        self.executor_id = uuid4()
        self.floor: tuple[Any, Any, Any] = (None, None, None)

    async def register(self) -> None:
        """Become an executor."""
        await self.db.execute(SQL["executors.register"], self.executor_id, "here", 1, "0", 100, 3600.0)

    async def claim(self, want: int) -> list[asyncpg.Record]:
        """Claim, and move the floor on as the claim loop does."""
        rows = await self.db.fetch(SQL["executors.claim"], self.executor_id, "default", want, *self.floor)
        rows = sorted(
            (r for r in rows if r["outcome"] == "claimed"),
            key=lambda r: (r["priority"], r["run_at"], r["id"]),
        )
        if rows:
            self.floor = (rows[-1]["priority"], rows[-1]["run_at"], rows[-1]["id"])
        return rows

    async def end(self, rows: list[asyncpg.Record]) -> None:
        """Finish what was claimed."""
        await self.db.fetch(SQL["executors.finish"], *self.results(rows))

    @staticmethod
    def results(rows: list[asyncpg.Record]) -> list[list[Any]]:
        """Return the arguments of the finish."""
        n = len(rows)
        return [
            [r["id"] for r in rows],
            [r["fence"] for r in rows],
            ["succeeded"] * n,
            ["{}"] * n,
            [None] * n,
        ]

    async def claim_cost(self, *, above_floor: bool = True) -> int:
        """Return the buffers of claiming ten. The first ones fill the session's caches."""
        for _ in range(7):
            await self.claim(1)
        if not above_floor:
            self.floor = (None, None, None)
        cost, plan = await buffers(self.db, "executors.claim", self.executor_id, "default", 10, *self.floor)
        assert plan["Actual Rows"] == 10, plan
        return cost

    async def finish_cost(self) -> int:
        """Return the buffers of ending ten."""
        for _ in range(7):
            await self.end(await self.claim(1))
        rows = await self.claim(10)
        assert len(rows) == 10
        cost, _ = await buffers(self.db, "executors.finish", *self.results(rows))
        return cost


State = Callable[[Admin, Claims, UUID], Awaitable[None]]


async def much_history(bulk: Admin, claims: Claims, tenant: UUID) -> None:
    """Hundreds of thousands of tasks have ended."""
    await bulk.execute(INSERT_HISTORY, tenant, HISTORY)
    await insert(bulk, tenant, 100)


async def deep_backlog(bulk: Admin, claims: Claims, tenant: UUID) -> None:
    """Hundreds of thousands are ready."""
    await insert(bulk, tenant, READY)


async def many_scheduled(bulk: Admin, claims: Claims, tenant: UUID) -> None:
    """Hundreds of thousands are due later."""
    await insert(bulk, tenant, LATER, "scheduled")
    await insert(bulk, tenant, 100)


async def hot_key(bulk: Admin, claims: Claims, tenant: UUID) -> None:
    """Tens of thousands are parked behind one key, and its holder runs."""
    await insert(bulk, tenant, BLOCKED, "blocked", key="hot")
    await insert(bulk, tenant, 100)


@pytest.mark.parametrize("state", [much_history, deep_backlog, many_scheduled, hot_key])
@pytest.mark.parametrize("analyzed", [True, False], ids=["analyzed", "never analyzed"])
async def test_claim_and_finish_read_little_in_a_bad_state(
    bulk: Admin, claimer: Admin, tenant: UUID, state: State, analyzed: bool
) -> None:
    claims = Claims(claimer)
    await claims.register()
    await state(bulk, claims, tenant)
    if analyzed:
        await bulk.execute("ANALYZE")

    assert await claims.claim_cost() <= MOST_BUFFERS
    assert await claims.finish_cost() <= MOST_BUFFERS_OF_FINISH


@asynccontextmanager
async def open_snapshot(cluster: Cluster, name: str) -> AsyncIterator[None]:
    """Hold a snapshot open, as a dump or a long report does."""
    other = await asyncpg.connect(cluster.admin(name))
    try:
        async with other.transaction(isolation="repeatable_read"):
            await other.fetchval("SELECT count(*) FROM tasks")
            yield
    finally:
        await other.close()


async def test_a_snapshot_left_open_elsewhere_costs_a_claim_above_its_floor_nothing(
    bulk: Admin, claimer: Admin, tenant: UUID, cluster: Cluster, database_name: str
) -> None:
    claims = Claims(claimer)
    await claims.register()
    await insert(bulk, tenant, DONE + 1000)
    await bulk.execute("ANALYZE tasks")
    async with open_snapshot(cluster, database_name):
        for _ in range(DONE // 500):
            await claims.end(await claims.claim(500))
        ready = [["default"], [claims.floor[0]], [claims.floor[1]], [claims.floor[2]]]

        assert await claims.claim_cost() <= MOST_BUFFERS
        assert (await buffers(claimer, "executors.ready_queues", *ready))[0] <= MOST_BUFFERS
        assert await claims.finish_cost() <= MOST_BUFFERS_OF_FINISH
        assert await claims.claim_cost(above_floor=False) > MOST_BUFFERS, (
            "the floor is of no use here, so this test shows nothing"
        )


async def test_a_fair_claim_hops_over_the_backlog_of_one_tenant(
    bulk: Admin, claimer: Admin, tenant: UUID
) -> None:
    await bulk.execute("UPDATE queues SET fair = true WHERE name = 'default'")
    claims = Claims(claimer)
    await claims.register()
    await insert(bulk, tenant, READY // 3)
    for n in range(TENANTS):
        await insert(bulk, await make_tenant(bulk, f"tenant {n}"), 20)
    await bulk.execute("ANALYZE tasks")

    # A hundred tenants are looked at, each by two descents of the index.
    assert await claims.claim_cost() <= 1500
