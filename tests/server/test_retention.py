"""History is kept in months: made ahead, dropped whole when nothing in them is needed any more. Time is the database's, and virtual."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server.app import Engine, Parts
from server.database import Database
from server.maintenance import Maintenance
from server.metrics import Metrics
from server.settings import Settings
from services.embeddings import Embedder
from tests.conftest import Cluster

KEPT_DAYS = 90
PARENTS = ("task_history", "task_steps", "task_events")
Admin = asyncpg.Connection


def month_of(moment: datetime) -> datetime:
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_after(moment: datetime) -> datetime:
    return month_of(month_of(moment) + timedelta(days=32))


def id_at(moment: datetime) -> UUID:
    """A version-7 id as PostgreSQL would have made it at *moment*."""
    milliseconds = int(moment.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | 0x8 << 60 | secrets.randbits(60))


@dataclass
class Known:
    """What the test knows of one task."""

    id: UUID
    created_at: datetime
    finished_at: datetime | None = None
    dead_letter: bool = False  # an open one
    told_at: list[datetime] = field(default_factory=list)  # its events

    def needed(self, now: datetime) -> bool:
        """Whether it is live, ended within retention, or a dead letter that nobody has handled."""
        cutoff = now - timedelta(days=KEPT_DAYS)
        return self.finished_at is None or self.finished_at >= cutoff or self.dead_letter


class World:
    """A database whose clock the test moves."""

    def __init__(self, dsn: str, admin: Admin, tenant: UUID, name: str) -> None:
        self.dsn, self.admin, self.tenant, self.name = dsn, admin, tenant, name
        self.now = datetime.now(UTC)
        self.tasks: list[Known] = []

    async def move_to(self, moment: datetime) -> None:
        """Set the clock of every connection from now on."""
        self.now = moment
        await self.admin.execute(f"ALTER DATABASE {self.name} SET app.now = '{moment.isoformat()}'")
        await self.admin.execute(f"SET app.now = '{moment.isoformat()}'")

    @asynccontextmanager
    async def maintenance(self, days: int = KEPT_DAYS) -> AsyncIterator[Maintenance]:
        """A replica that has just started."""
        database = Database(self.dsn)
        await database.open()
        try:
            yield Maintenance(database, rescue_seconds=1, on_work=lambda _: None, history_days=days)
        finally:
            await database.close()

    async def keep(self) -> None:
        """Let the two loops go round once."""
        async with self.maintenance() as maintenance:
            await maintenance.tidy()
            await maintenance.drop_expired()

    async def live(self) -> Known:
        """A task that waits, with a checkpoint and an event."""
        known = Known(id_at(self.now), self.now)
        await self.admin.execute(
            "INSERT INTO tasks (id, tenant_id, queue, type, state, waiting_for, waiting_since, created_by, payload)"
            " VALUES ($1, $2, 'default', 'noop', 'waiting', 'word', app.now(), 'x', '{}')",
            known.id,
            self.tenant,
        )
        await self.admin.execute(
            "INSERT INTO task_steps (tenant_id, task_id, name, kind, fence, started_at) VALUES ($1, $2, 'first', 'step', 1, app.now())",
            self.tenant,
            known.id,
        )
        await self.tell(known)
        self.tasks.append(known)
        return known

    async def tell(self, known: Known) -> None:
        """Add an event to the task's history."""
        await self.admin.execute(
            "INSERT INTO task_events (tenant_id, task_id, event, fence, attempt, actor) VALUES ($1, $2, 'waiting', 1, 1, 'x')",
            self.tenant,
            known.id,
        )
        known.told_at.append(self.now)

    async def end(self, known: Known, *, dead_letter: bool = False) -> None:
        """End the task now."""
        await self.admin.fetch("SELECT * FROM app.cancel($1, $2, 'x', 'y')", self.tenant, [known.id])
        known.finished_at = self.now
        known.told_at.append(self.now)
        if dead_letter:
            known.dead_letter = True
            await self.admin.execute(
                "INSERT INTO dead_letters (task_id, tenant_id, queue, type, state, error_class, failed_at)"
                " VALUES ($1, $2, 'default', 'noop', 'failed', 'x', app.now())",
                known.id,
                self.tenant,
            )

    async def handle(self, known: Known) -> None:
        """Discard the dead letter."""
        await self.admin.execute(
            "UPDATE dead_letters SET handled_at = app.now(), handled_as = 'discarded', handled_by = 'x' WHERE task_id = $1",
            known.id,
        )
        known.dead_letter = False

    async def months(self, parent: str) -> set[datetime]:
        """The months that have a partition."""
        rows = await self.admin.fetch("SELECT month FROM app.months_of($1)", parent)
        return {row["month"] for row in rows}

    def expected(self, parent: str, first: datetime) -> set[datetime]:
        """The months that must be there: three ahead, those not old enough, and those with something that is needed."""
        there = set()
        month = month_of(first)
        last = month_of(month_after(month_after(month_after(self.now))))
        while month <= last:
            young = month_after(month) > self.now - timedelta(days=KEPT_DAYS)
            held = any(
                month
                in (
                    {month_of(at) for at in task.told_at}
                    if parent == "task_events"
                    else {month_of(task.created_at)}
                )
                for task in self.tasks
                if task.needed(self.now)
            )
            if young or held:
                there.add(month)
            month = month_after(month)
        return there

    async def check_rows(self) -> None:
        """Nothing that is needed has lost a row, a checkpoint or an event."""
        for task in self.tasks:
            if not task.needed(self.now):
                continue
            table = "tasks" if task.finished_at is None else "task_history"
            assert await self.admin.fetchval(f"SELECT count(*) FROM {table} WHERE id = $1", task.id) == 1
            assert (
                await self.admin.fetchval("SELECT count(*) FROM task_steps WHERE task_id = $1", task.id) == 1
            )
            events = await self.admin.fetchval("SELECT count(*) FROM task_events WHERE task_id = $1", task.id)
            assert events == len(task.told_at)


