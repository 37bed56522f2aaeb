"""What bounds a run: worker processes, deadlines, snoozes, and what a lost lease means for the tasks it carried."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server.database import Database
from server.executor import Executor
from server.lease import Timing
from services import chunking, documents
from services.providers import Provider
from services.task_context import TaskContext
from services.task_types import Retry, Throttled
from sql import SQL
from tests import blocking
from tests.blocking import gone, marked
from tests.engine import QUICK, cancel, ended, enqueue, get, history, running_executor, task_type, until
from tests.engine import signal as send
from tests.knowledge import RememberingEmbedder
from tests.llm_server import ScriptedModel

Admin = asyncpg.Connection
PATIENT = replace(QUICK, timing=Timing(lease=timedelta(seconds=30), heartbeat=timedelta(seconds=0.1)))


def in_process(function: Callable[..., Any], *args: Any, **limits: Any) -> Callable[..., Awaitable[Any]]:
    """Return the code of a task type that calls *function* in a worker process."""

    async def run(task: TaskContext, payload: Any) -> Any:
        return await task.in_process(function, *args, **{"memory_mb": 64, **limits})

    return run


async def idle(executor: Executor, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while executor.busy:
            await asyncio.sleep(0.005)


# Worker processes ----------------------------------------------------------------------------------------------------


async def test_blocking_code_returns_its_result_and_the_event_loop_goes_on(
    database: Database, tenant: UUID, tmp_path: Path
) -> None:
    mark, other = tmp_path / "mark", tmp_path / "other"
    with task_type("meeting", in_process(blocking.meet, str(mark), str(other)), max_attempts=1):
        async with running_executor(database):
            task = await enqueue(database, tenant, "meeting")
            await marked(mark)
            other.touch()
            task = await ended(database, task)

    assert (task.state, task.result) == ("succeeded", "met")


async def test_cancelling_a_task_kills_its_endless_loop_and_frees_the_slot(
    database: Database, tenant: UUID, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    with task_type("endless", in_process(blocking.spin_with_company, str(mark))):
        async with running_executor(database) as executor:
            task = await enqueue(database, tenant, "endless")
            pids = await marked(mark)

            executor.stop_cancelled(await cancel(database, task))

            assert await gone(*pids) < 1
            await idle(executor)
            assert executor.leaked == 0
    assert (await get(database, tenant, task.id)).state == "cancelled"


async def test_a_time_out_kills_an_endless_loop(database: Database, tenant: UUID, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with task_type("endless", in_process(blocking.spin, str(mark))):
        async with running_executor(database):
            task = await enqueue(database, tenant, "endless", timeout_seconds=1, max_attempts=1)
            pids = await marked(mark)
            task = await ended(database, task)
            await gone(*pids)

    assert (task.state, task.error["class"]) == ("timed_out", "timeout")


async def test_a_stopping_executor_kills_worker_processes_and_gives_the_task_back(
    database: Database, tenant: UUID, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    with task_type("endless", in_process(blocking.spin, str(mark))):
        async with running_executor(database):
            task = await enqueue(database, tenant, "endless")
            pids = await marked(mark)
        await gone(*pids)

    task = await get(database, tenant, task.id)
    assert (task.state, task.attempt) == ("queued", 0)


@pytest.mark.parametrize(
    ("function", "args", "limits", "error", "attempts"),
    [
        (blocking.burst, (), {}, "process-limit", 1),
        (blocking.spin, ("mark",), {"cpu_seconds": 1}, "process-limit", 1),
        (blocking.inflate, (2,), {"result_mb": 1}, "process-limit", 1),
        (blocking.vanish, (1,), {}, "process-crash", 2),
        (blocking.crash, (), {}, "process-crash", 2),
        (blocking.stumble, (), {}, "ValueError", 3),
        (blocking.be_stubborn, (), {}, "Stubborn", 3),
        (blocking.refuse, (), {}, "empty", 1),
    ],
)
async def test_the_ways_a_worker_process_fails_are_judged_and_others_go_on(  # noqa: PLR0917 - a table
    database: Database,
    tenant: UUID,
    tmp_path: Path,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    limits: dict[str, Any],
    error: str,
    attempts: int,
) -> None:
    args = tuple(str(tmp_path / arg) if arg == "mark" else arg for arg in args)
    with task_type("wrong", in_process(function, *args, **limits), max_attempts=3):
        async with running_executor(database) as executor:
            task = await ended(database, await enqueue(database, tenant, "wrong"))
            other = await ended(database, await enqueue(database, tenant, "noop"))
            await idle(executor)

    assert (task.state, task.error["class"], task.attempt) == ("failed", error, attempts)
    assert other.state == "succeeded"


async def test_a_document_that_crashes_its_parser_fails_with_the_reason_and_the_executor_lives(
    database: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "cut", blocking.crash_parser)
    bomb = documents.NewDocument(collection="notes", title="Bomb", text="x")
    async with database.tenant(tenant, "user:ada") as db:
        document, _ = await documents.create(db, tenant, bomb, actor="user:ada")
    async with running_executor(database, embedder=RememberingEmbedder()):
        task = await ended(database, await get(database, tenant, document.task_id))
        other = await ended(database, await enqueue(database, tenant, "noop"))

    async with database.tenant(tenant, "user:ada") as db:
        document = await documents.get(db, tenant, document.id)
    assert (task.state, task.error["class"], task.attempt) == ("failed", "process-crash", 2)
    assert document.state == "failed"
    assert "SIGSEGV" in str(document.error)
    assert other.state == "succeeded"


# Deadlines -----------------------------------------------------------------------------------------------------------


async def test_a_run_without_a_sign_of_progress_is_stopped_and_tried_again_then_timed_out(
    database: Database, tenant: UUID
) -> None:
    stopped = []

    async def dawdle(task: TaskContext, payload: Any) -> None:
        await task.progress(0.1, "beginning")
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append(task.attempt)

    with task_type("dawdle", dawdle, progress_timeout=timedelta(seconds=0.4), max_attempts=2):
        async with running_executor(database):
            task = await ended(database, await enqueue(database, tenant, "dawdle"))

    assert stopped == [1, 2]
    assert (task.state, task.error["class"]) == ("timed_out", "stalled")
    assert (await history(database, task)).count("retry_scheduled") == 1


async def done(*_: Any) -> str:
    return "done"


async def emit(task: TaskContext, number: int) -> None:
    task.emit(f"word {number} ")


SIGNS: dict[str, Callable[[TaskContext, int], Awaitable[Any]]] = {
    "progress": lambda task, number: task.progress(number / 9, "on the way"),
    "live text": emit,
    "step": lambda task, number: task.step(f"part:{number}", done),
    "write": lambda task, number: task.write(f"part:{number}", done),
    "worker process": lambda task, number: task.in_process(blocking.add, 1, 1),
}


@pytest.mark.parametrize("sign", SIGNS)
async def test_each_sign_of_progress_keeps_a_slow_run_going(
    database: Database, tenant: UUID, sign: str
) -> None:
    async def plod(task: TaskContext, payload: Any) -> str:
        for number in range(9):
            await asyncio.sleep(0.4)
            await SIGNS[sign](task, number)
        return "arrived"

    with task_type("plod", plod, progress_timeout=timedelta(seconds=3), max_attempts=1):
        async with running_executor(database):
            task = await ended(database, await enqueue(database, tenant, "plod"))

    assert (task.state, task.result) == ("succeeded", "arrived"), task.error


async def test_the_total_time_of_a_type_ends_its_task_in_the_midst_of_a_run(
    database: Database, tenant: UUID
) -> None:
    async def for_ever(task: TaskContext, payload: Any) -> None:
        await asyncio.sleep(60)

    with task_type("for_ever", for_ever, total_timeout=timedelta(seconds=1), max_attempts=5):
        async with running_executor(database):
            started = time.monotonic()
            task = await ended(database, await enqueue(database, tenant, "for_ever"))
            took = time.monotonic() - started

    assert (task.state, task.error["class"], task.attempt) == ("timed_out", "total_timeout", 1)
    assert 0.9 < took < 4


async def test_a_caller_may_give_another_total_time_than_the_type(database: Database, tenant: UUID) -> None:
    async def nap(task: TaskContext, payload: Any) -> str:
        await asyncio.sleep(1.5)
        return "rested"

    with task_type("nap", nap, total_timeout=timedelta(seconds=1)):
        async with running_executor(database):
            task = await ended(database, await enqueue(database, tenant, "nap", total_timeout_seconds=60))

    assert task.result == "rested"


async def test_time_spent_waiting_is_not_part_of_the_total_time(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    async def wait(task: TaskContext, payload: Any) -> str:
        await task.wait_for("go")
        return "gone"

    with task_type("wait", wait, total_timeout=timedelta(minutes=1)):
        async with running_executor(database):
            task = await until(database, await enqueue(database, tenant, "wait"), "waiting")
            hour_later = "UPDATE tasks SET {0} = {0} - interval '1 hour', {1} = {1} - interval '1 hour'"
            await admin.execute(hour_later.format("waiting_since", "total_deadline_at"))
            await send(database, task, "go")
            task = await ended(database, task)

    assert (task.state, task.result) == ("succeeded", "gone"), task.error


async def test_a_task_whose_total_time_ran_out_between_two_attempts_is_timed_out(
    database: Database, tenant: UUID
) -> None:
    async def stumble(task: TaskContext, payload: Any) -> None:
        raise ValueError("no luck")

    slow = Retry(base=timedelta(minutes=1), cap=timedelta(minutes=1))
    with task_type("stumble", stumble, total_timeout=timedelta(seconds=1), retry=slow):
        async with running_executor(database):
            task = await until(database, await enqueue(database, tenant, "stumble"), "scheduled")
            async with asyncio.timeout(10):
                while (await get(database, tenant, task.id)).state == "scheduled":
                    async with database.statement() as db:
                        await db.fetchrow(SQL["executors.time_out"], 10)
                    await asyncio.sleep(0.05)

    task = await get(database, tenant, task.id)
    assert (task.state, task.error["class"]) == ("timed_out", "total_timeout")


# Snoozes -------------------------------------------------------------------------------------------------------------


async def test_a_provider_that_never_has_time_ends_the_task_after_so_many_snoozes(
    database: Database, tenant: UUID
) -> None:
    async def ask(task: TaskContext, payload: Any) -> None:
        raise Throttled("come back later", retry_after=0.01)

    with task_type("ask", ask, max_attempts=1, max_snoozes=3):
        async with running_executor(database):
            task = await ended(database, await enqueue(database, tenant, "ask"))

    assert (task.state, task.snoozes, task.attempt, task.error["class"]) == ("failed", 3, 1, "throttled")
    assert task.error["message"].endswith("once more than the type allows: come back later")
    assert (await history(database, task)).count("snoozed") == 3


# Crashes and lost leases ---------------------------------------------------------------------------------------------


async def lose_lease(admin: Admin, executor: Executor) -> None:
    """End the lease behind the executor's back and wait until it has come back under another id."""
    before = executor.lease.executor_id
    await admin.execute("UPDATE executors SET lease_until = now() - interval '1 s' WHERE id = $1", before)
    async with asyncio.timeout(10):
        while executor.lease.executor_id == before or not executor.lease.held.is_set():
            await asyncio.sleep(0.01)


