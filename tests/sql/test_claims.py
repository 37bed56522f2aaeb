"""Limits hold to the task, whoever claims: per queue, per tenant, per key, per second; and tenants take turns."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from sql import SQL
from tests.conftest import Cluster, make_tenant

Admin = asyncpg.Connection
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
NO_FLOOR = (None, None, None)


async def fill(admin: Admin, tenant: UUID, count: int, **more: Any) -> None:
    """Put *count* queued tasks into a queue, oldest first."""
    columns = {"priority": 2, "run_at": NOON - timedelta(hours=1), "key": None, "room": None} | more
    await admin.execute(
        "INSERT INTO tasks (tenant_id, queue, type, state, created_by, payload, priority, run_at, concurrency_key, concurrency_limit)"
        " SELECT $1, 'default', 'noop', 'queued', 'test', '{}', $3, $4::timestamptz + n * interval '1 ms', $5, $6 FROM generate_series(1, $2) n",
        tenant,
        count,
        columns["priority"],
        columns["run_at"],
        columns["key"],
        columns["room"],
    )


async def register(admin: Admin) -> UUID:
    """Register an executor that lives for an hour."""
    executor_id = uuid4()
    await admin.execute(SQL["executors.register"], executor_id, "here", 1, "0", 100, 3600.0)
    return executor_id


async def claim(db: Admin, executor_id: UUID, want: int, *floor: Any) -> list[asyncpg.Record]:
    """Return the claimed rows, or none."""
    rows = await db.fetch(SQL["executors.claim"], executor_id, "default", want, *(floor or NO_FLOOR))
    return [row for row in rows if row["outcome"] == "claimed"]


async def outcome(db: Admin, executor_id: UUID, want: int = 10) -> tuple[str, float | None]:
    """Return why nothing was claimed, and the seconds until the rate has room."""
    row = await db.fetchrow(SQL["executors.claim"], executor_id, "default", want, *NO_FLOOR)
    return row["outcome"], row["seconds_left"]


async def end(admin: Admin, rows: list[asyncpg.Record]) -> None:
    """Finish what was claimed."""
    await admin.fetch(
        SQL["executors.finish"],
        [row["id"] for row in rows],
        [row["fence"] for row in rows],
        ["succeeded"] * len(rows),
        ["{}"] * len(rows),
        [None] * len(rows),
    )


@pytest.fixture
async def clock(admin: Admin) -> Admin:
    """The superuser's connection with its clock stopped at NOON."""
    await at(admin, NOON)
    return admin


async def at(admin: Admin, moment: datetime) -> None:
    """Set the clock of this connection."""
    await admin.execute("SELECT set_config('app.now', $1, false)", moment.isoformat())


@pytest.fixture
async def claimers(cluster: Cluster, database_name: str) -> AsyncIterator[list[Admin]]:
    """Four connections of the role that serves, as four replicas would have them."""
    connections = [await asyncpg.connect(cluster.web(database_name)) for _ in range(4)]
    yield connections
    for connection in connections:
        await connection.close()


@asynccontextmanager
async def locked_out(
    admin: Admin, db: Admin, executor_id: UUID
) -> AsyncIterator[asyncio.Task[list[asyncpg.Record]]]:
    """Begin a claim that has looked at the clock and waits for the table of tasks until the block ends."""
    transaction = admin.transaction()
    await transaction.start()
    await admin.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
    claiming = asyncio.create_task(db.fetch(SQL["executors.claim"], executor_id, "default", 10, *NO_FLOOR))
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = $1"
    while not await admin.fetchval(waiting, db.get_server_pid()):
        await asyncio.sleep(0.01)
    yield claiming
    await transaction.commit()


async def storm(claimers: list[Admin], executors: list[UUID], rounds: int) -> list[asyncpg.Record]:
    """Claim from all connections at once, again and again; return everything that was claimed."""

    async def hammer(db: Admin, executor_id: UUID) -> list[asyncpg.Record]:
        return [row for _ in range(rounds) for row in await claim(db, executor_id, 7)]

    taken = await asyncio.gather(*map(hammer, claimers, executors))
    return [row for rows in taken for row in rows]


async def test_four_claimers_never_exceed_the_limit_of_a_queue(
    admin: Admin, tenant: UUID, claimers: list[Admin]
) -> None:
    await admin.execute("UPDATE queues SET max_running = 5 WHERE name = 'default'")
    await fill(admin, tenant, 200)
    executors = [await register(admin) for _ in claimers]

    for _ in range(10):
        rows = await storm(claimers, executors, 5)

        assert len(rows) == await admin.fetchval("SELECT count(*) FROM tasks WHERE state = 'running'") == 5
        await end(admin, rows)