@pytest.fixture
async def world(cluster: Cluster, database_name: str, admin: Admin, tenant: UUID) -> World:
    return World(cluster.web(database_name), admin, tenant, database_name)


# What happens in which month to tasks with a story; each month also has one that ends two days after it was made.
STORY: dict[int, list[tuple[str, str]]] = {
    0: [("begin", "patient"), ("begin", "loud")],
    2: [("begin", "neglected"), ("fail", "neglected")],
    3: [("tell", "loud")],  # so it has events in other months than its own
    4: [("tell", "loud")],
    6: [("end", "loud")],
    9: [("end", "patient")],
    11: [("handle", "neglected")],
}


async def tell_story(world: World, number: int, known: dict[str, Known]) -> None:
    for what, name in STORY.get(number, []):
        match what:
            case "begin":
                known[name] = await world.live()
            case "tell":
                await world.tell(known[name])
            case "handle":
                await world.handle(known[name])
            case _:
                await world.end(known[name], dead_letter=what == "fail")


async def test_a_year_of_history_keeps_what_is_needed_and_drops_the_rest_whole(world: World) -> None:
    first = min(await world.months("task_history"))  # the month before, when one has just begun
    moment = month_of(world.now) + timedelta(days=3)
    known: dict[str, Known] = {}
    for number in range(14):
        await world.move_to(moment)
        await tell_story(world, number, known)
        ordinary = await world.live()
        await world.move_to(moment + timedelta(days=2))
        await world.end(ordinary)

        await world.keep()

        for parent in PARENTS:
            assert await world.months(parent) == world.expected(parent, first), (number, parent)
        await world.check_rows()
        moment = month_after(moment) + timedelta(days=3)

    assert await world.admin.fetchval("SELECT count(*) FROM dead_letters") == 0
    for parent in PARENTS:
        assert await world.admin.fetchval(f"SELECT count(*) FROM {parent}_default") == 0


async def test_history_without_an_end_of_retention_is_kept(world: World) -> None:
    await world.end(await world.live())
    await world.move_to(world.now + timedelta(days=3650))

    async with world.maintenance(days=0) as maintenance:
        await maintenance.drop_expired()

    assert await world.admin.fetchval("SELECT count(*) FROM task_history") == 1


async def test_rows_without_a_month_move_into_it_when_it_is_made(world: World) -> None:
    await world.move_to(world.now + timedelta(days=400))  # nothing has run for a year
    early = await world.live()
    late = await world.live()
    await world.end(early)
    for table in PARENTS:
        assert await world.admin.fetchval(f"SELECT count(*) FROM {table}_default") > 0

    await world.keep()
    await world.tell(late)

    await world.check_rows()
    for table in PARENTS:
        assert await world.admin.fetchval(f"SELECT count(*) FROM {table}_default") == 0
    with pytest.raises(asyncpg.PostgresError, match="immutable"):
        await world.admin.execute("DELETE FROM task_events")
    facts: Any = await world.admin.fetch(
        "SELECT relname FROM pg_class WHERE relname LIKE 'task\\_%\\_default' AND relkind = 'r' AND NOT (relrowsecurity AND relforcerowsecurity AND relispartition)"
    )
    assert facts == []