async def test_a_lease_lost_by_a_living_process_costs_its_tasks_neither_attempt_nor_crash(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    async with running_executor(database, PATIENT) as executor:
        task = await enqueue(database, tenant, "noop", {"seconds": 60}, max_attempts=2)
        for _ in range(4):
            latest = await until(database, task, "running")
            await lose_lease(admin, executor)
            async with asyncio.timeout(10):
                while (again := await get(database, tenant, task.id)).fence == latest.fence:
                    await asyncio.sleep(0.01)
        again = await until(database, task, "running")

    assert (again.attempt, again.crashes) == (1, 0)


async def test_code_that_blocks_the_loop_until_the_lease_is_lost_runs_out_of_attempts(
    database: Database, tenant: UUID
) -> None:
    """It never passes for a crash, so it gets all its attempts, and no more."""
    attempts = []

    async def hog(task: TaskContext, payload: Any) -> None:
        attempts.append(task.attempt)
        time.sleep(1.3)
        await asyncio.sleep(60)

    hasty = replace(QUICK, timing=Timing(lease=timedelta(seconds=1), heartbeat=timedelta(seconds=0.2)))
    with task_type("hog", hog, max_attempts=4):
        async with running_executor(database, hasty):
            task = await ended(database, await enqueue(database, tenant, "hog"), seconds=30)

    assert attempts == [1, 2, 3, 4]
    assert (task.state, task.error["class"], task.crashes) == ("failed", "crash", 0)


async def test_a_lost_lease_is_excused_once(database: Database, tenant: UUID, admin: Admin) -> None:
    executor_id = await admin.fetchval("SELECT app.uuid7()")
    task = await enqueue(database, tenant, "noop")
    async with database.statement() as db:
        await db.execute(SQL["executors.register"], executor_id, "here", 1, "0", 10, 60.0)
        await db.fetch(SQL["executors.claim"], executor_id, task.queue, 10, None, None, None)
        await admin.execute("UPDATE executors SET lease_until = now() - interval '1 s'")
        await db.fetch(SQL["executors.rescue"], 10, 30)
        await admin.execute("UPDATE tasks SET crashes = 2, attempt = 2")

        said = [
            await db.fetchval(SQL["executors.report_lost"], executor_id, [task.id], [1], True)
            for _ in range(2)
        ]

    task = await get(database, tenant, task.id)
    assert said == [1, 0]
    assert (task.state, task.crashes, task.attempt) == ("queued", 1, 1)


async def test_a_task_held_after_a_crash_runs_again_when_an_operator_says_so(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    async def arrive(task: TaskContext, payload: Any) -> int:
        if task.fence == 1:
            await asyncio.sleep(60)
        return task.fence

    with task_type("fragile", arrive, on_crash="hold"):
        async with running_executor(database, drain=False):
            task = await until(database, await enqueue(database, tenant, "fragile"), "running")
        await admin.execute("UPDATE executors SET lease_until = now() - interval '1 s'")
        async with running_executor(database):
            task = await until(database, task, "waiting")
            assert (task.waiting_for, task.crashes) == ("operator", 1)
            await send(database, task, "operator")
            task = await ended(database, task)

    assert (task.state, task.result, task.attempt) == ("succeeded", 3, 2)
    assert await history(database, task) == ["created", "held", "signalled", "started", "succeeded"]


async def test_a_model_server_that_always_asks_to_wait_is_heeded_and_then_given_up(
    database: Database, tenant: UUID
) -> None:
    """429 over the real protocol: no attempt is used, each wait is as long as was asked for, and it ends."""

    async def ask(task: TaskContext, payload: Any) -> Any:
        async def question() -> str:
            answer = await task.llm.complete([{"role": "user", "content": "Say something."}], max_tokens=20)
            return answer.text

        return await task.step("question", question)

    async with ScriptedModel() as model:
        model.set(fault="throttle", retry_after=0.3)
        provider = Provider(model.base_url, "key", model.model)
        with task_type("ask", ask, max_attempts=1, max_snoozes=2):
            async with running_executor(database, provider=provider):
                task = await ended(database, await enqueue(database, tenant, "ask"))
        await provider.close()

    assert (task.state, task.attempt, task.snoozes, task.error["class"]) == ("failed", 1, 2, "throttled")
    assert task.error["message"].startswith(
        "asked to wait 3 times, once more than the type allows: the model"
    )
    assert "slow down" in task.error["message"]
    times = [request.started_at for request in model.requests]
    assert len(times) == 3
    assert all(later - earlier >= 0.3 for earlier, later in itertools.pairwise(times))


async def test_a_lost_lease_is_excused_although_a_rescuer_is_just_taking_the_task(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    executor_id = await admin.fetchval("SELECT app.uuid7()")
    task = await enqueue(database, tenant, "noop")
    async with database.statement() as db, database.statement() as rescuer:
        await db.execute(SQL["executors.register"], executor_id, "here", 1, "0", 10, 60.0)
        await db.fetch(SQL["executors.claim"], executor_id, task.queue, 10, None, None, None)
        await admin.execute("UPDATE executors SET lease_until = now() - interval '1 s'")
        async with rescuer.transaction():
            assert len(await rescuer.fetch(SQL["executors.rescue"], 10, 30)) == 1
            said = asyncio.create_task(
                db.fetchval(SQL["executors.report_lost"], executor_id, [task.id], [1], False)
            )
            async with asyncio.timeout(15):
                while not await admin.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                ):
                    await asyncio.sleep(0.01)
        assert await said == 1

    task = await get(database, tenant, task.id)
    assert (task.state, task.crashes, task.attempt) == ("queued", 0, 1)
