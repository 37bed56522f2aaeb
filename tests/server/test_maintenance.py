"""What hangs holds nothing else up: rows that somebody has locked are passed over, everything around them is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.database import Database
from server.maintenance import Maintenance
from sql import SQL
from tests.conftest import Cluster
from tests.content import waiting_task
from tests.engine import enqueue, get, running_executor, task_type, until

Admin = asyncpg.Connection


@pytest.fixture
async def other(cluster: Cluster, database_name: str) -> AsyncIterator[Admin]:
    """Somebody else's connection, which locks what it should not for so long."""
    connection = await asyncpg.connect(cluster.admin(database_name))
    yield connection
    await connection.close()


@asynccontextmanager
async def locked(other: Admin, table: str, row_id: Any, *, key: str = "id") -> AsyncIterator[None]:
    """Hold a row as long as the block lasts."""
    async with other.transaction():
        await other.execute(f"SELECT FROM {table} WHERE {key} = $1 FOR UPDATE", row_id)
        yield


async def asking(
    database: Database, tenant: UUID, admin: Admin, state: str, **more: Any
) -> tuple[UUID, UUID]:
    """A task that has asked for a review and is in *state* again; returns it and the item that it asks about."""
    async with database.tenant(tenant, "user:ada") as db:
        task_id, review = await waiting_task(db, tenant)
    columns = {"state": state, "waiting_for": None, "waiting_since": None, "wait_until": None} | more
    settings = ", ".join(f"{name} = ${place}" for place, name in enumerate(columns, 2))
    await admin.execute(f"UPDATE tasks SET {settings} WHERE id = $1", task_id, *columns.values())
    return task_id, review.content_id


async def register(database: Database) -> UUID:
    """Register an executor that lives for a minute."""
    executor_id = uuid4()
    async with database.statement() as db:
        await db.execute(SQL["executors.register"], executor_id, "here", 1, "0", 10, 60.0)
    return executor_id


async def states(admin: Admin, *ids: UUID) -> list[str]:
    """Return the state of each task."""
    found = dict(await admin.fetch("SELECT id, state FROM all_tasks WHERE id = ANY ($1)", list(ids)))
    return [found[one] for one in ids]


async def test_a_locked_item_holds_up_the_time_out_of_its_own_task_only(
    database: Database, tenant: UUID, admin: Admin, other: Admin
) -> None:
    over = await admin.fetchval("SELECT app.now() - interval '1 minute'")
    first, item = await asking(database, tenant, admin, "queued", total_deadline_at=over)
    second, _ = await asking(database, tenant, admin, "queued", total_deadline_at=over)
    late = await enqueue(database, tenant, "noop")
    await admin.execute("UPDATE tasks SET start_before = $2 WHERE id = $1", late.id, over)

    async with locked(other, "content_items", item), database.statement() as db:
        alone = [tuple(await db.fetchrow(SQL["executors.time_out"], 1)) for _ in range(2)]
        assert await states(admin, first, second, late.id) == ["queued", "timed_out", "timed_out"]
    async with database.statement() as db:
        after = tuple(await db.fetchrow(SQL["executors.time_out"], 1))

    assert alone == [(2, 1), (0, 1)]
    assert after == (1, 0)
    assert await states(admin, first) == ["timed_out"]


async def test_a_locked_item_holds_up_the_rescue_of_its_own_task_only(
    database: Database, tenant: UUID, admin: Admin, other: Admin
) -> None:
    dead = {"executor_id": uuid4(), "attempt": 5, "fence": 5}
    first, item = await asking(database, tenant, admin, "running", **dead)
    second, _ = await asking(database, tenant, admin, "running", **dead)

    async with locked(other, "content_items", item), database.statement() as db:
        during = await db.fetch(SQL["executors.rescue"], 10, 30)
        assert await states(admin, first, second) == ["running", "failed"]
    async with database.statement() as db:
        after = await db.fetch(SQL["executors.rescue"], 10, 30)

    assert [[row["id"] for row in rows] for rows in (during, after)] == [[second], [first]]
    assert await admin.fetchval("SELECT count(*) FROM reviews WHERE state = 'pending'") == 0


