"""Signals are sent before, while and after tasks come to wait for them; none is lost and the first one wins (RULINGS 16)."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import UUID

from server.database import Database
from services import access, tasks
from services.errors import Conflict
from services.task_context import TaskContext
from services.tasks import NewTask, Task
from tests.chaos.history import Report
from tests.chaos.processes import Place
from tests.engine import running_executor, task_type
from tests.patience import patiently

WAVE = 40
SPREAD_SECONDS = 0.15
LIVENESS_SECONDS = 20.0
SENDERS = 2


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Let two executors of this process run waiters while senders race them."""
    dice = random.Random(seed)
    report = Report()

    async def wait_for_word(task: TaskContext, payload: Any) -> Any:
        await asyncio.sleep(payload.seconds)
        first = await task.wait_for("word")
        second = await task.wait_for("last-word")
        return [first.data, second.data]

    with task_type("wait_for_word", wait_for_word):
        async with place.database() as database, running_executor(database), running_executor(database):
            async with database.engine() as db:
                tenant = await access.ensure_tenant(db, "chaos")
            for _ in range(50 if long else 6):
                await _wave(place, database, tenant, dice)
    await check(place, report)
    return report


async def _wave(place: Place, database: Database, tenant: UUID, dice: random.Random) -> None:
    new = [
        NewTask(type="wait_for_word", payload={"seconds": dice.uniform(0, SPREAD_SECONDS)})
        for _ in range(WAVE)
    ]
    async with database.tenant(tenant, "chaos") as db:
        made = await tasks.enqueue_many(db, tenant, new, actor="chaos")
    sent = [
        _send(place, database, task, name, sender=sender, delay=dice.uniform(0, 4 * SPREAD_SECONDS))
        for task in made
        for name in ("word", "last-word")
        for sender in range(SENDERS)
    ]
    await asyncio.gather(*sent)
    async with place.admin() as admin:
        try:
            async with asyncio.timeout(LIVENESS_SECONDS):
                while await admin.fetchval("SELECT count(*) FROM tasks"):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            place.history.add("stuck")


async def _send(
    place: Place, database: Database, task: Task, name: str, *, sender: int, delay: float
) -> None:
    async def send() -> None:
        async with database.tenant(task.tenant_id, "chaos") as db:
            await tasks.send_signal(
                db, task.tenant_id, task.id, name=name, data={"sender": sender}, actor="chaos"
            )

    await asyncio.sleep(delay)
    try:
        await patiently(send)
    except Conflict:  # the other sender's word was enough and the task has ended
        return
    place.history.add("sent", task=task.id, name=name, sender=sender)


async def check(place: Place, report: Report) -> None:
    """Every task that was sent both its words has ended with them, and the words are those the table keeps."""
    sent = {entry["task"] for entry in place.history.read("sent")}
    async with place.admin() as admin:
        live = await admin.fetch("SELECT state, waiting_for FROM tasks")
        rows = await admin.fetch("SELECT id::text, state, result, attempt FROM task_history")
        kept = await admin.fetch("SELECT task_id::text, name, data FROM task_signals")
        early = await admin.fetchval(
            "SELECT count(*) FROM task_steps s WHERE s.kind = 'wait' AND NOT EXISTS"
            " (SELECT FROM task_events v WHERE v.task_id = s.task_id AND v.event = 'waiting' AND 'wait:' || (v.detail ->> 'signal') = s.name)"
        )
    signals = {(row["task_id"], row["name"]): row["data"] for row in kept}
    report.expect(not live, f"{len(live)} tasks still wait: {[tuple(row) for row in live[:3]]}")
    report.expect(len(rows) == len(sent), f"{len(sent)} tasks were sent signals, {len(rows)} ended")
    for row in rows:
        words = [signals[row["id"], "word"], signals[row["id"], "last-word"]]
        report.expect(row["result"] == words, f"a task ended with {row['result']}, sent was {words}")
        report.expect(row["attempt"] == 1, f"a task used {row['attempt']} attempts by waiting")
    report.expect(
        0 < early < 2 * len(rows), f"{early} of {2 * len(rows)} signals came early: no race took place"
    )
    report.figures = {"tasks": len(rows), "waits": 2 * len(rows), "signals that came before the wait": early}
