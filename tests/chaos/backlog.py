"""Thousands of short tasks while executors are killed all the time and some sleep past their leases (E1: P1, P3, P7).

Faults come at seeded points of the work's progress, not of the clock, so that a slow machine is broken as often as a quick one.
What this sees is tasks that are lost, kept or found too late; a queue without fences it would hardly notice: that is `drip`.
"""

from __future__ import annotations

import asyncio
import random
import signal
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from server.database import Database
from services import access
from services.tasks import NewTask
from tests.chaos import drip, types
from tests.chaos.history import Report
from tests.chaos.processes import Child, Pace, Place
from tests.patience import patiently

PACE = Pace(lease=2.0, heartbeat=0.5, rescue=0.25, poll=0.2, grace=0.5)
ENVIRONMENT = {"EXECUTOR_SLOTS": "8", "LOG_LEVEL": "WARNING", "ENGINE_CONNECTIONS": "3"}
LONGEST_TASK_SECONDS = 0.12
LAST_TASKS = 100  # so many are left at the last fault: what follows shows how long the faults are felt
LOOK_SECONDS = 0.05
LIVENESS_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything. `slack`: seconds that a machine busy with other tests may be late."""

    tasks: int
    kills: int
    sleeps: int
    executors: int
    slack: float


LONG = Scale(tasks=50_000, kills=1_000, sleeps=100, executors=6, slack=1.0)
SHORT = Scale(tasks=800, kills=24, sleeps=2, executors=4, slack=8.0)


@dataclass(kw_only=True)
class Crew:
    """The executors, always as many, and what befalls them."""

    place: Place
    dice: random.Random
    members: list[Child]
    naps: dict[int, asyncio.Task[None]]

    @property
    def awake(self) -> list[Child]:
        """Those that are not asleep."""
        return [child for child in self.members if child.pid not in self.naps]

    async def kill(self) -> None:
        """Kill anyone, asleep or awake or still starting, and start another in its place."""
        victim = self.dice.choice(self.members)
        nap = self.naps.pop(victim.pid, None)
        if nap is not None:
            nap.cancel()
        victim.send(signal.SIGKILL)
        await victim.ended()
        self.members[self.members.index(victim)] = await hire(self.place)

    def put_to_sleep(self) -> None:
        """Stop one for longer than its lease, unless too few would be left to take over."""
        if len(self.awake) > len(self.members) // 2:
            victim = self.dice.choice(self.awake)
            self.naps[victim.pid] = asyncio.create_task(self._nap(victim, self.dice.uniform(2.3, 3.5)))

    async def _nap(self, victim: Child, seconds: float) -> None:
        victim.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        victim.send(signal.SIGCONT)
        self.naps.pop(victim.pid, None)

    async def rest(self) -> None:
        """Wait until nobody sleeps any more."""
        await asyncio.gather(*self.naps.values())


async def hire(place: Place) -> Child:
    """Start an executor; it may be killed before it has begun to work."""
    return await place.spawn("executor", "engine", [], env=ENVIRONMENT)


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Load, break along the way, stop breaking, drain, check."""
    types.register()
    scale = LONG if long else SHORT
    dice = random.Random(seed)
    async with place.database() as database:
        async with database.engine() as db:
            tenant = await access.ensure_tenant(db, "chaos")
        await _load(place, database, tenant, dice, scale.tasks)
        members = [await hire(place) for _ in range(scale.executors)]
        crew = Crew(place=place, dice=dice, members=members, naps={})
        await _break(crew, database, tenant, scale)
    await _drain(place)
    await crew.rest()
    report = Report(violations=await check(place, scale))
    report.figures = await _figures(place)
    return report


async def _load(place: Place, database: Database, tenant: UUID, dice: random.Random, count: int) -> None:
    for start in range(0, count, 1000):
        batch = [
            NewTask(type="tally", payload={"seconds": round(dice.uniform(0, LONGEST_TASK_SECONDS), 3)})
            for _ in range(min(1000, count - start))
        ]
        made = await patiently(lambda batch=batch: drip.create(database, tenant, batch))
        place.history.add("accepted", tasks=[task.id for task in made])


async def _break(crew: Crew, database: Database, tenant: UUID, scale: Scale) -> None:
    """Strike whenever as many tasks have ended as the dice said; feed the queue should it run dry before."""
    dice = crew.dice
    faults = ["kill"] * scale.kills + ["sleep"] * scale.sleeps
    dice.shuffle(faults)
    last = scale.tasks - LAST_TASKS
    moments = [*sorted(dice.randrange(last) for _ in faults[1:]), last]
    loaded = scale.tasks
    async with crew.place.admin() as admin:
        for moment, fault in zip(moments, faults, strict=True):
            while (ended := await _look(crew.place, admin)) < moment:
                await asyncio.sleep(LOOK_SECONDS)
            if loaded - ended < LAST_TASKS and moment < last:
                await _load(crew.place, database, tenant, dice, LAST_TASKS)
                loaded += LAST_TASKS
            if fault == "kill":
                await crew.kill()
            else:
                crew.put_to_sleep()


LOOK = """
SELECT (SELECT count(*) FROM task_history) AS ended,
       (SELECT max(extract(epoch FROM clock_timestamp() - e.lease_until))::float8
        FROM tasks t JOIN executors e ON e.id = t.executor_id
        WHERE t.state = 'running' AND e.lease_until < clock_timestamp()) AS overdue
"""


async def _look(place: Place, admin: asyncpg.Connection[asyncpg.Record]) -> int:
    """Return how many tasks have ended; note for how long the oldest running one has had no lease."""
    row = await admin.fetchrow(LOOK)
    assert row is not None
    if row["overdue"] is not None:
        place.history.add("overdue", seconds=round(row["overdue"], 3))
    return int(row["ended"])