async def test_a_locked_item_holds_up_the_end_of_its_own_task_only(
    database: Database, tenant: UUID, admin: Admin, other: Admin
) -> None:
    runs = {"executor_id": await register(database), "attempt": 1, "fence": 1}
    first, item = await asking(database, tenant, admin, "running", **runs)
    second, _ = await asking(database, tenant, admin, "running", **runs)
    third, _ = await asking(database, tenant, admin, "running", **runs)
    ends = [
        *([first, second, third], [1, 1, 1], ["failed", "failed", "succeeded"]),
        *([None, None, "1"], [{"class": "x"}, {"class": "x"}, None]),
    ]

    async with locked(other, "content_items", item), database.statement() as db:
        during = [tuple(row) for row in await db.fetch(SQL["executors.finish"], *ends)]
        assert await states(admin, first, second, third) == ["running", "failed", "succeeded"]
    async with database.statement() as db:
        after = [tuple(row) for row in await db.fetch(SQL["executors.finish"], *ends)]

    assert during == [(first, "busy")]
    assert after == []
    assert await states(admin, first) == ["failed"]
    assert await admin.fetchval("SELECT count(*) FROM dead_letters") == 2


async def test_what_an_executor_cannot_give_back_at_once_it_gives_back_a_moment_later(
    database: Database, tenant: UUID, admin: Admin, other: Admin
) -> None:
    async def hang(task: Any, payload: Any) -> None:
        await asyncio.sleep(60)

    with task_type("hang", hang):
        async with running_executor(database, drain=False) as executor:
            made = [await enqueue(database, tenant, "hang") for _ in range(3)]
            for task in made:
                await until(database, task, "running")
            async with locked(other, "tasks", made[1].id):
                draining = asyncio.create_task(executor.drain())
                await until(database, made[0], "queued")
                assert await states(admin, *(task.id for task in made)) == ["queued", "running", "queued"]
            await draining

    now = [await get(database, tenant, task.id) for task in made]
    assert {(task.state, task.attempt, task.crashes) for task in now} == {("queued", 0, 0)}


async def expire(admin: Admin, tenant: UUID) -> dict[str, tuple[str, Callable[[], Awaitable[int]]]]:
    """Two of each kind that expires; returns by kind the key of the first one, and how to count them."""
    over = await admin.fetchval("SELECT app.now() - interval '2 hours'")
    user = await admin.fetchval(
        "INSERT INTO users (tenant_id, email, name, role, password_hash) VALUES ($1, 'ada@example.org', 'Ada', 'admin', 'x') RETURNING id",
        tenant,
    )
    for name in ("one", "two"):
        await admin.execute(
            "INSERT INTO sessions (tenant_id, user_id, token_hash, csrf_token, expires_at) VALUES ($1, $2, $3, $4, $5)",
            *(tenant, user, name.encode(), name, over),
        )
        await admin.execute(
            "INSERT INTO idempotency (tenant_id, principal_id, route, key, request_hash, expires_at) VALUES ($1, $2, 'r', $3, '', $4)",
            *(tenant, user, name, over),
        )
        await admin.execute(
            "INSERT INTO executors (id, host, pid, release, slots, lease_until) VALUES ($1, $2, 1, '0', 1, $3)",
            *(uuid4(), name, over),
        )
        await admin.execute(
            "INSERT INTO queues (name, paused_at, paused_by, resume_at) VALUES ($1, $2, 'user:ada', $2)",
            name,
            over,
        )
        await admin.execute(
            "INSERT INTO llm_calls (tenant_id, task_id, fence, step, model, request_hash, started_at) VALUES ($1, $2, 1, 's', $3, '', $4)",
            *(tenant, uuid4(), name, over),
        )

    def count(where: str) -> Callable[[], Awaitable[int]]:
        return lambda: admin.fetchval(f"SELECT count(*) FROM {where}")

    return {
        "sessions": ("csrf_token", count("sessions")),
        "idempotency": ("key", count("idempotency")),
        "executors": ("host", count("executors")),
        "queues": ("name", count("queues WHERE paused_at IS NOT NULL")),
        "llm_calls": ("model", count("llm_calls WHERE state = 'reserved'")),
    }


@pytest.mark.parametrize("kind", ["sessions", "idempotency", "executors", "queues", "llm_calls"])
async def test_a_locked_row_is_cleared_away_later_and_everything_else_now(
    database: Database, tenant: UUID, admin: Admin, other: Admin, kind: str
) -> None:
    kinds = await expire(admin, tenant)
    async with locked(other, kind, "one", key=kinds[kind][0]), database.statement() as db:
        await db.fetchval(SQL["executors.clear_expired"], 10)
        left = {name: await count() for name, (_, count) in kinds.items()}
    async with database.statement() as db:
        await db.fetchval(SQL["executors.clear_expired"], 10)

    assert left == dict.fromkeys(kinds, 0) | {kind: 1}
    assert {name: await count() for name, (_, count) in kinds.items()} == dict.fromkeys(kinds, 0)


