"""Queues: what is counted, what is changed, and that nobody but those who operate the installation changes or sees more than their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server.database import Database
from services import queues
from services.errors import Conflict, Forbidden, Invalid, NotFound
from services.queues import Count, Queue, Report
from sql import SQL, Connection
from tests import engine
from tests.conftest import Cluster

Admin = asyncpg.Connection
LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
async def operating(admin: Admin, tenant: UUID) -> UUID:
    await admin.execute("UPDATE tenants SET operates = true WHERE id = $1", tenant)
    return tenant


@asynccontextmanager
async def transaction(database: Database, tenant: UUID) -> AsyncIterator[Connection]:
    async with database.tenant(tenant, "user:ada") as db:
        yield db


async def report(
    database: Database, tenant: UUID, name: str = "default", *, installation: bool = False
) -> Report:
    async with transaction(database, tenant) as db:
        return (await queues.report(db, tenant, installation=installation, name=name))[0]


async def put(
    admin: Admin, tenant: UUID, state: str, count: int, queue: str = "default", **more: Any
) -> None:
    """Put tasks of any state into a queue without running them."""
    columns: dict[str, Any] = {"priority": 2, "run_at": datetime.now(UTC)} | more
    executor = "gen_random_uuid()" if state == "running" else "NULL"
    waits = "'go', now()" if state == "waiting" else "NULL, NULL"
    await admin.execute(
        "INSERT INTO tasks (tenant_id, queue, type, state, created_by, payload, priority, run_at, executor_id, waiting_for, waiting_since)"
        f" SELECT $1, $2, 'noop', $3, 'test', '{{}}', $5, $6, {executor}, {waits} FROM generate_series(1, $4)",
        tenant, queue, state, count, columns["priority"], columns["run_at"],
    )  # fmt: skip


async def count(
    admin: Admin, tenant: UUID, at: datetime, *, queue: str = "default", ran: int = 0, waited: int = 0, **outcomes: int
) -> None:  # fmt: skip
    """Add rows as the engine does when runs end, one for each outcome; *ran* and *waited* are sums in ms."""
    for outcome, tasks in outcomes.items():
        await admin.execute(
            "INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms)"
            " VALUES ($1, date_trunc('minute', $2::timestamptz), $3, 'noop', $4, $5, $6, $6, $7, $7)",
            tenant, at, queue, outcome, tasks, waited, ran,
        )  # fmt: skip


async def test_every_live_state_is_counted_by_queue(database: Database, admin: Admin, tenant: UUID) -> None:
    for state, number in (("queued", 5), ("running", 2), ("blocked", 3), ("scheduled", 4), ("waiting", 1)):
        await put(admin, tenant, state, number)
    await put(admin, tenant, "queued", 7, queue="content")

    found = await report(database, tenant)

    assert found.depth == {
        "scheduled": Count(tasks=4), "queued": Count(tasks=5), "blocked": Count(tasks=3), "running": Count(tasks=2), "waiting": Count(tasks=1),
    }  # fmt: skip
    assert (await report(database, tenant, "content")).depth["queued"] == Count(tasks=7)
    assert (await report(database, tenant, "documents")).is_empty


async def test_a_count_beyond_the_cap_says_that_there_are_more(admin: Admin, tenant: UUID) -> None:
    await put(admin, tenant, "queued", 12)
    await put(admin, tenant, "scheduled", 10)
    await admin.execute("SELECT set_config('app.tenant', $1, false)", str(tenant))

    rows = await admin.fetch(SQL["queues.count_live"], False, 10)

    assert {(row["state"], row["tasks"], row["more"]) for row in rows} == {
        ("queued", 10, True),
        ("scheduled", 10, False),
    }


async def test_a_backlog_of_any_length_costs_no_more_than_the_cap(admin: Admin, tenant: UUID) -> None:
    await put(admin, tenant, "queued", 60_000)
    await admin.execute("ANALYZE tasks")
    await admin.execute("SET random_page_cost = 4")  # what PostgreSQL has where nobody has told it of SSDs
    await admin.execute("SELECT set_config('app.tenant', $1, false)", str(tenant))

    await admin.fetch(SQL["queues.count_live"], False, 1000)  # reads the catalogue

    plan = await admin.fetch(
        "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) SELECT * FROM app.count_live(false, 1000)"
    )

    hits = next(row[0] for row in plan if "shared hit" in row[0])
    assert int(hits.split("hit=")[1].split()[0]) < 2_000, hits


async def test_the_oldest_ready_task_is_found_whatever_its_priority(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    await put(admin, tenant, "queued", 3)
    await put(admin, tenant, "queued", 1, priority=9, run_at=hour_ago)
    await put(admin, tenant, "scheduled", 1, run_at=hour_ago - timedelta(hours=1))

    assert (await report(database, tenant)).oldest_ready_at == hour_ago


async def test_the_last_hour_is_summed_up_by_minute_from_the_statistics(
    cluster: Cluster, database_name: str, admin: Admin, tenant: UUID
) -> None:
    now: datetime = await admin.fetchval("SELECT date_trunc('minute', app.now())")
    # The clock stands still: a minute that begins meanwhile would leave the oldest one out.
    await admin.execute(f"ALTER DATABASE {database_name} SET app.now = '{now + timedelta(seconds=30)}'")
    await count(admin, tenant, now, succeeded=3, ran=3000, waited=600)
    await count(admin, tenant, now, succeeded=1, ran=1000, waited=200)
    await count(admin, tenant, now - timedelta(minutes=5), failed=2, ran=4000)
    await count(admin, tenant, now - timedelta(minutes=5), timed_out=1)
    await count(admin, tenant, now - timedelta(minutes=59), retry_scheduled=2, ran=2000)
    await count(admin, tenant, now - timedelta(minutes=60), succeeded=100)
    await count(admin, tenant, now, succeeded=50, queue="content")

    database = Database(cluster.web(database_name))
    await database.open()
    found = await report(database, tenant)
    await database.close()

    assert (found.recent.succeeded, found.recent.failed, found.recent.retried) == (4, 3, 2)
    assert found.recent.mean_run == timedelta(milliseconds=10_000 / 8)
    assert found.recent.mean_wait == timedelta(milliseconds=100)
    assert found.recent.longest_run == timedelta(seconds=4)
    assert len(found.minutes) == queues.MINUTES
    assert {(minute.at, minute.succeeded, minute.failed) for minute in found.minutes[-10:] if minute.total} == {
        (now, 4, 0), (now - timedelta(minutes=5), 0, 3),
    }  # fmt: skip


async def test_a_tenant_sees_its_own_tasks_and_the_operating_one_may_see_all(
    database: Database, admin: Admin, operating: UUID, other_tenant: UUID
) -> None:
    moment = datetime.now(UTC) - timedelta(minutes=1)
    await put(admin, operating, "queued", 2)
    await put(admin, other_tenant, "queued", 3, run_at=moment)
    await count(admin, operating, moment, succeeded=5)
    await count(admin, other_tenant, moment, succeeded=7)

    own = await report(database, operating)
    everybody = await report(database, operating, installation=True)
    theirs = await report(database, other_tenant)

    assert [one.depth["queued"].tasks for one in (own, everybody, theirs)] == [2, 5, 3]
    assert [one.recent.succeeded for one in (own, everybody, theirs)] == [5, 12, 7]
    assert everybody.oldest_ready_at == theirs.oldest_ready_at == moment


FORBIDDEN: list[Callable[[Connection, UUID], Awaitable[object]]] = [
    lambda db, tenant: queues.report(db, tenant, installation=True),
    lambda db, _: queues.list_tenant_limits(db, "default"),
    lambda db, _: queues.create(db, "mine", {}, actor="x"),
    lambda db, _: queues.change(db, "default", {"max_running": 1}, actor="x"),
    lambda db, _: queues.pause(db, "default", actor="x"),
    lambda db, _: queues.resume(db, "default"),
    lambda db, _: queues.limit_tenant(db, "default", "globex", 1, actor="x"),
    lambda db, _: queues.delete(db, "empty"),
]


@pytest.mark.parametrize("attempt", FORBIDDEN)
async def test_a_tenant_that_does_not_operate_the_installation_changes_nothing_of_it(
    database: Database, admin: Admin, operating: UUID, other_tenant: UUID,
    attempt: Callable[[Connection, UUID], Awaitable[object]],
) -> None:  # fmt: skip
    await admin.execute("INSERT INTO queues (name) VALUES ('empty')")
    before = await admin.fetch("SELECT * FROM queues ORDER BY name")

    with pytest.raises(Forbidden, match="only operators of a tenant that operates it"):
        async with transaction(database, other_tenant) as db:
            await attempt(db, other_tenant)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with transaction(database, operating) as db:
            await db.execute(
                "UPDATE queues SET paused_at = now()"
            )  # past the functions there is no way either

    assert await admin.fetch("SELECT * FROM queues ORDER BY name") == before
    assert await admin.fetchval("SELECT count(*) FROM queue_tenant_limits") == 0


async def test_limits_are_set_one_by_one_and_taken_away(database: Database, operating: UUID) -> None:
    async def change(**changes: Any) -> Queue:
        async with transaction(database, operating) as db:
            return await queues.change(db, "default", changes, actor="user:ada")

    first = await change(max_running=10, rate_per_second=2.5)
    second = await change(max_running_per_tenant=3, fair=True)
    third = await change(max_running=None, rate_per_second=None)

    assert (first.max_running, first.rate_per_second, first.burst, first.updated_by) == (
        10,
        2.5,
        3,
        "user:ada",
    )
    assert (second.max_running, second.max_running_per_tenant, second.fair, second.burst) == (10, 3, True, 3)
    assert (third.max_running, third.rate_per_second, third.burst, third.fair) == (None, None, None, True)


async def test_a_new_rate_begins_with_a_full_bucket_and_other_changes_leave_it(
    database: Database, admin: Admin, operating: UUID
) -> None:
    async def change(**changes: Any) -> float:
        async with transaction(database, operating) as db:
            await queues.change(db, "default", changes, actor="user:ada")
        return float(await admin.fetchval("SELECT tokens FROM queues WHERE name = 'default'"))

    assert await change(rate_per_second=5, burst=20) == 20
    await admin.execute("UPDATE queues SET tokens = 4")
    assert await change(max_running=7) == 4
    assert await change(rate_per_second=5, burst=20) == 4
    assert await change(burst=8) == 8
    assert await change(burst=None) == 5


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"max_running": 0}, "/max_running"), ({"max_running_per_tenant": -1}, "/max_running_per_tenant"),
        ({"rate_per_second": 0}, "/rate_per_second"), ({"rate_per_second": 1e-320}, "/rate_per_second"), ({"rate_per_second": float("inf")}, "/rate_per_second"), ({"burst": 5}, "/burst"),
        ({"rate_per_second": 1, "burst": 0}, "/burst"), ({"rate_per_second": None, "burst": 2}, "/burst"), ({"fair": None}, "/fair"),
    ],
)  # fmt: skip
async def test_limits_that_mean_nothing_are_refused(
    database: Database, operating: UUID, changes: dict[str, Any], pointer: str
) -> None:
    async with transaction(database, operating) as db:
        with pytest.raises(Invalid) as caught:
            await queues.change(db, "default", changes, actor="x")

    assert [fault.pointer for fault in caught.value.faults] == [pointer]


async def test_a_paused_queue_starts_nothing_until_it_is_resumed(database: Database, operating: UUID) -> None:
    async with transaction(database, operating) as db:
        paused = await queues.pause(db, "content", actor="user:ada", reason="the provider is down")
    async with engine.running_executor(database) as executor:
        waiting = await engine.enqueue(database, operating, "noop", queue="content")
        await engine.ended(database, await engine.enqueue(database, operating, "noop"))
        assert (await engine.get(database, operating, waiting.id)).state == "queued"
        async with transaction(database, operating) as db:
            resumed = await queues.resume(db, "content")
        executor.wake("content")
        await engine.ended(database, waiting)

    assert (paused.paused_by, paused.pause_reason, paused.resume_at) == (
        "user:ada",
        "the provider is down",
        None,
    )
    assert paused.paused_at is not None
    assert (resumed.paused_at, resumed.paused_by, resumed.pause_reason) == (None, None, None)


async def test_a_pause_ends_at_its_date(database: Database, admin: Admin, operating: UUID) -> None:
    async with transaction(database, operating) as db:
        assert (await queues.pause(db, "content", actor="x", until=LATER)).resume_at == LATER
        with pytest.raises(Invalid, match="must lie ahead"):
            await queues.pause(db, "content", actor="x", until=datetime(2020, 1, 1, tzinfo=UTC))
    await admin.execute("UPDATE queues SET resume_at = now() - interval '1 second' WHERE name = 'content'")

    async with transaction(database, operating) as db:
        assert (await queues.get(db, "content")).paused_at is None
        await engine.enqueue(database, operating, "noop", queue="content")
    async with engine.running_executor(database):
        task = await engine.enqueue(database, operating, "noop", queue="content")
        assert (await engine.ended(database, task)).state == "succeeded"


async def test_one_tenant_gets_a_number_of_its_own_and_loses_it_again(
    database: Database, operating: UUID, other_tenant: UUID
) -> None:
    async with transaction(database, operating) as db:
        await queues.limit_tenant(db, "default", "globex", 4, actor="user:ada")
        await queues.limit_tenant(db, "default", "globex", 6, actor="user:bob")
        (limit,) = await queues.list_tenant_limits(db, "default")
        for queue, tenant in (("nowhere", "globex"), ("default", "nobody")):
            with pytest.raises(NotFound):
                await queues.limit_tenant(db, queue, tenant, 1, actor="x")
        with pytest.raises(Invalid):
            await queues.limit_tenant(db, "default", "globex", 0, actor="x")

    assert (limit.tenant, limit.max_running, limit.updated_by) == ("globex", 6, "user:bob")
    assert (await report(database, other_tenant)).own_limit == 6
    assert (await report(database, operating)).own_limit is None
    async with transaction(database, operating) as db:
        await queues.limit_tenant(db, "default", "globex", None, actor="x")
        assert await queues.list_tenant_limits(db, "default") == []


async def test_a_queue_is_made_used_and_deleted_when_empty(
    database: Database, admin: Admin, operating: UUID
) -> None:
    async with transaction(database, operating) as db:
        made = await queues.create(db, "reports", {"max_running": 2}, actor="user:ada")
        with pytest.raises(Conflict, match="there is a queue reports already"):
            await queues.create(db, "reports", {}, actor="user:ada")
        for name in ("", "Reports", "9lives", "a" * 64, "a b"):
            with pytest.raises(Invalid):
                await queues.create(db, name, {}, actor="user:ada")
    task = await engine.enqueue(database, operating, "noop", queue="reports")
    async with transaction(database, operating) as db:
        with pytest.raises(Conflict, match="queue reports is in use"):
            await queues.delete(db, "reports")
        with pytest.raises(Conflict, match=r"of type \w+ go to queue default"):
            await queues.delete(db, "default")
    await engine.cancel(database, task)
    async with transaction(database, operating) as db:
        await queues.delete(db, "reports")
        with pytest.raises(NotFound):
            await queues.delete(db, "reports")

    assert (made.name, made.max_running) == ("reports", 2)
    assert (await engine.get(database, operating, task.id)).queue == "reports"


async def test_no_number_of_a_queue_is_read_from_history(
    database: Database, admin: Admin, operating: UUID
) -> None:
    await admin.execute("REVOKE ALL ON task_history, all_tasks FROM galley_web, galley_engine")

    assert (await report(database, operating, installation=True)).is_empty
