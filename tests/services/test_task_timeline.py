"""A task's life at a glance: its states by length, its runs with theirs, and the chain of tasks it was requeued from and as."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from server.database import Database
from services import dead_letters, task_timeline, tasks
from services.task_context import TaskContext
from services.task_history import Event
from services.task_timeline import Timeline
from services.task_types import Throttled
from services.tasks import Task
from tests import engine

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


async def timeline_of(database: Database, task: Task) -> Timeline:
    async with database.tenant(task.tenant_id, "test") as db:
        return await task_timeline.read(db, task.tenant_id, await tasks.get(db, task.tenant_id, task.id))


def told(timeline: Timeline) -> list[tuple[str, int]]:
    return [(entry.event.event, entry.event.fence) for entry in timeline.entries]


async def test_every_run_is_told_with_its_begin_its_length_and_what_came_next(
    database: Database, tenant: UUID
) -> None:
    async def run(task: TaskContext, _payload: Any) -> dict[str, int]:
        if task.fence == 1:
            raise Throttled("later", retry_after=0.01)
        if task.fence < 7:
            raise ValueError(f"run {task.fence}")
        return {}

    with engine.task_type("flaky", run, max_attempts=5):
        async with engine.running_executor(database):
            task = await engine.ended(database, await engine.enqueue(database, tenant, "flaky"), seconds=30)

    timeline = await timeline_of(database, task)

    assert task.state == "succeeded"
    events = told(timeline)
    starts = [fence for event, fence in events if event == "started"]
    assert starts == sorted(starts)
    assert [event for event, _ in events] == [
        "created", "started", "snoozed", "started", "retry_scheduled", "started", "retry_scheduled", "started", "succeeded",
    ]  # fmt: skip
    for entry in timeline.entries:
        if entry.event.event in {"snoozed", "retry_scheduled", "succeeded"}:
            assert entry.took is not None
            assert timedelta(0) <= entry.took < timedelta(seconds=10)
        assert (entry.next_at is not None) == (entry.event.event in {"snoozed", "retry_scheduled"})
    assert [span.fence for span in timeline.spans if span.state == "running"] == starts
    assert sum(timeline.totals.values(), timedelta(0)) == task.finished_at - task.created_at
    assert "scheduled" in timeline.totals


async def test_waits_signals_and_the_time_they_took_are_told(database: Database, tenant: UUID) -> None:
    async def run(task: TaskContext, _payload: Any) -> dict[str, Any]:
        await task.wait_for("go")
        return {}

    with engine.task_type("patient", run):
        async with engine.running_executor(database):
            task = await engine.until(database, await engine.enqueue(database, tenant, "patient"), "waiting")
            live = await timeline_of(database, task)
            await engine.signal(database, task, "go")
            task = await engine.ended(database, task)

    timeline = await timeline_of(database, task)

    assert live.spans[-1].state == "waiting"
    assert [event for event, _ in told(timeline)] == [
        "created",
        "started",
        "waiting",
        "signalled",
        "started",
        "succeeded",
    ]
    (waiting,) = [entry for entry in timeline.entries if entry.event.event == "waiting"]
    assert waiting.took is not None
    assert list(timeline.totals) == ["queued", "running", "waiting"]
    assert timeline.totals["waiting"] > timedelta(0)


def _task(**more: Any) -> Task:
    columns: dict[str, Any] = dict.fromkeys(Task.__dataclass_fields__) | {"run_at": NOON, "created_at": NOON}
    return Task(**columns | more)


def _event(seconds: float, name: str, fence: int = 0, **detail: Any) -> Event:
    return Event(
        at=NOON + timedelta(seconds=seconds), event=name, fence=fence, attempt=0, actor="executor", executor_id=None, detail=detail
    )  # fmt: skip


@pytest.mark.parametrize(
    ("events", "states"),
    [
        ([_event(0, "created")], [("queued", 60)]),
        ([_event(0, "created"), _event(5, "blocked"), _event(25, "started", 1)], [("queued", 5), ("blocked", 20), ("running", 35)]),
        ([_event(0, "created"), _event(1, "started", 1), _event(11, "cancelled", 1, **{"from": "running"})], [("queued", 1), ("running", 59)]),
        (
            [_event(0, "created"), _event(4, "retry_scheduled", 1, delay_seconds=6, started_at=(NOON + timedelta(seconds=1)).isoformat())],
            [("queued", 1), ("running", 3), ("scheduled", 6), ("queued", 50)],
        ),
        (
            [_event(0, "created"), _event(1, "started", 2), _event(9, "rescued", 2, crashes=1), _event(10, "started", 4), _event(20, "held", 4)],
            [("queued", 1), ("running", 8), ("queued", 1), ("running", 10), ("waiting", 40)],
        ),
    ],
)  # fmt: skip
def test_the_states_follow_from_the_events(events: Sequence[Event], states: list[tuple[str, int]]) -> None:
    timeline = task_timeline.build(_task(), events, NOON + timedelta(seconds=60))

    assert [(span.state, span.length.total_seconds()) for span in timeline.spans] == states
    shares = timeline.shares()
    assert shares[0][1] == 0
    assert sum(width for _, _, width in shares) == pytest.approx(1)
    assert all(width >= task_timeline.LEAST / 2 for _, _, width in shares)


def test_a_task_for_later_is_scheduled_first() -> None:
    task = _task(run_at=NOON + timedelta(seconds=40))

    timeline = task_timeline.build(task, [_event(0, "created")], NOON + timedelta(seconds=60))

    assert [(span.state, span.length.seconds) for span in timeline.spans] == [
        ("scheduled", 40),
        ("queued", 20),
    ]


async def test_the_chain_of_requeued_tasks_is_told_both_ways(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    made = [await engine.enqueue(database, tenant, "noop")]
    for _ in range(3):
        await engine.cancel(database, made[-1])
        async with database.tenant(tenant, "user:bob") as db:
            made.append(await tasks.requeue(db, tenant, made[-1].id, actor="user:bob"))

    async with database.tenant(tenant, "test") as db:
        chain = await dead_letters.list_chain(db, tenant, made[1].id)
    async with database.tenant(other_tenant, "test") as db:
        foreign = await dead_letters.list_chain(db, other_tenant, made[1].id)

    assert [link.task_id for link in chain] == [task.id for task in made]
    assert [(link.state, link.created_by) for link in chain[2:]] == [
        ("cancelled", "user:bob"),
        ("queued", "user:bob"),
    ]
    assert foreign == []