async def _drain(place: Place) -> None:
    """Faults are over: everything must end, and be taken over in time until it does."""

    async def look() -> None:
        async with place.admin() as admin:
            while True:
                await _look(place, admin)
                await asyncio.sleep(LOOK_SECONDS)

    looking = asyncio.create_task(look())
    try:
        place.history.add("drained", seconds=await place.drain(LIVENESS_SECONDS))
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def check(place: Place, scale: Scale) -> list[str]:
    """No task lost, ended twice, ended by a run that had lost it, left without a lease, or started again too late."""
    report = Report()
    accepted = {task for entry in place.history.read("accepted") for task in entry["tasks"]}
    async with place.admin() as admin:
        rows: list[Any] = await admin.fetch(
            "SELECT h.id::text, h.state, h.run_at > h.created_at + interval '1 s' AS put_back, h.fence, h.attempt, h.max_attempts, h.crashes, h.result, h.error,"
            " (SELECT count(*) FROM task_events v WHERE v.task_id = h.id AND v.event IN ('rescued', 'interrupted')) AS losses"
            " FROM task_history h"
        )
    ended = {row["id"] for row in rows}
    report.expect(len(rows) == len(ended), f"{len(rows) - len(ended)} tasks ended twice")
    report.expect(ended == accepted, f"{len(accepted - ended)} tasks lost, {len(ended - accepted)} invented")
    _check_runs(report, rows)
    await _check_times(place, report, scale)
    return report.violations


def _check_runs(report: Report, rows: list[Any]) -> None:
    succeeded = [row for row in rows if row["state"] == "succeeded"]
    stale = [row["id"] for row in succeeded if row["result"]["fence"] != row["fence"]]
    report.expect(not stale, f"{len(stale)} results of a run that had lost its task: {stale[:3]}")
    unwritten = [row["id"] for row in succeeded if row["fence"] != 2 * row["losses"] + 1]
    report.expect(not unwritten, f"{len(unwritten)} tasks whose history lacks a loss: {unwritten[:3]}")
    miscounted = [
        row["id"]
        for row in succeeded
        if not row["crashes"] < row["attempt"] <= min(row["losses"] + 1, row["max_attempts"])
    ]
    report.expect(not miscounted, f"{len(miscounted)} tasks miscount their attempts: {miscounted[:3]}")
    put_back = [row["id"] for row in rows if row["put_back"]]
    report.expect(not put_back, f"{len(put_back)} tasks lost their place in the queue: {put_back[:3]}")
    failed = [
        row["error"] for row in rows if row["state"] != "succeeded" and row["error"]["class"] != "crash_loop"
    ]
    report.expect(not failed, f"{len(failed)} tasks failed otherwise than by three crashes: {failed[:3]}")


async def _check_times(place: Place, report: Report, scale: Scale) -> None:
    overdue = max((entry["seconds"] for entry in place.history.read("overdue")), default=0)
    bound = place.pace.rescue + 1 + scale.slack
    report.expect(overdue <= bound, f"a task ran {overdue} s without a lease, allowed {bound} s")
    restarts = await _restarts(place)
    bound = place.pace.restart_bound + scale.slack
    late = [round(seconds, 2) for seconds in restarts if seconds > bound]
    report.expect(not late, f"{len(late)} started again later than {bound} s after the kill: {late[-5:]}")
    report.expect(bool(restarts), "nothing was lost by any kill: this proves nothing")
    drained = place.history.read("drained")[0]["seconds"]
    bound = place.pace.restart_bound + scale.slack
    report.expect(
        drained <= bound, f"the last task ended {drained} s after the last fault, allowed {bound} s"
    )


# Only tasks that were lost once: of the others the start that followed the first kill is no longer known.
RESCUED_ONCE = """
SELECT e.pid, extract(epoch FROM h.started_at)::float8 AS started
FROM task_history h
JOIN task_events v ON v.task_id = h.id AND v.event = 'rescued'
JOIN executors e ON e.id = v.executor_id
WHERE h.crashes = 1 AND h.fence = v.fence + 2 AND h.state = 'succeeded'
"""


async def _restarts(place: Place) -> list[float]:
    """Return the seconds from each kill to the new start of what it took down, in order of size."""
    kills = {
        entry["pid"]: entry["at"] for entry in place.history.read("fault") if entry["signal"] == "SIGKILL"
    }
    async with place.admin() as admin:
        rows: list[Any] = await admin.fetch(RESCUED_ONCE)
    return sorted(row["started"] - kills[row["pid"]] for row in rows if row["pid"] in kills)


async def _figures(place: Place) -> dict[str, Any]:
    faults = [entry["signal"] for entry in place.history.read("fault")]
    restarts = await _restarts(place)
    async with place.admin() as admin:
        row: Any = await admin.fetchrow(
            "SELECT count(*) AS tasks, sum(attempt) AS starts, count(*) FILTER (WHERE state <> 'succeeded') AS looping,"
            " (SELECT count(*) FROM task_events WHERE event = 'rescued') AS rescues FROM task_history"
        )
    return {
        "tasks": row["tasks"],
        "starts": int(row["starts"]),
        "kills": faults.count("SIGKILL"),
        "sleeps past the lease": faults.count("SIGSTOP"),
        "rescues": row["rescues"],
        "ended by three crashes": row["looping"],
        "longest without a lease s": max(
            (one["seconds"] for one in place.history.read("overdue")), default=0
        ),
        "kill to new start s p50": round(restarts[len(restarts) // 2], 2) if restarts else None,
        "kill to new start s max": round(restarts[-1], 2) if restarts else None,
        "last fault to last end s": place.history.read("drained")[0]["seconds"],
    }
