"""The engine's promises, one by one, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server import logs
from server.database import Database
from services import task_history, tasks
from services.errors import StaleAttempt
from services.task_context import TaskContext
from services.task_types import Permanent, Retry, Throttled
from services.tasks import NewTask
from sql import SQL
from tests.engine import (
    QUICK,
    cancel,
    ended,
    enqueue,
    get,
    history,
    running_executor,
    signal,
    task_type,
    until,
)

Admin = asyncpg.Connection


async def test_a_task_runs_and_its_result_is_kept(database: Database, tenant: UUID) -> None:
    async with running_executor(database):
        task = await ended(database, await enqueue(database, tenant, "noop", {"seconds": 0.01}))

    assert (task.state, task.result, task.attempt, task.fence) == ("succeeded", {"slept": 0.01}, 1, 1)
    assert task.created_at <= task.started_at <= task.finished_at
    assert await history(database, task) == ["created", "started", "succeeded"]


async def test_a_permanent_error_fails_at_once_and_says_why(database: Database, tenant: UUID) -> None:
    async with running_executor(database):
        task = await ended(database, await enqueue(database, tenant, "noop", {"fail": True}))

    assert (task.state, task.attempt) == ("failed", 1)
    assert task.error == {"class": "permanent", "message": "it was asked to fail", "attempt": 1}


async def test_an_error_is_tried_again_until_attempts_are_used_up(database: Database, tenant: UUID) -> None:
    attempts = []

    async def stumble(task: TaskContext, payload: Any) -> None:
        attempts.append((task.attempt, task.fence))
        raise ValueError("no luck")

    with task_type("stumble", stumble):
        async with running_executor(database):
            task = await ended(database, await enqueue(database, tenant, "stumble", max_attempts=3))

    assert attempts == [(1, 1), (2, 3), (3, 5)]
    assert (task.state, task.error["class"], task.error["message"]) == ("failed", "ValueError", "no luck")
    assert (await history(database, task)).count("retry_scheduled") == 2


async def test_a_throttled_run_comes_back_without_using_an_attempt(database: Database, tenant: UUID) -> None:
    async def wait_twice(task: TaskContext, payload: Any) -> str:
        if task.fence < 5:
            raise Throttled("slow down", retry_after=0.02)
        return "done"

    with task_type("wait_twice", wait_twice, max_attempts=1):
        async with running_executor(database):
            task = await ended(database, await enqueue(database, tenant, "wait_twice"))

    assert (task.state, task.result, task.attempt, task.snoozes) == ("succeeded", "done", 1, 2)


async def test_a_run_past_its_time_out_is_stopped_and_tried_again_then_timed_out(
    database: Database, tenant: UUID
) -> None:
    stopped = []

    async def dawdle(task: TaskContext, payload: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append(task.attempt)

    with task_type("dawdle", dawdle):
        async with running_executor(database):
            task = await ended(
                database, await enqueue(database, tenant, "dawdle", timeout_seconds=1, max_attempts=2)
            )

    assert stopped == [1, 2]
    assert (task.state, task.error["class"]) == ("timed_out", "timeout")


async def test_a_finished_step_is_not_done_again(database: Database, tenant: UUID) -> None:
    calls = []

    async def two_steps(task: TaskContext, payload: Any) -> Any:
        async def first() -> dict[str, int]:
            calls.append("first")
            return {"n": 1}

        kept = await task.step("first", first, input={"a": 1})
        if task.attempt == 1:
            raise ValueError("between the steps")
        return kept

    with task_type("two_steps", two_steps):
        async with running_executor(database):
            task = await ended(database, await enqueue(database, tenant, "two_steps"))

    assert (task.state, task.result, calls) == ("succeeded", {"n": 1}, ["first"])


async def test_a_step_asked_for_with_another_input_fails_the_task(database: Database, tenant: UUID) -> None:
    async def fickle(task: TaskContext, payload: Any) -> None:
        async def nothing() -> None: ...

        await task.step("once", nothing, input={"attempt": task.attempt})
        raise ValueError("again")

    with task_type("fickle", fickle):
        async with running_executor(database):
            task = await ended(database, await enqueue(database, tenant, "fickle"))

    assert (task.state, task.error["class"], task.attempt) == ("failed", "step-mismatch", 2)


async def test_a_signal_resumes_a_waiting_task_which_held_no_slot_and_no_attempt(
    database: Database, tenant: UUID
) -> None:
    async def ask(task: TaskContext, payload: Any) -> Any:
        answer = await task.wait_for("answer", timeout=timedelta(hours=1))
        return [answer.data, answer.actor, task.attempt]

    with task_type("ask", ask):
        async with running_executor(database) as executor:
            task = await until(database, await enqueue(database, tenant, "ask"), "waiting")
            assert (task.attempt, task.waiting_for, executor.busy) == (0, "answer", 0)
            async with database.tenant(tenant, "user:ada") as db:
                events = await task_history.list_events(db, tenant, task.id)
            assert [(event.event, event.fence) for event in events] == [
                ("created", 0),
                ("started", 1),
                ("waiting", 1),
            ]

            await signal(database, task, "answer", {"yes": True})

            task = await ended(database, task)
    assert task.result == [{"yes": True}, "user:bob", 1]
    assert await history(database, task) == ["created", "waiting", "signalled", "started", "succeeded"]


async def test_a_signal_sent_before_the_wait_is_not_lost_and_the_first_one_wins(
    database: Database, tenant: UUID
) -> None:
    ready = asyncio.Event()

    async def late(task: TaskContext, payload: Any) -> Any:
        await ready.wait()
        return (await task.wait_for("go")).data

    with task_type("late", late):
        async with running_executor(database):
            task = await until(database, await enqueue(database, tenant, "late"), "running")
            await signal(database, task, "go", {"n": 1})
            await signal(database, task, "go", {"n": 2})
            ready.set()
            task = await ended(database, task)

    assert task.result == {"n": 1}


async def test_a_wait_that_is_over_says_so(database: Database, tenant: UUID) -> None:
    async def impatient(task: TaskContext, payload: Any) -> Any:
        return (await task.wait_for("never", timeout=timedelta(milliseconds=50))).expired

    with task_type("impatient", impatient):
        async with running_executor(database):
            task = await ended(database, await enqueue(database, tenant, "impatient"))

    assert task.result is True
    assert "wait_expired" in await history(database, task)


async def test_many_waits_do_not_exhaust_a_single_attempt(database: Database, tenant: UUID) -> None:
    async def rounds(task: TaskContext, payload: Any) -> list[int]:
        return [(await task.wait_for(f"round-{n}")).data["n"] for n in range(6)]

    with task_type("rounds", rounds, max_attempts=1):
        async with running_executor(database):
            task = await enqueue(database, tenant, "rounds")
            for n in range(6):
                while (await until(database, task, "waiting")).waiting_for != f"round-{n}":
                    await asyncio.sleep(0.01)
                await signal(database, task, f"round-{n}", {"n": n})
            task = await ended(database, task)

    assert (task.result, task.attempt) == ([0, 1, 2, 3, 4, 5], 1)


async def test_a_cancel_is_final_at_once_and_the_run_writes_nothing_more(
    database: Database, tenant: UUID
) -> None:
    outcome = []

    async def stubborn(task: TaskContext, payload: Any) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            try:
                await task.write("late", lambda db: db.fetchval("SELECT 1"))
            except StaleAttempt:
                outcome.append("refused")
        return "done after all"

    with task_type("stubborn", stubborn):
        async with running_executor(database) as executor:
            task = await until(database, await enqueue(database, tenant, "stubborn"), "running")
            stopped = await cancel(database, task)
            assert (await get(database, tenant, task.id)).state == "cancelled"
            assert executor.stop_cancelled(stopped) == []
            async with asyncio.timeout(15):
                while executor.busy:
                    await asyncio.sleep(0.01)

    task = await get(database, tenant, task.id)
    assert (task.state, task.result, outcome) == ("cancelled", None, ["refused"])


async def test_a_cancel_nobody_told_about_reaches_the_run_by_the_heartbeat(
    database: Database, tenant: UUID
) -> None:
    async with running_executor(database) as executor:
        task = await until(database, await enqueue(database, tenant, "noop", {"seconds": 60}), "running")
        await cancel(database, task)
        async with asyncio.timeout(15):
            while executor.busy:
                await asyncio.sleep(0.01)


async def test_code_that_ignores_its_cancellation_keeps_its_slot_and_is_counted(
    database: Database, tenant: UUID
) -> None:
    over = asyncio.Event()

    async def be_deaf(task: TaskContext, payload: Any) -> None:
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    with task_type("deaf", be_deaf):
        async with running_executor(database) as executor:
            task = await until(database, await enqueue(database, tenant, "deaf"), "running")
            executor.stop_cancelled(await cancel(database, task))
            async with asyncio.timeout(15):
                while not executor.leaked:
                    await asyncio.sleep(0.01)
            assert executor.busy == 1
            over.set()
            async with asyncio.timeout(15):
                while executor.busy:
                    await asyncio.sleep(0.01)

    assert (await get(database, tenant, task.id)).state == "cancelled"


async def test_a_dead_executors_task_is_rescued_and_its_write_refused(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    async with running_executor(database, replace(QUICK, slots=1), drain=False) as zombie:
        task = await until(database, await enqueue(database, tenant, "noop", {"seconds": 60}), "running")
        await admin.execute(
            "UPDATE executors SET lease_until = now() - interval '1 s' WHERE id = $1",
            zombie.lease.executor_id,
        )
        async with database.statement() as db:
            rescued = await db.fetch(SQL["executors.rescue"], 10, 30)
            refused = await db.fetch(
                SQL["executors.finish"], [task.id], [task.fence], ["succeeded"], ['{"zombie": true}'], [None]
            )

    assert [row["id"] for row in rescued] in ([task.id], [])  # the zombie's own rescuer may have been first
    assert [tuple(row) for row in refused] == [(task.id, "stale")]
    assert "rescued" in await history(database, task)


@pytest.mark.parametrize(
    ("on_crash", "state"), [("fail", "failed"), ("hold", "waiting"), ("retry", "queued")]
)
async def test_what_a_crash_means_is_the_types_to_say(
    database: Database, tenant: UUID, admin: Admin, on_crash: str, state: str
) -> None:
    async def never(task: TaskContext, payload: Any) -> None: ...

    with task_type("fragile", never, on_crash=on_crash):
        task = await enqueue(database, tenant, "fragile")
        await admin.execute(
            "UPDATE tasks SET state = 'running', attempt = 1, fence = 1, executor_id = app.uuid7(), started_at = now() WHERE id = $1",
            task.id,
        )
        async with database.statement() as db:
            await db.fetch(SQL["executors.rescue"], 10, 30)

    assert (await get(database, tenant, task.id)).state == state


async def test_a_third_crash_ends_the_task(database: Database, tenant: UUID, admin: Admin) -> None:
    task = await enqueue(database, tenant, "noop", max_attempts=10)
    for attempt in (1, 2, 3):
        await admin.execute(
            "UPDATE tasks SET state = 'running', attempt = $2, executor_id = app.uuid7(), started_at = now() WHERE id = $1",
            task.id,
            attempt,
        )
        async with database.statement() as db:
            await db.fetch(SQL["executors.rescue"], 10, 30)

    task = await get(database, tenant, task.id)
    assert (task.state, task.error["class"]) == ("failed", "crash_loop")


async def test_a_stopping_executor_gives_runs_back_with_their_attempt(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    async with running_executor(database):
        task = await until(database, await enqueue(database, tenant, "noop", {"seconds": 60}), "running")

    task = await get(database, tenant, task.id)
    assert (task.state, task.attempt) == ("queued", 0)
    assert "interrupted" in await history(database, task)
    assert await admin.fetchval("SELECT count(*) FROM executors") == 0


async def test_a_lost_lease_stops_every_run_here(database: Database, tenant: UUID, admin: Admin) -> None:
    async with running_executor(database) as executor:
        before = executor.lease.executor_id
        await until(database, await enqueue(database, tenant, "noop", {"seconds": 60}), "running")
        await admin.execute("UPDATE executors SET lease_until = now() - interval '1 s'")
        async with asyncio.timeout(15):
            while executor.lease.executor_id == before:
                await asyncio.sleep(0.01)


async def test_a_full_key_parks_tasks_and_lets_them_run_one_by_one(database: Database, tenant: UUID) -> None:
    together: list[int] = []
    now = 0

    async def alone(task: TaskContext, payload: Any) -> None:
        nonlocal now
        now += 1
        together.append(now)
        await asyncio.sleep(0.02)
        now -= 1

    with task_type("alone", alone):
        async with running_executor(database):
            made = [
                await enqueue(database, tenant, "alone", concurrency_key="k", concurrency_limit=2)
                for _ in range(8)
            ]
            for task in made:
                assert (await ended(database, task)).state == "succeeded"

    assert max(together) == 2


async def test_a_holder_that_waits_frees_its_key(database: Database, tenant: UUID) -> None:
    async def wait_or_go(task: TaskContext, payload: Any) -> None:
        if payload.wait:
            await task.wait_for("go")

    with task_type("wait_or_go", wait_or_go):
        async with running_executor(database):
            holder = await until(
                database,
                await enqueue(
                    database, tenant, "wait_or_go", {"wait": True}, concurrency_key="k", concurrency_limit=1
                ),
                "waiting",
            )
            next_one = await enqueue(
                database, tenant, "wait_or_go", {"wait": False}, concurrency_key="k", concurrency_limit=1
            )

            assert (await ended(database, next_one)).state == "succeeded"
            assert (await get(database, tenant, holder.id)).state == "waiting"


async def test_one_key_name_in_two_tenants_blocks_nobody(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    async with running_executor(database):
        one = await enqueue(
            database, tenant, "noop", {"seconds": 30}, concurrency_key="k", concurrency_limit=1
        )
        two = await enqueue(
            database, other_tenant, "noop", {"seconds": 30}, concurrency_key="k", concurrency_limit=1
        )

        assert [(await until(database, task, "running")).state for task in (one, two)] == [
            "running",
            "running",
        ]


async def test_a_paused_queue_starts_nothing_and_a_limit_is_kept(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    await admin.execute("UPDATE queues SET max_running = 2 WHERE name = 'default'")
    await admin.execute("UPDATE queues SET paused_at = now() WHERE name = 'content'")
    async with running_executor(database) as executor:
        paused = await enqueue(database, tenant, "noop", queue="content")
        made = [await enqueue(database, tenant, "noop", {"seconds": 0.05}) for _ in range(6)]
        for task in made:
            assert (await ended(database, task)).state == "succeeded"
            assert executor.busy <= 2
        assert (await get(database, tenant, paused.id)).state == "queued"


async def test_a_result_that_cannot_be_stored_fails_the_task_only(database: Database, tenant: UUID) -> None:
    async def nul(task: TaskContext, payload: Any) -> str:
        return "a\x00b"

    async def fine(task: TaskContext, payload: Any) -> str:
        return "fine"

    with task_type("nul", nul), task_type("fine", fine):
        async with running_executor(database):
            bad, good = await enqueue(database, tenant, "nul"), await enqueue(database, tenant, "fine")
            bad, good = await ended(database, bad), await ended(database, good)

    assert (bad.state, bad.error["class"]) == ("failed", "result")
    assert good.result == "fine"


async def test_a_retried_batch_that_had_committed_counts_as_done(database: Database, tenant: UUID) -> None:
    async with running_executor(database):
        task = await ended(database, await enqueue(database, tenant, "noop"))
    async with database.statement() as db:
        again = await db.fetch(
            SQL["executors.finish"], [task.id], [task.fence], ["succeeded"], ['{"slept": 0.0}'], [None]
        )

    assert again == []  # nothing but what was not simply done is sent back


async def test_progress_and_live_text_are_readable_while_it_runs(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    async def talk(task: TaskContext, payload: Any) -> None:
        task.emit("one ")
        await task.progress(0.5, "half way")
        await asyncio.sleep(0.4)
        task.emit("two")

    with task_type("talk", talk):
        async with running_executor(database):
            task = await enqueue(database, tenant, "talk")
            async with asyncio.timeout(15):
                while not (await get(database, tenant, task.id)).progress:
                    await asyncio.sleep(0.02)
            task = await ended(database, task)

    assert task.progress == {"fraction": 0.5, "text": "half way"}
    assert (
        await admin.fetchval(
            "SELECT string_agg(text, '' ORDER BY seq) FROM task_output WHERE task_id = $1", task.id
        )
        == "one two"
    )


async def test_permanent_errors_are_the_types_own_words(database: Database, tenant: UUID) -> None:
    async def refuse(task: TaskContext, payload: Any) -> None:
        raise Permanent("the topic is empty")

    with task_type("refuse", refuse, retry=Retry()):
        async with running_executor(database):
            task = await ended(database, await enqueue(database, tenant, "refuse"))

    assert task.error["message"] == "the topic is empty"


async def test_what_a_run_logs_names_its_task_and_the_request_that_made_it(
    database: Database, tenant: UUID
) -> None:
    async def look(task: TaskContext, payload: Any) -> list[str]:
        return [str(logs.TASK_ID.get()), str(logs.REQUEST_ID.get())]

    with task_type("look", look):
        async with running_executor(database):
            async with database.tenant(tenant, "user:ada") as db:
                made = await tasks.enqueue(
                    db, tenant, NewTask(type="look", payload={}), actor="user:ada", request_id="req-1"
                )
            task = await ended(database, made)

    assert task.result == [str(task.id), "req-1"]
    assert logs.TASK_ID.get() is None