async def test_every_key_with_room_is_woken_however_many_there_are(
    database: Database, tenant: UUID, other_tenant: UUID, admin: Admin
) -> None:
    """A page of the walk may end in the middle of a tenant or queue; the last one says that it is."""
    await admin.execute("INSERT INTO queues (name) VALUES ('second')")
    await admin.execute(
        "INSERT INTO tasks (tenant_id, queue, type, state, created_by, payload, concurrency_key, concurrency_limit)"
        " SELECT t.id, q.name, 'noop', 'blocked', 'test', '{}', 'key ' || n % 7, 1"
        " FROM tenants t, (VALUES ('default'), ('second')) AS q (name), generate_series(1, 14) n"
    )
    pages, place = 0, (None, None, None)
    async with database.statement() as db:
        while True:
            row = await db.fetchrow(SQL["executors.wake_keys"], 5, *place)
            pages += 1
            if row["tenant_id"] is None:
                break
            place = (row["tenant_id"], row["queue"], row["key"])

    woken = await admin.fetch(
        "SELECT count(*) FILTER (WHERE state = 'queued') FROM tasks GROUP BY tenant_id, queue, concurrency_key"
    )
    assert [row[0] for row in woken] == [1] * 28
    assert pages == 6


async def test_keys_of_a_paused_queue_sleep_until_it_goes_on(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    await admin.execute(
        "INSERT INTO tasks (tenant_id, queue, type, state, created_by, payload, concurrency_key, concurrency_limit)"
        " SELECT $1, 'default', 'noop', 'blocked', 'test', '{}', 'key', 1 FROM generate_series(1, 9)",
        tenant,
    )
    queued = "SELECT count(*) FROM tasks WHERE state = 'queued'"
    await admin.execute("UPDATE queues SET paused_at = app.now(), paused_by = 'user:ada'")
    async with database.statement() as db:
        for _ in range(3):
            assert (await db.fetchrow(SQL["executors.wake_keys"], 10, None, None, None))["woken"] == []
    asleep = await admin.fetchval(queued)
    await admin.execute("UPDATE queues SET paused_at = NULL, paused_by = NULL")
    async with database.statement() as db:
        woken = (await db.fetchrow(SQL["executors.wake_keys"], 10, None, None, None))["woken"]

    assert (asleep, woken, await admin.fetchval(queued)) == (0, ["default"], 1)


async def test_a_key_of_which_a_task_is_ready_gets_no_more_until_that_one_is_claimed(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    """A queue without a free slot leaves it ready for long; each task woken beside it would have to be parked again."""
    await admin.execute(
        "INSERT INTO tasks (tenant_id, queue, type, state, created_by, payload, concurrency_key, concurrency_limit)"
        " SELECT $1, 'default', 'noop', 'blocked', 'test', '{}', key, 2 FROM generate_series(1, 9), unnest(ARRAY['one', 'two']) key",
        tenant,
    )
    queued = "SELECT concurrency_key, count(*) FROM tasks WHERE state = 'queued' GROUP BY 1 ORDER BY 1"
    async with database.statement() as db:
        for _ in range(5):
            await db.fetchrow(SQL["executors.wake_keys"], 10, None, None, None)
    ready = await admin.fetch(queued)
    await admin.execute("UPDATE tasks SET state = 'blocked' WHERE concurrency_key = 'one'")
    async with database.statement() as db:
        await db.fetchrow(SQL["executors.wake_keys"], 10, None, None, None)

    assert (
        [tuple(row) for row in ready]
        == [tuple(row) for row in await admin.fetch(queued)]
        == [("one", 2), ("two", 2)]
    )


async def test_the_sweep_goes_on_until_nothing_is_left_that_it_can_do(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    await admin.execute(
        "INSERT INTO tasks (tenant_id, queue, type, state, created_by, payload, start_before)"
        " SELECT $1, 'default', 'noop', 'queued', 'test', '{}', app.now() - interval '1 s' FROM generate_series(1, 1200)",
        tenant,
    )
    maintenance = Maintenance(database, rescue_seconds=1, on_work=lambda _: None)
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    sweeping = asyncio.create_task(maintenance.keep_sweeping(beat))
    async with asyncio.timeout(20):
        while await admin.fetchval("SELECT count(*) FROM tasks"):
            await asyncio.sleep(0.01)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)

    assert await admin.fetchval("SELECT count(DISTINCT xmin::text) FROM task_history") == 3
    assert beats >= 3
