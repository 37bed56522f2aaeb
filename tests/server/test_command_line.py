"""The command line of operators, as its own process beside the database and a running executor."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from server.database import Database
from server.lease import Timing
from server.listener import Listener
from server.supervisor import Supervisor
from services import dead_letters, holds, queues, schedules
from services.schedules import NewSchedule
from services.task_context import TaskContext
from tests import engine
from tests.conftest import Cluster, make_tenant

ROOT = Path(__file__).parents[2]
ACTOR = f"cli:{getpass.getuser()}"


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Galley = Callable[..., Awaitable[Answer]]


@pytest.fixture
async def operating(admin: Any, tenant: UUID) -> UUID:
    await admin.execute("UPDATE tenants SET operates = true WHERE id = $1", tenant)
    return tenant


@pytest.fixture
def galley(cluster: Cluster, database_name: str, operating: UUID, tmp_path: Path) -> Galley:
    """Run a command to its end."""

    async def run(*words: str, expect: int = 0) -> Answer:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "main.py", *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={
                "PATH": os.environ["PATH"], "HOME": str(tmp_path), "DATA_DIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1",
                "DATABASE_URL": cluster.web(database_name), "MIGRATE_DATABASE_URL": cluster.admin(database_name),
            },
        )  # fmt: skip
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        answer = Answer(process.returncode or 0, out.decode(), err.decode())
        assert answer.status == expect, answer
        return answer

    return run


@pytest.fixture
async def listening(database: Database) -> AsyncIterator[list[str]]:
    """An executor that hears notifications, and would hear nothing else for long; returns the queues that it was woken for."""
    woken: list[str] = []
    seldom = Timing(lease=timedelta(seconds=90), heartbeat=timedelta(seconds=30))
    async with engine.running_executor(database, replace(engine.QUICK, timing=seldom)) as executor:
        listener = Listener(
            database, probe_seconds=1, on_wake=woken.append, on_cancelled=executor.stop_cancelled
        )
        supervisor = Supervisor()
        supervisor.start("listener", listener.keep, interval=1)
        async with asyncio.timeout(10):
            while not woken:  # once when it begins to listen
                await asyncio.sleep(0.01)
        woken.clear()
        yield woken
        await supervisor.stop()


async def _heard(listening: list[str], *queues: str) -> None:
    """Wait until exactly these have been heard of."""
    async with asyncio.timeout(15):
        while listening != list(queues):
            await asyncio.sleep(0.02)


async def test_tasks_are_listed_and_shown_to_people_and_machines(
    galley: Galley, database: Database, operating: UUID
) -> None:
    task = await engine.enqueue(database, operating, "noop", {"seconds": 2})
    await engine.enqueue(database, operating, "noop", queue="content")

    listed = await galley("task", "list", "--queue", "default", "--state", "queued")
    shown = await galley("task", "show", str(task.id))
    machine = await galley("task", "show", str(task.id), "--json")

    head, row = listed.out.splitlines()
    assert head.split()[:3] == ["ID", "TYPE", "STATE"]
    assert row.split()[:5] == [str(task.id), "noop", "queued", "default", "0/5"]
    assert shown.out.splitlines()[0].split() == ["id", str(task.id)]
    assert "created" in shown.out.splitlines()[-1]
    assert machine.json["task"]["payload"] == {"seconds": 2.0, "fail": False, "ignore_cancel": False}
    assert [event["event"] for event in machine.json["events"]] == ["created"]
    assert listed.err == shown.err == ""


async def test_a_failed_task_is_shown_with_where_its_error_came_from(
    galley: Galley, database: Database, operating: UUID
) -> None:
    async def broken(_task: object, _payload: object) -> None:
        raise RuntimeError("the \x1b[31mkey")

    with engine.task_type("broken", broken, max_attempts=1):
        async with engine.running_executor(database):
            task = await engine.ended(database, await engine.enqueue(database, operating, "broken"))

    shown = (await galley("task", "show", str(task.id))).out

    assert "error      RuntimeError: the  [31mkey" in shown
    place = shown.split("the error came from:\n  ")[1].splitlines()[0]
    assert place.startswith("tests/server/test_command_line.py:")
    assert place.endswith(".broken")
    assert "\x1b" not in shown


async def test_a_cancel_reaches_the_run_and_names_who_and_why(
    galley: Galley, database: Database, operating: UUID, listening: list[str]
) -> None:
    stopped = asyncio.Event()

    async def endless(_task: object, _payload: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    with engine.task_type("endless", endless):
        task = await engine.until(database, await engine.enqueue(database, operating, "endless"), "running")
        answer = await galley("task", "cancel", str(task.id), "--reason", "not needed")
        async with asyncio.timeout(15):
            await stopped.wait()

    assert answer.out == f"{task.id} cancelled\n"
    ended = await engine.get(database, operating, task.id)
    assert (ended.state, ended.ended_by, ended.reason) == ("cancelled", ACTOR, "not needed")


async def test_a_requeue_makes_a_task_that_runs_at_once(
    galley: Galley, database: Database, operating: UUID, listening: list[str]
) -> None:
    task = await engine.ended(database, await engine.enqueue(database, operating, "noop"))

    made = (await galley("task", "requeue", str(task.id), "--priority", "0", "--json")).json[0]

    new = await engine.ended(database, await engine.get(database, operating, UUID(made["id"])))
    assert (new.retry_of, new.priority, new.created_by, new.state) == (task.id, 0, ACTOR, "succeeded")
    assert listening == ["default"]


async def test_a_task_is_created_and_runs_at_once_and_a_bad_one_is_told_in_one_sentence(
    galley: Galley, database: Database, operating: UUID, listening: list[str]
) -> None:
    made = (await galley("task", "create", "noop", "--payload", '{"seconds": 0.01}', "--priority", "0")).out
    later = await galley("task", "create", "noop", "--run-at", "2090-01-31", "--queue", "content", "--json")
    bad = await galley("task", "create", "noop", "--payload", '{"seconds": -1}', expect=1)

    task = await engine.ended(database, await engine.get(database, operating, UUID(made.split()[0])))
    assert (task.state, task.priority, task.created_by, task.result) == (
        "succeeded",
        0,
        ACTOR,
        {"slept": 0.01},
    )
    await _heard(listening, "default", "content")
    assert (await galley("task", "run", later.json[0]["id"])).out == f"{later.json[0]['id']} is due now\n"
    assert later.json[0]["run_at"] == "2090-01-31T00:00:00+00:00"
    assert bad.err == "galley: /payload/seconds: should be greater than or equal to 0, not -1\n"


async def test_a_waiting_task_is_signalled_and_a_held_one_released(
    galley: Galley, database: Database, operating: UUID, listening: list[str]
) -> None:
    async def patient(task: TaskContext, _payload: object) -> Any:
        told = await task.wait_for("go")
        await task.wait_for(holds.SIGNAL)
        return told.data

    with engine.task_type("patient", patient):
        task = await engine.until(database, await engine.enqueue(database, operating, "patient"), "waiting")
        refused = await galley("task", "release", str(task.id), expect=1)
        sent = await galley("task", "signal", str(task.id), "go", "--data", '{"to": "press"}')
        async with asyncio.timeout(30):
            while (await engine.get(database, operating, task.id)).waiting_for != holds.SIGNAL:
                await asyncio.sleep(0.02)
        released = await galley("task", "release", str(task.id))
        ended = await engine.ended(database, task)

    assert "is waiting and not held for an operator" in refused.err
    assert (sent.out, released.out) == (f"{task.id} goes on\n", f"{task.id} released\n")
    assert (ended.state, ended.result) == ("succeeded", {"to": "press"})


async def test_a_filter_shows_what_it_meets_and_does_it_with_yes(
    galley: Galley, database: Database, operating: UUID, other_tenant: UUID
) -> None:
    mine = [await engine.enqueue(database, operating, "noop", queue="content") for _ in range(3)]
    kept = await engine.enqueue(database, operating, "noop")
    theirs = await engine.enqueue(database, other_tenant, "noop", queue="content")

    preview = await galley("task", "cancel", "--queue", "content")
    assert preview.out.splitlines()[0] == "3 would be cancelled"
    assert "say it again with --yes" in preview.out
    assert (await engine.get(database, operating, mine[0].id)).state == "queued"
    done = await galley("task", "cancel", "--queue", "content", "--reason", "moving", "--yes")
    assert done.out == "3 cancelled\n"
    nothing = await galley("task", "cancel", "--queue", "content", "--yes")
    assert nothing.out == "nothing to cancel: nothing matches, or it is done already\n"
    again = await galley(
        "task", "requeue", "--state", "cancelled", "--to-queue", "documents", "--yes", "--json"
    )
    assert (again.json["done"], again.json["state"]) == (3, "done")

    for task, owner, state in (
        (mine[1], operating, "cancelled"),
        (kept, operating, "queued"),
        (theirs, other_tenant, "queued"),
    ):
        assert (await engine.get(database, owner, task.id)).state == state
    async with database.tenant(operating, "test") as db:
        _, successor = await dead_letters.list_chain(db, operating, mine[2].id)
    assert successor.created_by == ACTOR


async def test_queues_are_listed_set_paused_and_resumed(
    galley: Galley, database: Database, operating: UUID, other_tenant: UUID, listening: list[str]
) -> None:
    listed = await galley("queue", "list")
    assert [line.split()[0] for line in listed.out.splitlines()] == [
        "QUEUE",
        "content",
        "default",
        "documents",
    ]
    await galley(
        "queue",
        "set",
        "default",
        "--max-running",
        "7",
        "--rate",
        "0.5",
        "--fair",
        "--of-tenant",
        "globex",
        "3",
    )
    changed = await galley("queue", "set", "default", "--rate", "none", "--json")
    assert {name: changed.json[name] for name in ("max_running", "rate_per_second", "burst", "fair", "updated_by")} == {
        "max_running": 7, "rate_per_second": None, "burst": None, "fair": True, "updated_by": ACTOR,
    }  # fmt: skip
    paused = await galley("queue", "pause", "content", "--reason", "no credit", "--until", "2100-01-01")
    assert paused.out == "content is paused until 2100-01-01 00:00:00Z\n"
    async with database.tenant(operating, "test") as db:
        queue = await queues.get(db, "content")
    assert (queue.paused_by, queue.pause_reason) == (ACTOR, "no credit")
    assert f"by {ACTOR} until" in (await galley("queue", "list")).out
    await galley("queue", "resume", "content")
    assert listening == ["default", "default", "content"]
    await galley("queue", "create", "reports")
    await galley("queue", "delete", "reports")
    assert "reports" not in (await galley("queue", "list")).out


async def test_executors_are_listed_and_drained_by_the_begin_of_their_id(
    galley: Galley, database: Database, admin: Any
) -> None:
    async with engine.running_executor(database) as executor:
        await asyncio.wait([asyncio.ensure_future(executor.lease.held.wait())], timeout=10)
        executor_id = executor.lease.executor_id
        listed = await galley("executor", "list", "--json")
        assert [(one["id"], one["state"]) for one in listed.json] == [(str(executor_id), "serving")]
        drained = await galley("executor", "drain", str(executor_id)[:8])
        assert drained.out == f"{executor_id} is drained\n"
        assert await admin.fetchval("SELECT draining_by FROM executors") == ACTOR
        assert ACTOR in (await galley("executor", "list")).out
        assert (await galley("executor", "undrain", str(executor_id))).out == f"{executor_id} is serving\n"


async def test_a_tenant_is_let_operate_the_installation_and_no_longer(galley: Galley, admin: Any) -> None:
    await make_tenant(admin, "globex")
    pause = ("queue", "pause", "default", "--tenant", "globex")
    await galley(*pause, expect=1)

    await galley("tenant", "operate", "globex")
    listed = (await galley("tenant", "list", "--json")).json
    await galley(*pause)
    await galley("tenant", "operate", "globex", "--no")

    assert [(one["name"], one["operates"]) for one in listed] == [("acme", True), ("globex", True)]
    assert "only operators" in (await galley(*pause, expect=1)).err
    assert "there is no tenant nobody" in (await galley("tenant", "operate", "nobody", expect=1)).err


async def test_dead_letters_are_listed_requeued_and_discarded(
    galley: Galley, database: Database, operating: UUID
) -> None:
    async def fail(_task: object, _payload: object) -> None:
        raise ValueError("as \x1b[31masked")

    with engine.task_type("noop", fail, max_attempts=1):
        async with engine.running_executor(database):
            dead = [
                await engine.ended(database, await engine.enqueue(database, operating, "noop"))
                for _ in range(3)
            ]

    listed = await galley("dead-letter", "list")
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == [
        str(task.id) for task in reversed(dead)
    ]
    assert "ValueError" in listed.out
    assert "\x1b" not in listed.out
    assert (await galley("dead-letter", "requeue", str(dead[0].id))).out == "1 requeued\n"
    assert (
        await galley("dead-letter", "discard", "--type", "noop", "--reason", "known", "--yes")
    ).out == "2 discarded\n"
    assert (await galley("dead-letter", "list")).out.startswith("no dead letters")
    assert (await galley("schedule", "list")).out == "no schedules\n"


def test_commands_start_without_what_only_a_server_needs() -> None:
    """Web application, engine and model client take longer to import than a list to print."""
    loaded = "import sys, main; print(*sorted({'openai', 'jinja2', 'server.serving', 'services.llm'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "\n"


async def test_schedules_are_paused_resumed_and_run_by_name(
    galley: Galley, database: Database, operating: UUID, listening: list[str]
) -> None:
    new = NewSchedule(name="Nightly import", type="noop", payload={}, cron="0 3 * * *", queue="content")
    async with database.tenant(operating, "test") as db:
        made = await schedules.create(db, operating, new, actor="test")

    paused = await galley("schedule", "pause", "Nightly import", "--until", "2090-01-31")
    resumed = await galley("schedule", "resume", str(made.id), "--json")
    task_id = UUID((await galley("schedule", "run", "Nightly import")).out.split()[0])

    task = await engine.ended(database, await engine.get(database, operating, task_id))
    assert paused.out == "Nightly import is paused until 2090-01-31 00:00:00Z\n"
    assert (resumed.json["paused"], resumed.json["name"]) == (False, "Nightly import")
    assert (task.state, task.queue, task.created_by) == ("succeeded", "content", ACTOR)
    await _heard(listening, "content")


async def test_what_is_refused_is_one_sentence_and_what_is_mistyped_is_usage(
    galley: Galley, database: Database, admin: Any, operating: UUID
) -> None:
    await make_tenant(admin, "globex")
    for words, says in (
        (("task", "show", str(uuid4())), "there is no task"),
        (("task", "list", "--tenant", "nobody"), "there is no tenant nobody"),
        (("queue", "pause", "nowhere"), "there is no queue nowhere"),
        (("queue", "pause", "default", "--tenant", "globex"), "only operators of a tenant that operates it"),
        (("executor", "drain", "ffff"), "there is no executor ffff"),
        (("schedule", "run", "nightly"), "there is no schedule nightly"),
    ):
        answer = await galley(*words, expect=1)
        assert answer.err.startswith("galley: "), answer
        assert says in answer.err
        assert (answer.err.count("\n"), answer.out) == (1, ""), answer
    for words in (
        ("task", "cancel"),
        ("task", "cancel", "not-an-id"),
        ("task", "create", "noop", "--payload", "{"),
        ("task", "create", "noop", "--payload", "[]"),
        ("task", "signal", str(uuid4()), "go", "--data", '{"a": "\\u0000"}'),
        ("task", "signal", str(uuid4()), "review:1"),
        ("queue", "set", "default"),
        ("queue", "set", "default", "--rate", "x"),
    ):
        assert "Error:" in (await galley(*words, expect=2)).err
