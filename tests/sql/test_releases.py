"""The release before goes on working on this release's schema, beside this release.

`tests/releases/<release>/` keeps what a release said to PostgreSQL: its statements, and what each took and gave when they were prepared on
its own schema. Nothing else of a release reaches the database.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server import migrations
from server.database import Database
from server.migrations import Status
from services.task_context import TaskContext
from sql import load
from tests.conftest import Cluster
from tests.engine import cancel, ended, enqueue, get, running_executor, task_type, until

FOLDER = Path(__file__).parents[1] / "releases" / "0.1.0"
SCHEMA = 3  # the newest migration that release 0.1.0 knows
OLD = load(FOLDER)
SIGNATURES: dict[str, dict[str, Any]] = json.loads((FOLDER / "signatures.json").read_text())
Admin = asyncpg.Connection


class OldExecutor:
    """What release 0.1.0 does with the database to run tasks, reduced to its statements in their order."""

    def __init__(self, database: Database) -> None:
        self.id = uuid4()
        self.running: dict[UUID, int] = {}
        self._database = database

    async def say(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        """Execute one of its statements."""
        async with self._database.statement() as db:
            rows: list[asyncpg.Record] = await db.fetch(OLD[name], *arguments)
            return rows

    async def register(self, lease: float = 20.0) -> None:
        await self.say("executors.register", self.id, "old-host", 1, "0.1.0", 10, lease)

    async def beat(self, lease: float = 20.0) -> asyncpg.Record:
        rows = await self.say(
            "executors.heartbeat", self.id, lease, list(self.running), list(self.running.values())
        )
        await self.say("executors.give_back_unknown", self.id, list(self.running), 5.0)
        return rows[0]

    async def claim(self, most: int = 10) -> list[asyncpg.Record]:
        claimed = []
        for queue in (await self.say("executors.ready_queues"))[0]["ready_queues"]:
            rows = await self.say("executors.claim", self.id, queue, most)
            claimed += [row for row in rows if row["outcome"] == "claimed"]
        self.running |= {row["id"]: row["fence"] for row in claimed}
        return claimed

    async def finish(
        self, state: str = "succeeded", result: str | None = '{"by": "old"}', error: Any = None
    ) -> list[str]:
        """End everything that runs here, and return what became of each."""
        ids, fences = sorted(self.running), [self.running[one] for one in sorted(self.running)]
        many = len(ids)
        rows = await self.say(
            "executors.finish", ids, fences, [state] * many, [result] * many, [error] * many
        )
        self.running.clear()
        return [row["outcome"] for row in rows]


@pytest.fixture
async def old(database: Database) -> OldExecutor:
    made = OldExecutor(database)
    await made.register()
    return made


@pytest.fixture
async def prepared(cluster: Cluster) -> Admin:
    connection = await asyncpg.connect(cluster.web(cluster.template))
    yield connection
    await connection.close()


@pytest.mark.parametrize("name", sorted(SIGNATURES))
async def test_every_statement_of_the_release_before_takes_and_gives_what_it_did(
    name: str, prepared: Admin
) -> None:
    statement = await prepared.prepare(OLD[name])
    gives = {column.name: column.type.name for column in statement.get_attributes()}

    assert [parameter.name for parameter in statement.get_parameters()] == SIGNATURES[name]["takes"]
    assert SIGNATURES[name]["gives"].items() <= gives.items()


async def test_the_schema_says_that_the_release_before_may_run(cluster: Cluster, database_name: str) -> None:
    now = await migrations.check(cluster.admin(database_name))
    then = Status(applied=now.applied, known=SCHEMA, works_with=now.works_with)

    assert now.applied > SCHEMA
    assert not then.behind
    assert not then.too_new


async def test_two_releases_share_the_tasks_of_one_database(
    database: Database, old: OldExecutor, tenant: UUID, admin: Admin
) -> None:
    at_work = asyncio.Event()

    async def run(task: TaskContext, payload: Any) -> Any:
        at_work.set()
        await asyncio.sleep(0.01)
        return {"by": "new"}

    with task_type("shared", run):
        made = [await enqueue(database, tenant, "shared") for _ in range(60)]
        first = await old.claim()
        async with running_executor(database):
            await at_work.wait()
            while old.running:
                assert set(await old.finish()) == {"done"}
                while not await old.claim(3) and await admin.fetchval("SELECT EXISTS (SELECT FROM tasks)"):
                    await asyncio.sleep(0.01)  # the new one holds the queue just now, or runs the rest
            done = [await ended(database, task) for task in made]
            beat = await old.beat()

    by = [task.result["by"] for task in done if task.result]
    assert len(first) == 10
    assert (beat["alive"], beat["draining"], beat["lost"]) == (True, False, [])
    assert {(task.state, task.attempt, task.fence) for task in done} == {("succeeded", 1, 1)}
    assert len(by) == 60
    assert by.count("old") >= 10
    assert by.count("new") >= 1


async def test_each_release_takes_up_what_the_other_retries_gives_back_or_loses(
    database: Database, old: OldExecutor, tenant: UUID, admin: Admin
) -> None:
    async def run(task: TaskContext, payload: Any) -> Any:
        return {"by": "new"}

    with task_type("moving", run):
        retried, returned, lost = [await enqueue(database, tenant, "moving") for _ in range(3)]
        claimed = {row["id"]: row["fence"] for row in await old.claim()}
        error = {"class": "Oops", "message": "try again"}
        await old.say("runs.retry", retried.id, claimed[retried.id], "retried", error, 0.05, True)
        await old.say("executors.give_back", old.id, [returned.id], [claimed[returned.id]])
        old.running = {lost.id: claimed[lost.id]}
        await admin.execute(
            "UPDATE executors SET lease_until = app.now() - interval '1 s' WHERE id = $1", old.id
        )
        async with running_executor(database):
            done = [await ended(database, task) for task in (retried, returned, lost)]
        late = await old.finish()
        beat = await old.beat()

    assert [(task.result, task.attempt) for task in done] == [
        ({"by": "new"}, 2),
        ({"by": "new"}, 1),
        ({"by": "new"}, 2),
    ]
    assert late == ["stale"]
    assert not beat["alive"]


async def test_a_cancel_by_either_release_is_final_for_the_other(
    database: Database, old: OldExecutor, tenant: UUID
) -> None:
    started = asyncio.Event()

    async def run(task: TaskContext, payload: Any) -> Any:
        started.set()
        await asyncio.sleep(60)

    with task_type("cancelled", run):
        here = await enqueue(database, tenant, "cancelled")
        await old.claim()
        await cancel(database, here)
        lost = (await old.beat())["lost"]
        refused = await old.finish()
        async with running_executor(database) as executor:
            there = await enqueue(database, tenant, "cancelled")
            await started.wait()
            async with database.tenant(tenant, "user:bob") as db:
                await db.execute(OLD["tasks.limit_lock_wait"])
                told = await db.fetch(OLD["tasks.cancel"], tenant, [there.id], "user:bob", "a test")
            async with asyncio.timeout(15):
                while executor.busy:
                    await asyncio.sleep(0.01)
        states = [(await get(database, tenant, task.id)).state for task in (here, there)]

    assert lost == [here.id]
    assert refused == ["stale"]
    assert [row["id"] for row in told] == [there.id]
    assert states == ["cancelled", "cancelled"]


async def test_what_the_release_before_enqueues_fails_and_waits_for_is_handled_by_this_one(
    database: Database, old: OldExecutor, tenant: UUID, admin: Admin
) -> None:
    columns = [
        ["moving"],
        [1],
        [{}],
        ["default"],
        [2],
        [None],
        [60],
        [1],
        ["retry"],
        [None],
        [None],
        [None],
        [None],
    ]

    async def run(task: TaskContext, payload: Any) -> Any:
        return (await task.wait_for("word")).data

    with task_type("moving", run):
        async with database.tenant(tenant, "user:ada") as db:
            first = await db.fetchval(OLD["tasks.enqueue"], tenant, "user:ada", None, None, *columns)
        await old.claim()
        outcomes = await old.finish("failed", None, {"class": "Oops", "message": "no more"})
        async with running_executor(database):
            async with database.tenant(tenant, "user:ada") as db:
                second = await db.fetchval(OLD["tasks.enqueue"], tenant, "user:ada", None, None, *columns)
            waiting = await until(database, await get(database, tenant, second), "waiting")
            async with database.tenant(tenant, "user:ada") as db:
                await db.fetchrow(OLD["tasks.lock"], tenant, second)
                await db.execute(OLD["tasks.insert_signal"], tenant, second, "word", {"go": 1}, "user:ada")
                await db.fetch(OLD["tasks.resume"], tenant, second, "word", "user:ada")
            done = await ended(database, waiting)
    dead = await admin.fetchrow("SELECT task_id, error_class FROM dead_letters WHERE handled_at IS NULL")
    counted = await admin.fetch("SELECT outcome, sum(tasks)::int FROM task_statistics GROUP BY 1 ORDER BY 1")

    assert outcomes == ["done"]
    assert tuple(dead or ()) == (first, "Oops")
    assert (done.state, done.result) == ("succeeded", {"go": 1})
    assert {"failed": 1, "succeeded": 1}.items() <= {row[0]: row[1] for row in counted}.items()


async def test_an_executor_of_the_release_before_is_drained_by_its_row(
    database: Database, old: OldExecutor, tenant: UUID, admin: Admin
) -> None:
    async def run(task: TaskContext, payload: Any) -> Any:
        return None

    with task_type("moving", run):
        await enqueue(database, tenant, "moving")
        await admin.execute("UPDATE executors SET draining_at = app.now() WHERE id = $1", old.id)
        claimed = await old.claim()
        beat = await old.beat()

    assert claimed == []
    assert (beat["alive"], beat["draining"]) == (True, True)


async def test_an_older_release_that_migrates_leaves_the_functions_of_the_newer_one(
    cluster: Cluster, database_name: str, admin: Admin
) -> None:
    newer = "CREATE OR REPLACE FUNCTION app.months_ahead() RETURNS int LANGUAGE sql AS 'SELECT 4711'"
    await admin.execute(newer)
    await admin.execute("UPDATE schema_functions SET checksum = 'of the newer release'")
    known = migrations.read_migrations()[-1].version
    await admin.execute(
        "INSERT INTO schema_migrations (version, name, checksum, works_with) VALUES ($1, 'later', 'x', $2)",
        known + 1,
        known,
    )

    await migrations.migrate(cluster.admin(database_name))

    assert await admin.fetchval("SELECT app.months_ahead()") == 4711


async def test_a_migration_waits_for_a_reader_in_turns_and_lets_others_pass(
    cluster: Cluster, database_name: str, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await migrations.roll_back(cluster.admin(database_name), to=7)
    reader = await asyncpg.connect(cluster.admin(database_name))
    reading = reader.transaction()
    await reading.start()
    await reader.execute("SELECT FROM task_history_default")  # which migration 8 makes policies for

    migrating = asyncio.create_task(migrations.migrate(cluster.admin(database_name)))
    async with asyncio.timeout(10):
        while "migration waits for a lock" not in caplog.messages:
            await asyncio.sleep(0.02)
    async with asyncio.timeout(5):
        await admin.execute("SELECT FROM task_history_default")
    await reading.rollback()
    status = await migrating
    await reader.close()

    assert not status.behind