async def test_a_month_that_somebody_reads_is_dropped_later_and_keeps_nobody_waiting(
    world: World, cluster: Cluster
) -> None:
    await world.end(await world.live())
    busy = await world.live()
    await world.move_to(world.now + timedelta(days=200))
    await world.keep()  # the months around the new date
    await world.end(await world.live())
    await world.admin.execute(
        "UPDATE tasks SET id = $2 WHERE id = $1", busy.id, id_at(world.now)
    )  # its month is free to go
    reader = await asyncpg.connect(cluster.admin(world.name))
    began = reader.transaction()
    await began.start()
    await reader.execute("SELECT count(*) FROM task_history")
    before = await world.months("task_history")

    async with world.maintenance() as maintenance:
        dropping = asyncio.create_task(maintenance.drop_expired())
        slowest = 0.0
        while not dropping.done():
            started = time.monotonic()
            await world.admin.fetchval("SELECT count(*) FROM task_history")
            slowest = max(slowest, time.monotonic() - started)
            await asyncio.sleep(0.01)
        assert await dropping >= 1
        assert await world.months("task_history") == before
        assert slowest < 1

        await began.rollback()
        await reader.close()
        assert await maintenance.drop_expired() == 0

    assert await world.months("task_history") < before


class Looks:
    """A month with thirty tasks of two tenants and an event of each, looked through in parts; they ended ten days into the next month."""

    def __init__(self, world: World, month: datetime) -> None:
        self.world, self.month = world, month

    @classmethod
    async def make(cls, world: World, other_tenant: UUID) -> Looks:
        """Fill the month and let it grow old: 190 days from its end."""
        month = month_of(world.now)
        after = month_after(month)
        await world.move_to(month + timedelta(days=10))
        known = []
        for own in (world.tenant, other_tenant) * 15:
            world.tenant = own
            known.append((own, await world.live()))
        await world.move_to(after + timedelta(days=10))
        for own, task in known:
            world.tenant = own
            await world.end(task)
        await world.move_to(after + timedelta(days=190))
        return cls(world, month)

    async def retire(self, parent: str, *, days: int = KEPT_DAYS, batch: int = 12) -> list[str]:
        """Ask until there is an answer, as the loop does."""
        answers = ["more"]
        while answers[-1] == "more":
            async with self.world.admin.transaction():
                sql = "SELECT app.retire_month($1, $2, $3, $4)"
                answers.append(await self.world.admin.fetchval(sql, parent, self.month, days, batch))
        return answers[1:]

    async def rows_read(self, parent: str, *, batch: int = 12) -> int:
        """Ask once, undo it, and return how many rows of history that read."""
        counted = (
            "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_xact_user_tables WHERE relname LIKE $1"
        )
        undone = self.world.admin.transaction()
        await undone.start()
        before = await self.world.admin.fetchval(counted, f"{parent}_2%")
        assert (await self.look(parent, batch=batch)) == "more"
        after = await self.world.admin.fetchval(counted, f"{parent}_2%")
        await undone.rollback()
        return int(after - before)

    async def look(self, parent: str, *, batch: int = 12) -> str:
        """Look at one part, and drop nothing."""
        sql, cutoff = "SELECT app.look_through($1, $2, $3, $4)", self.world.now - timedelta(days=KEPT_DAYS)
        found: str = await self.world.admin.fetchval(sql, parent, self.month, cutoff, batch)
        return found


@pytest.mark.parametrize("parent", ["task_history", "task_events"])
async def test_a_month_of_any_size_is_looked_through_in_parts_and_dropped_after_the_last(
    world: World, other_tenant: UUID, parent: str
) -> None:
    looks = await Looks.make(world, other_tenant)

    read = await looks.rows_read(parent)
    answers = await looks.retire(parent)

    assert read <= 2 * 12
    assert answers == ["more", "more", "dropped"]
    assert looks.month not in await world.months(parent)
    assert await world.admin.fetchval("SELECT count(*) FROM retention_looks") == 0