async def test_four_claimers_never_exceed_the_limit_of_a_tenant(
    admin: Admin, tenant: UUID, other_tenant: UUID, claimers: list[Admin]
) -> None:
    await admin.execute("UPDATE queues SET max_running_per_tenant = 3 WHERE name = 'default'")
    await admin.execute(
        "INSERT INTO queue_tenant_limits (queue, tenant_id, max_running, updated_by) VALUES ('default', $1, 6, 'test')",
        other_tenant,
    )
    for one in (tenant, other_tenant):
        await fill(admin, one, 100)
    executors = [await register(admin) for _ in claimers]

    for _ in range(5):
        rows = await storm(claimers, executors, 5)

        assert Counter(row["tenant_id"] for row in rows) == {tenant: 3, other_tenant: 6}
        await end(admin, rows)


async def test_four_claimers_never_exceed_the_limit_of_a_key_and_keys_of_two_queues_are_two(
    admin: Admin, tenant: UUID, claimers: list[Admin]
) -> None:
    await fill(admin, tenant, 300, key="account-1", room=2)
    await fill(admin, tenant, 1, run_at=NOON)
    executors = [await register(admin) for _ in claimers]

    rows = await storm(claimers, executors, 60)

    running = await admin.fetch(
        "SELECT concurrency_key, count(*) FROM tasks WHERE state = 'running' GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in running] == [("account-1", 2), (None, 1)]
    assert len(rows) == 3
    assert await admin.fetchval("SELECT count(*) FROM tasks WHERE state = 'blocked'") == 298


async def test_a_rate_gives_its_burst_then_so_many_a_second_and_says_when(clock: Admin, tenant: UUID) -> None:
    await clock.execute(
        "UPDATE queues SET rate_per_second = 2, burst = 5, tokens = 5, tokens_at = $1 WHERE name = 'default'",
        NOON,
    )
    await fill(clock, tenant, 100)
    executor_id = await register(clock)

    assert len(await claim(clock, executor_id, 50)) == 5
    assert await outcome(clock, executor_id) == ("limited", 0.5)
    await at(clock, NOON + timedelta(seconds=0.25))
    assert await outcome(clock, executor_id) == ("limited", 0.25)
    await at(clock, NOON + timedelta(seconds=1.5))
    assert len(await claim(clock, executor_id, 50)) == 3
    await at(clock, NOON + timedelta(seconds=1))  # a clock that steps back gives nothing and takes nothing
    assert (await outcome(clock, executor_id))[0] == "limited"
    await at(clock, NOON + timedelta(minutes=5))
    assert len(await claim(clock, executor_id, 50)) == 5


async def test_a_rate_goes_on_at_once_when_the_clock_is_set_back_by_an_hour(
    clock: Admin, tenant: UUID
) -> None:
    """Else the queue would stand still until that hour has come again."""
    await clock.execute(
        "UPDATE queues SET rate_per_second = 2, burst = 5, tokens = 5, tokens_at = $1 WHERE name = 'default'",
        NOON,
    )
    await fill(clock, tenant, 100)
    executor_id = await register(clock)
    assert len(await claim(clock, executor_id, 50)) == 5

    earlier = NOON - timedelta(hours=1)
    await at(clock, earlier)
    assert await outcome(clock, executor_id) == ("limited", 0.5)
    await at(clock, earlier + timedelta(seconds=1))
    assert len(await claim(clock, executor_id, 50)) == 2
    assert await outcome(clock, executor_id) == ("limited", 0.5)


async def test_only_what_was_claimed_is_charged_to_the_rate(clock: Admin, tenant: UUID) -> None:
    await clock.execute(
        "UPDATE queues SET rate_per_second = 1, burst = 10, tokens = 10, tokens_at = $1 WHERE name = 'default'",
        NOON,
    )
    executor_id = await register(clock)

    assert await claim(clock, executor_id, 50) == []
    await fill(clock, tenant, 4)
    assert len(await claim(clock, executor_id, 50)) == 4
    await fill(clock, tenant, 20)

    assert len(await claim(clock, executor_id, 50)) == 6


async def test_four_claimers_together_never_pass_the_rate(
    admin: Admin, tenant: UUID, claimers: list[Admin]
) -> None:
    await admin.execute(
        "UPDATE queues SET rate_per_second = 0.001, burst = 9, tokens = 9 WHERE name = 'default'"
    )
    await fill(admin, tenant, 100)
    executors = [await register(admin) for _ in claimers]

    assert len(await storm(claimers, executors, 5)) == 9


async def test_one_slot_goes_round_between_tenants_whatever_their_backlog(
    clock: Admin, tenant: UUID, other_tenant: UUID
) -> None:
    third = await make_tenant(clock, "initech")
    await clock.execute("UPDATE queues SET fair = true WHERE name = 'default'")
    await fill(clock, tenant, 500, run_at=NOON - timedelta(days=1))
    await fill(clock, other_tenant, 4)
    await fill(clock, third, 4)
    executor_id = await register(clock)
    order = []
    for _ in range(12):
        rows = await claim(clock, executor_id, 1)
        order += [row["tenant_id"] for row in rows]
        await end(clock, rows)

    assert Counter(order[:6]) == {tenant: 2, other_tenant: 2, third: 2}
    assert Counter(order) == {tenant: 4, other_tenant: 4, third: 4}


async def test_the_next_slot_goes_to_the_tenant_with_the_fewest_running(
    clock: Admin, tenant: UUID, other_tenant: UUID
) -> None:
    await clock.execute("UPDATE queues SET fair = true WHERE name = 'default'")
    await fill(clock, tenant, 500)
    executor_id = await register(clock)
    assert len(await claim(clock, executor_id, 8)) == 8
    await fill(clock, other_tenant, 20)

    rows = [row for _ in range(8) for row in await claim(clock, executor_id, 1)]

    assert Counter(row["tenant_id"] for row in rows) == {other_tenant: 8}
    more = await claim(clock, executor_id, 6)
    assert Counter(row["tenant_id"] for row in more) == {tenant: 3, other_tenant: 3}


async def test_every_tenant_has_its_turn_when_there_are_more_than_one_claim_looks_at(clock: Admin) -> None:
    tenants = [await make_tenant(clock, f"tenant {n}") for n in range(130)]
    await clock.execute("UPDATE queues SET fair = true WHERE name = 'default'")
    for one in tenants:
        await fill(clock, one, 3)
    executor_id = await register(clock)
    served: list[UUID] = []
    for _ in range(130):
        rows = await claim(clock, executor_id, 1)
        served += [row["tenant_id"] for row in rows]
        await end(clock, rows)

    assert set(served) == set(tenants)


async def test_within_its_turn_a_tenant_keeps_its_own_order(clock: Admin, tenant: UUID) -> None:
    await clock.execute("UPDATE queues SET fair = true WHERE name = 'default'")
    await fill(clock, tenant, 3, priority=5)
    await fill(clock, tenant, 2, priority=0)
    executor_id = await register(clock)

    assert [row["priority"] for _ in range(5) for row in await claim(clock, executor_id, 1)] == [
        0,
        0,
        5,
        5,
        5,
    ]


async def test_a_fair_queue_gives_all_slots_to_the_only_tenant_with_work(clock: Admin, tenant: UUID) -> None:
    await clock.execute("UPDATE queues SET fair = true WHERE name = 'default'")
    await fill(clock, tenant, 100)

    assert len(await claim(clock, await register(clock), 60)) == 60


async def test_a_claim_above_a_floor_leaves_out_what_lies_below_and_one_without_it_finds_that(
    clock: Admin, tenant: UUID
) -> None:
    await fill(clock, tenant, 10)
    executor_id = await register(clock)
    last = (await claim(clock, executor_id, 4))[-1]
    await fill(clock, tenant, 1, priority=1)
    floor = (last["priority"], last["run_at"], last["id"])
    ready = [["default"], [last["priority"]], [last["run_at"]], [last["id"]]]

    assert await clock.fetchval(SQL["executors.ready_queues"], *ready) == ["default"]
    assert [row["priority"] for row in await claim(clock, executor_id, 10, *floor)] == [2] * 6
    assert await clock.fetchval(SQL["executors.ready_queues"], *ready) == []
    assert [row["priority"] for row in await claim(clock, executor_id, 10)] == [1]


async def test_what_becomes_due_while_a_claim_looks_starts_no_earlier_than_it_was_due(
    admin: Admin, claimers: list[Admin], tenant: UUID
) -> None:
    executor_id = await register(admin)
    async with locked_out(admin, claimers[0], executor_id) as claiming:
        await fill(admin, tenant, 1, run_at=await admin.fetchval("SELECT clock_timestamp()"))
        await admin.execute("SELECT pg_sleep(0.002)")  # fill adds a millisecond
    [row] = await claiming
    task = await admin.fetchrow("SELECT run_at, started_at FROM tasks WHERE id = $1", row["id"])
    assert task["started_at"] > task["run_at"]


@pytest.mark.parametrize("late", [1, 2])
async def test_what_may_start_no_longer_when_a_claim_has_it_is_left(
    admin: Admin, claimers: list[Admin], tenant: UUID, late: int
) -> None:
    executor_id = await register(admin)
    await fill(admin, tenant, 2, run_at=NOON - timedelta(days=9999))
    async with locked_out(admin, claimers[0], executor_id) as claiming:
        await admin.execute(
            "UPDATE tasks SET start_before = clock_timestamp() WHERE id IN (SELECT id FROM tasks LIMIT $1)",
            late,
        )
    rows = await claiming
    assert [row["outcome"] for row in rows] == ["claimed" if late == 1 else "contended"]
    counted = "SELECT count(*) FROM tasks WHERE state = 'queued' AND attempt = 0 AND start_before IS NOT NULL"
    assert await admin.fetchval(counted) == late


async def test_a_pause_with_a_date_ends_by_itself(clock: Admin, tenant: UUID) -> None:
    await clock.execute(
        "UPDATE queues SET paused_at = $1::timestamptz, paused_by = 'user:ada', resume_at = $1::timestamptz + interval '30 minutes' WHERE name = 'default'",
        NOON,
    )
    await fill(clock, tenant, 1)
    executor_id = await register(clock)

    assert await outcome(clock, executor_id) == ("paused", None)
    assert await clock.fetchval(SQL["executors.ready_queues"], [], [], [], []) == []
    await at(clock, NOON + timedelta(minutes=31))
    assert await clock.fetchval(SQL["executors.ready_queues"], [], [], [], []) == ["default"]
    assert len(await claim(clock, executor_id, 1)) == 1
    await clock.fetch(SQL["executors.clear_expired"], 100)
    assert await clock.fetchval("SELECT paused_at FROM queues WHERE name = 'default'") is None


async def test_a_hot_key_with_a_long_backlog_is_parked_in_pieces_and_others_come_through(
    admin: Admin, tenant: UUID
) -> None:
    executor_id = await register(admin)
    await fill(admin, tenant, 7001, key="hot", room=1)
    await fill(admin, tenant, 5, run_at=NOON)
    claims = []
    async with asyncio.timeout(20):
        while len(claims) < 6:
            before = await admin.fetchval("SELECT count(*) FROM tasks WHERE state = 'blocked'")
            rows = await admin.fetch(SQL["executors.claim"], executor_id, "default", 50, *NO_FLOOR)
            assert rows[0]["outcome"] in ("claimed", "contended")
            claims += [row for row in rows if row["outcome"] == "claimed"]
            parked = await admin.fetchval("SELECT count(*) FROM tasks WHERE state = 'blocked'") - before
            assert parked <= 3000  # one transaction ends long before its caller gives it up

    assert await admin.fetchval("SELECT count(*) FROM tasks WHERE state = 'blocked'") == 7000


async def test_tasks_picked_to_be_parked_are_never_claimed_beyond_the_room(
    admin: Admin, tenant: UUID
) -> None:
    executor_id = await register(admin)
    await fill(admin, tenant, 30, key="hot", room=1)
    await fill(admin, tenant, 40, run_at=NOON)
    await admin.execute("UPDATE queues SET max_running = 4 WHERE name = 'default'")

    assert len(await claim(admin, executor_id, 1)) == 1
    assert len(await claim(admin, executor_id, 10)) == 3
    assert await claim(admin, executor_id, 10) == []


@pytest.mark.parametrize("fair", [True, False])
async def test_of_more_tenants_than_are_looked_at_none_is_left_out(admin: Admin, fair: bool) -> None:
    executor_id = await register(admin)
    await admin.execute(
        "UPDATE queues SET max_running_per_tenant = 1, fair = $1 WHERE name = 'default'", fair
    )
    tenants = sorted([await make_tenant(admin, f"tenant {n}") for n in range(205)])
    for tenant in tenants:
        await fill(admin, tenant, 2)
    rows = [row for _ in range(4) for row in await claim(admin, executor_id, 200)]
    assert sorted(row["tenant_id"] for row in rows) == tenants

    last = await admin.fetchval("SELECT last_tenant FROM queues WHERE name = 'default'")
    far = tenants[(tenants.index(last) + 150) % 205]
    await end(admin, [row for row in rows if row["tenant_id"] == far])
    assert [row["tenant_id"] for row in await claim(admin, executor_id, 200)] == [far]


@pytest.mark.parametrize("limit", [1, 40])
async def test_as_many_of_a_key_are_woken_as_there_is_room_for(
    admin: Admin, tenant: UUID, limit: int
) -> None:
    executor_id = await register(admin)
    await fill(admin, tenant, 100, key="shared", room=limit)

    ended = 0
    while ended < 100:
        claimed = await claim(admin, executor_id, 100)
        assert len(claimed) == min(limit, 100 - ended)
        await end(admin, claimed)
        ended += len(claimed)
    assert await admin.fetchval("SELECT count(*) FROM task_events WHERE event = 'blocked'") == 100 - limit
