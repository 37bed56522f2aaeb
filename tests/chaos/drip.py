"""A steady drip of short tasks on a short queue while executors are killed and put to sleep past their leases (E2: P4, P5).

The queue must be short: on a backlog rescued tasks go to its end and a queue without any fence looks sound. Half of the executors
do not fence themselves, as if their clock had stood still, so that it is the database which has to refuse them.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from server.database import Database
from services import access, queues, tasks
from services.tasks import NewTask
from tests.chaos import types
from tests.chaos.history import Report
from tests.chaos.processes import Child, Pace, Place
from tests.patience import patiently

PACE = Pace(lease=1.5, heartbeat=0.4, rescue=0.25, poll=0.2, grace=0.5)
BATCH_SECONDS = 0.05
SHORT_QUEUE = 300  # on a machine that cannot keep up the drip waits
LIVENESS_SECONDS = 30.0
REFUSED = "stale result refused"
SLEEPWALKER = "-sleepwalker"


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Drip, break, stop breaking, drain, check."""
    types.register()
    dice = random.Random(seed)
    executors = [await _start(place, number) for number in range(6 if long else 4)]
    faults = ["kill"] * (40 if long else 2) + ["sleep"] * (25 if long else 4)
    dice.shuffle(faults)
    async with place.database() as database:
        async with database.engine() as db:
            tenant = await access.ensure_tenant(db, "chaos")
        dripping = asyncio.create_task(_drip(place, database, tenant, dice, per_second=120 if long else 60))
        try:
            await asyncio.sleep(1)
            await _break(place, executors, faults, dice)
            await _until_refused(place, executors, dice)
        finally:
            dripping.cancel()
            [ended] = await asyncio.gather(dripping, return_exceptions=True)
    await _drain(place)
    report = Report(violations=await check(place))
    report.expect(isinstance(ended, asyncio.CancelledError), f"the load broke off: {ended!r}")
    await asyncio.sleep(1)  # what a late sleeper still had in hand has been sent by now
    report.violations += [violation for violation in await check(place) if violation not in report.violations]
    report.figures = await _figures(place)
    report.expect(
        report.figures["stale results refused"] > 0, "the fence was never needed: this proves nothing"
    )
    return report


async def _start(place: Place, number: int) -> Child:
    fenced = number % 2 == 0
    name = f"executor-{number}" + ("" if fenced else SLEEPWALKER)
    return await place.start(name, "engine", self_fence=fenced, env={"EXECUTOR_SLOTS": "100"})


async def _drip(
    place: Place, database: Database, tenant: UUID, dice: random.Random, *, per_second: int
) -> None:
    """Create tasks at a steady rate. One whose creation was not acknowledged is not in the history."""
    due = time.monotonic()
    while True:
        batch = [
            NewTask(type="drip", payload={"seconds": round(dice.uniform(0.05, 0.8), 3)})
            for _ in range(max(1, round(per_second * BATCH_SECONDS)))
        ]
        made = await patiently(lambda batch=batch: create(database, tenant, batch))
        place.history.add("accepted", tasks=[task.id for task in made])
        due += BATCH_SECONDS
        await asyncio.sleep(max(0, due - time.monotonic()))
        while await patiently(lambda: _queue_length(database, tenant)) > SHORT_QUEUE:
            await asyncio.sleep(BATCH_SECONDS)


async def create(database: Database, tenant: UUID, new: Sequence[NewTask]) -> list[tasks.Task]:
    """Create tasks in a transaction of their own."""
    async with database.tenant(tenant, "chaos") as db:
        return await tasks.enqueue_many(db, tenant, new, actor="chaos")


async def _queue_length(database: Database, tenant: UUID) -> int:
    async with database.tenant(tenant, "chaos") as db:
        return (await queues.count_live(db))["queued"].tasks


async def _break(place: Place, executors: list[Child], faults: list[str], dice: random.Random) -> None:
    """Strike at seeded times; a killed executor is replaced, a sleeping one wakes up again."""
    sleeping: list[asyncio.Task[None]] = []
    for number, fault in enumerate(faults):
        await asyncio.sleep(dice.uniform(0.2, 0.6))
        asleep = {task.get_name() for task in sleeping if not task.done()}
        awake = [child for child in executors if str(child.pid) not in asleep]
        if fault == "sleep" and number % 2:
            awake = [child for child in awake if SLEEPWALKER in child.name] or awake
        if not awake:
            continue
        victim = dice.choice(awake)
        if fault == "kill":
            place_of = executors.index(victim)
            victim.send(signal.SIGKILL)
            executors[place_of] = await _start(place, place_of)
        else:
            nap = _sleep(victim, dice.uniform(1.7, 2.5))
            sleeping.append(asyncio.create_task(nap, name=str(victim.pid)))
    await asyncio.gather(*sleeping)