async def test_the_loop_looks_until_it_knows_and_proves_itself_with_each_part(
    world: World, other_tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = await Looks.make(world, other_tenant)
    monkeypatch.setattr("server.maintenance.LOOK_BATCH", 12)
    beats = []

    async with world.maintenance() as maintenance:
        waiting = await maintenance.drop_expired(lambda: beats.append(1))

    assert waiting == 0
    for parent in PARENTS:
        assert looks.month not in await world.months(parent)
    assert len(beats) >= 4  # two parts of history and two of events found nothing and were not the last


@pytest.mark.parametrize("parent", ["task_history", "task_events"])
async def test_a_look_goes_on_where_the_last_one_ended_whoever_looks(
    world: World, tenant: UUID, other_tenant: UUID, parent: str
) -> None:
    looks = await Looks.make(world, other_tenant)
    assert await looks.look(parent, batch=5) == "more"
    place = await world.admin.fetchrow("SELECT last_tenant, last_task FROM retention_looks")
    first = min(tenant, other_tenant, key=lambda one: one.int)
    seen = await world.admin.fetch(
        "SELECT id FROM task_history WHERE tenant_id = $1 ORDER BY id LIMIT 5", first
    )

    # Behind that place nothing is read again, not even what is needed by some miracle.
    await world.admin.execute("SET session_replication_role = replica")
    await world.admin.execute("UPDATE task_history SET finished_at = app.now() WHERE id = $1", seen[0]["id"])
    await world.admin.execute("SET session_replication_role = origin")

    assert tuple(place) == (first, seen[-1]["id"])
    assert await looks.retire(parent) == ["more", "more", "dropped"]


@pytest.mark.parametrize("parent", ["task_history", "task_events"])
async def test_whoever_keeps_history_for_longer_has_it_looked_through_anew(
    world: World, other_tenant: UUID, parent: str
) -> None:
    looks = await Looks.make(world, other_tenant)
    assert await looks.look(parent, batch=1000) == "expired"

    assert await looks.retire(parent, days=185) == [
        "needed"
    ]  # the month is older than that, its tasks are not
    assert await looks.retire(parent, batch=1000) == ["dropped"]


async def test_what_is_needed_keeps_its_month_and_is_found_at_once_the_next_time(
    world: World, other_tenant: UUID
) -> None:
    looks = await Looks.make(world, other_tenant)
    last = await world.admin.fetchrow(
        "SELECT tenant_id, id FROM task_history ORDER BY tenant_id DESC, id DESC LIMIT 1"
    )
    await world.admin.execute(
        "INSERT INTO dead_letters (task_id, tenant_id, queue, type, state, error_class, failed_at)"
        " VALUES ($2, $1, 'default', 'noop', 'failed', 'x', app.now())",
        *last,
    )

    assert await looks.retire("task_events") == ["more", "more", "needed"]
    assert await looks.retire("task_events") == ["needed"]
    assert await looks.retire("task_history") == await looks.retire("task_steps") == ["needed"]
    await world.admin.execute(
        "UPDATE dead_letters SET handled_at = app.now(), handled_as = 'discarded', handled_by = 'x'"
    )
    for parent in ("task_events", "task_steps", "task_history"):
        assert (await looks.retire(parent))[-1] == "dropped"


async def test_readiness_is_red_while_the_coming_month_has_no_partition(world: World) -> None:
    database = Database(world.dsn)
    await database.open()
    parts = Parts(
        settings=Settings(role="web"), database=database, provider=None, embedder=Embedder(), base_url=""
    )
    engine = Engine(parts, Metrics(release="0", depths=lambda: engine.depths()))  # noqa: PLW0108 - made on this line

    well = await engine.health()
    await world.admin.execute(f"DROP TABLE task_steps_{month_after(world.now):%Y_%m}")
    # Only what is ahead without a gap counts: the month after the next has its partition still.
    ill = await engine.health()
    await world.keep()
    again = await engine.health()
    await database.close()

    assert well["partitions"] is None
    assert ill["partitions"] == "history has room for 0 months ahead, 1 is the least"
    assert again["partitions"] is None


CLOSED = """
WITH rule AS (
  INSERT INTO alert_rules (tenant_id, kind, threshold, updated_by) VALUES ($1, 'dead_letters', 5, 'test') RETURNING id
), made AS (
  INSERT INTO alerts (tenant_id, rule_id, kind, queue, threshold, opened_at, opened_value, value, worst, checked_at, closed_at)
  SELECT $1, rule.id, 'dead_letters', n::text, 5, $2, 6, 6, 6, $2, CASE WHEN n > 1 THEN $2::timestamptz END FROM rule, generate_series(1, 600) n
)
INSERT INTO bulk_operations (tenant_id, confirmation_id, action, target, filter, newest_id, seen_at, state, total, total_is_exact, created_by, finished_at)
SELECT $1, app.uuid7(), 'cancel', 'tasks', '{}', app.uuid7(), $2, CASE WHEN n > 1 THEN 'done' ELSE 'running' END, 1, true, 'test',
       CASE WHEN n > 1 THEN $2::timestamptz END
FROM generate_series(1, 600) n
"""


async def test_closed_alerts_and_bulk_operations_that_are_over_go_when_history_goes(world: World) -> None:
    closed = world.now
    await world.admin.execute(CLOSED, world.tenant, closed)

    async def left() -> tuple[int, int]:
        await world.keep()
        alerts = await world.admin.fetchval("SELECT count(*) FROM alerts")
        return alerts, await world.admin.fetchval("SELECT count(*) FROM bulk_operations")

    await world.move_to(closed + timedelta(days=KEPT_DAYS, minutes=-1))
    assert await left() == (600, 600)
    await world.move_to(closed + timedelta(days=KEPT_DAYS, minutes=1))
    assert await left() == (1, 1)
    assert await world.admin.fetchval("SELECT closed_at FROM alerts") is None
    assert await world.admin.fetchval("SELECT state FROM bulk_operations") == "running"
