"""An executor sleeps past its lease in the middle of four kinds of work and wakes up when another has done it (P4)."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from server.database import Database
from services import access, tasks
from services.tasks import NewTask
from tests.chaos import types
from tests.chaos.history import Report
from tests.chaos.processes import Child, Pace, Place

PACE = Pace(lease=1.0, heartbeat=0.3, rescue=0.25, poll=0.2, grace=0.5)
PHASES = ("step", "write", "wait", "result")
REFUSED = "stale result refused"
TRY_SECONDS = 30.0
SNAPSHOT = """
SELECT h.id::text, h.state, h.fence, h.attempt, h.result::text, h.finished_at::text,
       (SELECT array_agg(m.fence::text || m.what ORDER BY m.at) FROM chaos_marks m WHERE m.task_id = h.id AND m.what = 'version') AS versions,
       (SELECT array_agg(s.fence::text || s.name ORDER BY s.name) FROM task_steps s WHERE s.task_id = h.id AND s.name <> 'prepare') AS steps
FROM task_history h ORDER BY h.id
"""


async def run(place: Place, *, seed: int = 0, long: bool = False) -> Report:
    """Let one executor begin a task of each kind, put it to sleep, let a second one finish them, wake the first one up."""
    types.register()
    report = Report()
    for _ in range(10 if long else 1):
        async with place.admin() as admin:
            await admin.execute("TRUNCATE chaos_marks, task_steps, task_history")
        await _once(place, report)
    return report


async def _once(place: Place, report: Report) -> None:
    zombie = await place.start("zombie", "engine", self_fence=False)
    async with place.database() as database, place.admin() as admin:
        go_on = place.folder / f"go on {len(place.children)}"
        made = await _create(database, go_on)
        await _until(admin, "SELECT count(*) FROM chaos_marks WHERE what = 'began'", len(PHASES))
        zombie.send(signal.SIGSTOP)
        heir = await place.start("heir", "engine")
        await _until(admin, "SELECT count(*) FROM task_history", len(PHASES))
        before = await admin.fetch(SNAPSHOT)
        go_on.touch()
        zombie.send(signal.SIGCONT)
        await zombie.says("executor lease lost")  # by now it has tried everything it had in hand
        await _until_refused(zombie)
        after = await admin.fetch(SNAPSHOT)
    for child in (zombie, heir):
        child.send(signal.SIGKILL)
    _check(report, made, before, after)
    refused = zombie.count_in_log(REFUSED)
    report.expect(refused > 0, "the zombie's result never reached the database: this proves nothing")
    report.figures["stale results refused"] = report.figures.get("stale results refused", 0) + refused


async def _until_refused(zombie: Child) -> None:
    deadline = time.monotonic() + TRY_SECONDS
    while not zombie.count_in_log(REFUSED) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


async def _create(database: Database, go_on: Path) -> dict[str, UUID]:
    """One task for each phase. In its first run each gets there when the file is made: not before the zombie sleeps."""
    async with database.engine() as db:
        tenant = await access.ensure_tenant(db, "chaos")
    made = {}
    async with database.tenant(tenant, "chaos") as db:
        for phase in PHASES:
            new = NewTask(type="staged", payload={"phase": phase, "until": str(go_on)})
            made[phase] = (await tasks.enqueue(db, tenant, new, actor="chaos")).id
        await tasks.send_signal(db, tenant, made["wait"], name="go", data={}, actor="chaos")
    return made


async def _until(admin: Any, count: str, wanted: int) -> None:
    async with asyncio.timeout(30):
        while await admin.fetchval(count) < wanted:
            await asyncio.sleep(0.01)


def _check(report: Report, made: dict[str, UUID], before: list[Any], after: list[Any]) -> None:
    report.expect(before == after, f"the zombie changed something: {before} became {after}")
    ended = {row["id"]: row for row in after}
    for phase, task_id in made.items():
        row = ended[str(task_id)]
        left = (*(row["versions"] or ()), *(row["steps"] or ()))
        report.expect(row["state"] == "succeeded", f"{phase}: the task is {row['state']}")
        report.expect(row["result"] == f'{{"fence": {row["fence"]}}}', f"{phase}: result {row['result']}")
        report.expect(not any(one.startswith("1") for one in left), f"{phase}: run 1 wrote {left}")