async def _until_refused(place: Place, executors: list[Child], dice: random.Random) -> None:
    """Strike on until the fence was needed: the dice may have put to sleep only those that had nothing in hand."""
    deadline = time.monotonic() + LIVENESS_SECONDS
    while not _count_refused(place) and time.monotonic() < deadline:
        await _sleep(dice.choice([child for child in executors if SLEEPWALKER in child.name]), 2.5)
        await asyncio.sleep(1)  # that long it walks on


async def _sleep(victim: Child, seconds: float) -> None:
    victim.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        victim.send(signal.SIGCONT)


async def _drain(place: Place) -> None:
    """Faults are over: everything must end. Raises: TimeoutError."""
    began = time.monotonic()
    async with place.admin() as admin, asyncio.timeout(LIVENESS_SECONDS):
        while await admin.fetchval("SELECT count(*) FROM tasks"):
            await asyncio.sleep(0.05)
    place.history.add("drained", seconds=round(time.monotonic() - began, 2))


async def check(place: Place) -> list[str]:
    """No task lost, ended twice, ended by another run than its last, or written to by a run that no longer owned it."""
    report = Report()
    accepted = {task for entry in place.history.read("accepted") for task in entry["tasks"]}
    async with place.admin() as admin:
        rows: list[Any] = await admin.fetch("SELECT id::text, state, fence, result, error FROM task_history")
        double_versions = await admin.fetchval(
            "SELECT count(*) FROM (SELECT FROM chaos_marks WHERE what = 'version' GROUP BY task_id HAVING count(*) > 1) AS twice"
        )
        stale_versions = await admin.fetchval(
            "SELECT count(*) FROM chaos_marks WHERE what = 'version' AND owner IS DISTINCT FROM fence"
        )
        versionless = await admin.fetchval(
            "SELECT count(*) FROM task_history h WHERE h.state = 'succeeded'"
            " AND NOT EXISTS (SELECT FROM chaos_marks m WHERE m.task_id = h.id AND m.what = 'version')"
        )
    ended = {row["id"] for row in rows}
    report.expect(len(rows) == len(ended), f"{len(rows) - len(ended)} tasks ended twice")
    report.expect(accepted <= ended, f"{len(accepted - ended)} accepted tasks have not ended")
    stale = [
        row["id"] for row in rows if row["state"] == "succeeded" and row["result"]["fence"] != row["fence"]
    ]
    report.expect(not stale, f"{len(stale)} results of a run that had lost its task: {stale[:3]}")
    failed = [
        row["error"] for row in rows if row["state"] != "succeeded" and row["error"]["class"] != "crash_loop"
    ]
    report.expect(not failed, f"{len(failed)} tasks failed otherwise than by three crashes: {failed[:3]}")
    report.expect(double_versions == 0, f"{double_versions} tasks have two versions of one write")
    report.expect(
        stale_versions == 0, f"{stale_versions} versions were written after their run had lost the task"
    )
    report.expect(versionless == 0, f"{versionless} tasks succeeded without their version")
    return report.violations


async def _figures(place: Place) -> dict[str, Any]:
    faults = [entry["signal"] for entry in place.history.read("fault")]
    async with place.admin() as admin:
        ended = await admin.fetchval("SELECT count(*) FROM task_history")
        crash_loops = await admin.fetchval("SELECT count(*) FROM task_history WHERE state <> 'succeeded'")
        rescued = await admin.fetchval("SELECT count(*) FROM task_events WHERE event = 'rescued'")
    return {
        "tasks": ended,
        "kills": faults.count("SIGKILL"),
        "sleeps past the lease": faults.count("SIGSTOP"),
        "rescues": rescued,
        "ended by three crashes": crash_loops,
        "stale results refused": _count_refused(place),
        "drained s": place.history.read("drained")[0]["seconds"],
    }


def _count_refused(place: Place) -> int:
    return sum(child.count_in_log(REFUSED) for child in place.children)
