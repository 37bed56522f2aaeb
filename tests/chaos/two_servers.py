"""Two servers share one database; one is killed half-way. Every task ends exactly once, and soon (P1, P3)."""

from __future__ import annotations

import asyncio
import random
import signal
from typing import Any

import asyncpg

from tests.chaos.history import Report
from tests.chaos.processes import Child, Place

TASKS = 2000
HALF = TASKS // 2
FEW = 100
DRAIN_SECONDS = 30.0
# So many tasks have ended, and the server to be killed has one under way that it will not end just now.
HALF_DONE = """
SELECT (SELECT count(*) FROM task_history) >= $1 AND EXISTS (
  SELECT FROM tasks t JOIN executors e ON e.id = t.executor_id
  WHERE e.pid = $2 AND t.state = 'running' AND t.payload ->> 'seconds' = '0.5'
    AND t.started_at > clock_timestamp() - interval '0.25 s')
"""


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Load, kill, wait for the queue to drain, check. *long* does it ten times, killing this one and that one."""
    report = Report()
    key = await place.key()
    servers = list(
        await asyncio.gather(*(place.start(name, "program", env={"EXECUTOR_SLOTS": "20"}) for name in "ab"))
    )
    for turn in range(10 if long else 1):
        await _once(place, servers, key, random.Random(seed + turn))
        report.violations += await check(place)
        if long:
            servers[0] = await place.start(servers[0].name, "program", env={"EXECUTOR_SLOTS": "20"})
        servers.reverse()
    async with place.admin() as admin:
        report.figures = await _figures(place, admin)
    return report


async def _once(place: Place, servers: list[Child], key: str, dice: random.Random) -> None:
    """Accept 2,000 tasks over both servers and kill the first one when half of them have ended."""
    async with place.admin() as admin:
        before = await admin.fetchval("SELECT count(*) FROM task_history")
        for server in servers:
            await _accept(place, server, key, dice, HALF)
        async with asyncio.timeout(DRAIN_SECONDS):
            while not await admin.fetchval(HALF_DONE, before + HALF, servers[0].pid):
                if await admin.fetchval("SELECT count(*) < $1 FROM tasks", FEW):  # quicker than we look
                    await _accept(place, servers[1], key, dice, FEW)
                await asyncio.sleep(0.002)
        killed_at = await admin.fetchval("SELECT clock_timestamp()")
        servers[0].send(signal.SIGKILL)
        place.history.add("killed", pid=servers[0].pid, database_time=killed_at)
        async with asyncio.timeout(DRAIN_SECONDS):
            while await admin.fetchval("SELECT count(*) FROM tasks"):
                await asyncio.sleep(0.05)


async def _accept(place: Place, server: Child, key: str, dice: random.Random, count: int) -> None:
    part = [
        {"type": "noop", "payload": {"seconds": dice.choices((0, 0.05, 0.5), (65, 30, 5))[0]}}
        for _ in range(count)
    ]
    async with place.client(server.url, key) as client:
        answer = await place.post(client, "/api/v1/tasks/bulk", {"tasks": part})
    for task_id, one in zip(answer["ids"], part, strict=True):
        place.history.add("accepted", task=task_id, seconds=one["payload"]["seconds"])


async def check(place: Place) -> list[str]:
    """Compare what was accepted with what is in the database, and each restart with the bound."""
    report = Report()
    accepted = {entry["task"]: entry["seconds"] for entry in place.history.read("accepted")}
    async with place.admin() as admin:
        rows: list[Any] = await admin.fetch("SELECT id::text, state, result FROM task_history")
        live = await admin.fetchval("SELECT count(*) FROM tasks")
        restarts = await _restarts(place, admin)
    ended = {row["id"]: row for row in rows}
    report.expect(live == 0, f"{live} tasks have not ended")
    report.expect(len(rows) == len(ended), f"{len(rows) - len(ended)} tasks ended twice")
    report.expect(set(accepted) == set(ended), f"{len(set(accepted) ^ set(ended))} tasks lost or invented")
    for task_id, seconds in accepted.items():
        row = ended.get(task_id)
        report.expect(
            row is not None and row["state"] == "succeeded" and row["result"] == {"slept": seconds},
            f"task {task_id} ended as {row and (row['state'], row['result'])}",
        )
    report.expect(bool(restarts), "nothing was lost by the kill: this proves nothing")
    late = [seconds for seconds in restarts if seconds > place.pace.restart_bound]
    report.expect(not late, f"{len(late)} started again later than {place.pace.restart_bound} s: {late[:5]}")
    return report.violations


async def _restarts(place: Place, admin: asyncpg.Connection[asyncpg.Record]) -> list[float]:
    """Return the seconds from each kill to the new start of what it took down, all by the database's clock."""
    seconds: list[float] = []
    for kill in place.history.read("killed"):
        rows = await admin.fetch(
            "SELECT extract(epoch FROM h.started_at - $2::text::timestamptz)::float8 AS seconds"
            " FROM task_events v JOIN executors e ON e.id = v.executor_id JOIN task_history h ON h.id = v.task_id"
            " WHERE v.event = 'rescued' AND e.pid = $1",
            kill["pid"],
            kill["database_time"],
        )
        seconds += [row["seconds"] for row in rows]
    return seconds


async def _figures(place: Place, admin: asyncpg.Connection[asyncpg.Record]) -> dict[str, Any]:
    restarts = await _restarts(place, admin)
    return {
        "tasks": len(place.history.read("accepted")),
        "kills": len(place.history.read("killed")),
        "started again": len(restarts),
        "latest restart s": round(max(restarts, default=0), 2),
        "bound s": place.pace.restart_bound,
    }
