"""However oddly code or a connection behaves, the slot comes free, the task ends, and the other tasks notice nothing."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server.database import Database
from server.executor import Executor
from server.maintenance import Maintenance
from server.supervisor import Supervisor
from services.errors import GalleyError
from services.task_context import TaskContext
from services.task_types import Retry
from sql import SQL
from tests.engine import (
    QUICK,
    cancel,
    ended,
    enqueue,
    history,
    running_executor,
    signal,
    task_type,
    until,
)

Admin = asyncpg.Connection


class Mute(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


async def fails_in_half_a_character(task: TaskContext, payload: Any) -> None:
    raise ValueError("half of a pair: \ud800")


async def fails_without_words(task: TaskContext, payload: Any) -> None:
    raise Mute


async def leaves(task: TaskContext, payload: Any) -> None:
    sys.exit(3)


async def fails_beside_itself(task: TaskContext, payload: Any) -> None:
    raise BaseExceptionGroup("several", [KeyError("one"), asyncio.CancelledError()])


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep what is logged out of the report: half a character in it cannot be passed between pytest's processes."""
    caplog.set_level(logging.CRITICAL)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("run", "error_class", "message"),
    [
        (fails_in_half_a_character, "ValueError", "half of a pair: ?"),
        (fails_without_words, "Mute", "Mute"),
        (leaves, "SystemExit", "3"),
        (fails_beside_itself, "BaseExceptionGroup", "several (2 sub-exceptions)"),
    ],
    ids=["half a character", "no words", "exit", "group"],
)
async def test_whatever_code_raises_fails_its_task_and_frees_its_slot(
    database: Database,
    tenant: UUID,
    run: Callable[[TaskContext, Any], Awaitable[None]],
    error_class: str,
    message: str,
) -> None:
    with task_type("odd", run, max_attempts=1):
        async with running_executor(database) as executor:
            odd = await ended(database, await enqueue(database, tenant, "odd"))
            after = await ended(database, await enqueue(database, tenant, "noop"))

            assert odd.error is not None
            (place,) = odd.error.pop("trace")
            assert place.endswith(f" in {run.__name__}")
            assert odd.error == {"class": error_class, "message": message, "attempt": 1}
            assert (odd.state, after.state, executor.busy) == ("failed", "succeeded", 0)


async def test_a_policy_that_fails_itself_fails_the_task(database: Database, tenant: UUID) -> None:
    async def run(task: TaskContext, payload: Any) -> None:
        raise GalleyError("asked to wait", retry_after="soon")  # type: ignore[arg-type]

    with task_type("odd", run, retry=Retry(by_error={GalleyError: "throttled"})):
        async with running_executor(database) as executor:
            odd = await ended(database, await enqueue(database, tenant, "odd"))

            assert odd.error is not None
            assert (odd.state, odd.error["message"]) == (
                "failed",
                "how it ended could not be judged: TypeError",
            )
            assert executor.busy == 0


async def test_a_wait_in_a_group_of_asyncio_tasks_waits(database: Database, tenant: UUID) -> None:
    async def run(task: TaskContext, payload: Any) -> Any:
        async with asyncio.TaskGroup() as group:
            one = group.create_task(task.wait_for("word"))
        return one.result().data

    with task_type("grouped", run):
        async with running_executor(database) as executor:
            task = await until(database, await enqueue(database, tenant, "grouped"), "waiting")
            async with asyncio.timeout(15):
                while executor.busy:
                    await asyncio.sleep(0.01)
            assert executor.stale_results == 0
            await signal(database, task, "word", {"said": "go"})
            task = await ended(database, task)

    assert (task.state, task.result, task.attempt) == ("succeeded", {"said": "go"}, 1)


async def test_a_task_of_a_newer_release_waits_for_a_process_that_knows_it(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    async def run(task: TaskContext, payload: Any) -> str:
        return "done"

    with task_type("coming", run):
        unknown = await enqueue(database, tenant, "coming")
    with task_type("grown", run, version=2):
        newer = await enqueue(database, tenant, "grown")
    with task_type("grown", run):
        async with running_executor(database):
            for task in (unknown, newer):
                left = await until(database, task, "scheduled")
                assert (left.attempt, left.error and left.error["class"]) == (0, "unknown-task-type")
                assert (await history(database, task))[-1] == "snoozed"
    await admin.execute("UPDATE tasks SET run_at = app.now()")
    with task_type("coming", run), task_type("grown", run, version=2):
        async with running_executor(database):
            assert [(await ended(database, task)).result for task in (unknown, newer)] == ["done", "done"]


async def test_a_registration_whose_answer_was_lost_is_made_again(database: Database, admin: Admin) -> None:
    executor = Executor(database, options=QUICK)
    await admin.execute(SQL["executors.register"], executor.lease.executor_id, "here", 1, "0", 20, 2.0)
    supervisor = Supervisor()
    executor.start(supervisor)
    try:
        async with asyncio.timeout(15):
            await executor.lease.held.wait()
    finally:
        await executor.drain()
        await supervisor.stop()


async def test_a_drained_executor_that_loses_its_lease_stays_drained(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    async with running_executor(database) as executor, asyncio.timeout(15):
        await executor.lease.held.wait()
        former = executor.lease.executor_id
        await admin.execute(
            "UPDATE executors SET draining_at = app.now(), draining_by = 'user:ada', lease_until = app.now() - interval '1 s'"
        )
        while executor.lease.executor_id == former or not executor.lease.held.is_set():
            await asyncio.sleep(0.02)
        rows = await admin.fetch("SELECT id, draining_by FROM executors")
        assert [tuple(row) for row in rows] == [(executor.lease.executor_id, "user:ada")]
        async with database.statement() as db:
            await enqueue(database, tenant, "noop")
            answer = await db.fetchrow(
                SQL["executors.claim"], executor.lease.executor_id, "default", 1, None, None, None
            )
        assert answer is not None
        assert answer["outcome"] == "unregistered"


async def test_what_ended_tasks_leave_is_cleared_away_however_much_it_is(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    task = await enqueue(database, tenant, "noop")
    await admin.execute(
        "INSERT INTO task_output SELECT $1, app.uuid7(), 1, 1, 'text' FROM generate_series(1, 1800)", tenant
    )
    await admin.execute(
        "INSERT INTO task_output VALUES ($1, $2, 1, 1, 'text of a live task')", tenant, task.id
    )
    supervisor = Supervisor()
    supervisor.start(
        "house", Maintenance(database, rescue_seconds=1, on_work=lambda queue: None).keep_house, interval=60
    )
    try:
        async with asyncio.timeout(10):
            while await admin.fetchval("SELECT count(*) FROM task_output") > 1:
                await asyncio.sleep(0.02)
    finally:
        await supervisor.stop()
    assert await admin.fetchval("SELECT task_id FROM task_output") == task.id
    await cancel(database, task)
