"""Three servers whose clocks are an hour fast, an hour slow, and jumping between both; the database's clock decides (E13: P17, P21).

The clocks are those of whole processes, set by libfaketime, which leaves the monotonic clock alone as a real step of the clock does.
Nothing may start early, end early, be taken from a living server, tick twice or not at all; whatever still holds for half an hour by
the database's clock holds at every server, and what has ended half an hour ago has ended at each. A queue whose rate was last reckoned in an
hour that is still to come, as after the database's own clock was set back, goes on at its rate.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from aiohttp import ClientSession, ClientTimeout

from tests.chaos.history import Report
from tests.chaos.processes import Child, Pace, Place
from tests.chaos.rolling import sign_in

PACE = Pace(lease=5.0, heartbeat=0.6, rescue=0.5, poll=0.5, grace=1.0)
HOUR = 3600
HALF = timedelta(minutes=30)  # less than a server is wrong
LIBRARIES = ("/usr/lib", "/lib", "/usr/local/lib", "/opt/homebrew/lib")
LIVENESS_SECONDS = 120.0
STEPS = (0, HOUR, -HOUR)
LIMITED = 20  # tasks in a queue that starts five a second
TICKS, LONG_TICKS = 10, 100


def find_library() -> Path | None:
    """Return libfaketime for programs with threads, or None where it is not installed."""
    for folder in LIBRARIES:
        found = sorted(Path(folder).glob("**/faketime/libfaketimeMT.so.1"))
        if found:
            return found[0]
    return None


def settings(library: Path, **more: str) -> dict[str, str]:
    """Return the environment of a program whose clock is wrong."""
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "EXECUTOR_SLOTS": "40",
        **more,
    }


class JumpingClock:
    """Keeps setting the clock of the third server."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jumps = 0
        self.set(0)

    def set(self, seconds: int) -> None:
        """Write atomically: the library reads the file whenever somebody asks for the time."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}s\n")
        fresh.replace(self.path)
        self.jumps += 1

    async def keep_jumping(self, dice: random.Random) -> None:
        """Jump every half second."""
        while True:
            await asyncio.sleep(0.5)
            self.set(dice.choice(STEPS))


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Work for a while on wrong clocks: 300 tasks and 10 ticks, *long* 2,000 and 100."""
    library = find_library()
    report = Report()
    if library is None:
        report.violations.append("libfaketime is not installed (the package is called faketime)")
        return report
    dice = random.Random(seed)
    jumping = JumpingClock(place.folder / "clock")
    file = {"FAKETIME_TIMESTAMP_FILE": str(jumping.path), "FAKETIME_NO_CACHE": "1"}
    surroundings = {
        "fast": settings(library, FAKETIME=f"+{HOUR}s"),
        "slow": settings(library, FAKETIME=f"-{HOUR}s"),
        "jumping": settings(library, **file),
    }
    key = await place.key()
    servers = await asyncio.gather(
        *(place.start(name, "program", env=env) for name, env in surroundings.items())
    )
    jumps = asyncio.create_task(jumping.keep_jumping(dice))
    try:
        async with place.admin() as admin:
            await _fill_limited_queue(place, servers[1], key, admin)
            schedule = await _work(place, servers, key, admin, dice, long=long)
            await _check_expiry(place, servers, key, admin, report)
            async with asyncio.timeout(LIVENESS_SECONDS):
                while await admin.fetchval("SELECT count(*) FROM tasks"):
                    await asyncio.sleep(0.05)
            await _check_tasks(place, admin, report)
            await _check_ticks(admin, schedule, report, wanted=LONG_TICKS if long else TICKS)
    finally:
        jumps.cancel()
        await asyncio.gather(jumps, return_exceptions=True)
    _check_logs(servers, report)
    report.figures["jumps"] = jumping.jumps
    return report


async def _fill_limited_queue(
    place: Place, server: Child, key: str, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Create tasks in a queue that starts five a second, since an hour from now."""
    await admin.execute(
        "INSERT INTO queues (name, rate_per_second, burst, tokens, tokens_at) VALUES ('limited', 5, 1, 0, clock_timestamp() + interval '1 hour')"
    )
    part = [{"type": "noop", "queue": "limited"}] * LIMITED
    async with (
        place.client(server.url, key) as client,
        client.post("/api/v1/tasks/bulk", json={"tasks": part}) as response,
    ):
        answer = await response.json()
        assert response.status == 201, answer
    for task_id in answer["ids"]:
        place.history.add("accepted", task=task_id, run_at=None)


async def _work(
    place: Place,
    servers: list[Child],
    key: str,
    admin: asyncpg.Connection[asyncpg.Record],
    dice: random.Random,
    *,
    long: bool,
) -> UUID:
    """Create tasks over all servers and let a schedule tick. Returns the schedule's id."""
    for number in range(60 if long else 9):
        now = await admin.fetchval("SELECT clock_timestamp()")
        part = [_task(dice, now) for _ in range(34)]
        async with place.client(servers[number % 3].url, key) as client:
            answer = await place.post(client, "/api/v1/tasks/bulk", {"tasks": part})
        for task_id, one in zip(answer["ids"], part, strict=True):
            place.history.add("accepted", task=task_id, run_at=one.get("run_at"))
    async with place.client(servers[0].url, key) as client:
        body = {"name": "every second", "type": "noop", "interval_seconds": 1, "missed": "all"}
        answer = await place.post(client, "/api/v1/schedules", body)
        await asyncio.sleep(2 + (LONG_TICKS if long else TICKS))
        ticks = "SELECT count(*) FROM schedule_ticks WHERE schedule_id = $1::text::uuid"
        async with asyncio.timeout(LIVENESS_SECONDS):
            while await admin.fetchval(ticks, answer["id"]) < (LONG_TICKS if long else TICKS):
                await asyncio.sleep(0.1)
        path, version = f"/api/v1/schedules/{answer['id']}", answer["version"]
        async with client.post(f"{path}/pause", json={}, headers={"If-Match": f'"{version}"'}) as response:
            assert response.status == 200, await response.text()
    return UUID(answer["id"])


def _task(dice: random.Random, now: datetime) -> dict[str, Any]:
    """At once, later, in time, or longer than a lease."""
    made: dict[str, Any] = {"type": "noop", "payload": {"seconds": round(dice.uniform(0, 0.2), 3)}}
    kind = dice.choices(("now", "later", "in time", "long"), (50, 25, 20, 5))[0]
    if kind == "later":
        made["run_at"] = (now + timedelta(seconds=dice.uniform(1, 6))).isoformat()
    if kind == "in time":
        made["start_before"] = (now + HALF).isoformat()
    if kind == "long":
        made["payload"] = {"seconds": PACE.lease + 2}
    return made


async def _check_expiry(
    place: Place,
    servers: list[Child],
    key: str,
    admin: asyncpg.Connection[asyncpg.Record],
    report: Report,
) -> None:
    """Sessions, keys and idempotency of half an hour's validity, at every server; and what ended half an hour ago."""
    living, ended = await sign_in(admin, HALF), await _second_session(admin)
    once = {"Idempotency-Key": "a key for half an hour"}
    made = set()
    for server in servers * 2:
        async with (
            place.client(server.url, key) as client,
            client.post("/api/v1/tasks", json={"type": "noop"}, headers=once) as response,
        ):
            made.add((await response.json())["id"])
        await admin.execute("UPDATE idempotency SET expires_at = clock_timestamp() + $1::interval", HALF)
        for token, right in ((living, 200), (ended, 303)):
            timeout = ClientTimeout(total=10)
            async with (
                ClientSession(cookies={"sid": token}, timeout=timeout) as session,
                session.get(f"{server.url}/desk", allow_redirects=False) as response,
            ):
                report.expect(
                    response.status == right,
                    f"{server.name}: a session was answered with {response.status}, not {right}",
                )
    place.history.add("accepted", task=next(iter(made)), run_at=None)
    report.expect(len(made) == 1, f"one Idempotency-Key made {len(made)} tasks")
    for validity, right in ((HALF, 200), (-HALF, 401)):
        await admin.execute("UPDATE api_keys SET expires_at = clock_timestamp() + $1::interval", validity)
        for server in servers:
            async with place.client(server.url, key) as client, client.get("/api/v1/tasks") as response:
                report.expect(
                    response.status == right, f"{server.name}: a key was answered with {response.status}"
                )
    await admin.execute("UPDATE api_keys SET expires_at = NULL")


async def _second_session(admin: asyncpg.Connection[asyncpg.Record]) -> str:
    """A session of the same person that ended half an hour ago; the sweep may have cleared it away."""
    token = "ended half an hour ago"
    await admin.execute(
        "INSERT INTO sessions (tenant_id, user_id, token_hash, csrf_token, expires_at)"
        " SELECT tenant_id, id, $1, 'none', clock_timestamp() - $2::interval FROM users",
        hashlib.sha256(token.encode()).digest(),
        HALF,
    )
    return token


async def _check_tasks(place: Place, admin: asyncpg.Connection[asyncpg.Record], report: Report) -> None:
    rows = await admin.fetch(
        "SELECT id::text, state, attempt, run_at, started_at, retry_of FROM task_history"
        " WHERE id NOT IN (SELECT task_id FROM schedule_ticks WHERE task_id IS NOT NULL)"
    )
    accepted = {entry["task"]: entry["run_at"] for entry in place.history.read("accepted")}
    report.expect({row["id"] for row in rows} == set(accepted), "tasks were lost or invented")
    for row in rows:
        right = row["state"] == "succeeded" and row["attempt"] == 1
        report.expect(right, f"task {row['id']} is {row['state']} after {row['attempt']} attempts")
        due = accepted[row["id"]]
        early = due is not None and row["started_at"] < datetime.fromisoformat(due)
        report.expect(not early, f"due {due}, started {row['started_at']}")
    events = dict(await admin.fetch("SELECT event, count(*) FROM task_events GROUP BY 1"))
    report.expect(not events, f"early steals or worse: {events}")
    now = await admin.fetchval("SELECT clock_timestamp()")
    late = [row for row in rows if row["started_at"] > now]
    report.expect(not late, f"{len(late)} started in the future")
    starts = await admin.fetchrow(
        "SELECT count(*) AS tasks, max(started_at) - min(started_at) AS took FROM task_history WHERE queue = 'limited'"
    )
    fast = starts["took"] < timedelta(seconds=(LIMITED - 1) / 5)
    report.expect(not fast, f"{starts['tasks']} tasks of a limited queue started within {starts['took']}")
    report.figures |= {"tasks": len(rows), "delayed": sum(due is not None for due in accepted.values())}


async def _check_ticks(
    admin: asyncpg.Connection[asyncpg.Record], schedule: UUID, report: Report, *, wanted: int
) -> None:
    """One tick each second, none early, each with one task."""
    ticks = await admin.fetch(
        "SELECT tick_at, decided_at, outcome, task_id FROM schedule_ticks WHERE schedule_id = $1 ORDER BY tick_at",
        schedule,
    )
    report.expect(len(ticks) >= wanted, f"{len(ticks)} ticks instead of {wanted}")
    gaps = Counter(
        (after["tick_at"] - before["tick_at"]).total_seconds() for before, after in pairwise(ticks)
    )
    report.expect(set(gaps) == {1.0}, f"ticks are apart {dict(gaps)} s")
    early = [tick for tick in ticks if tick["decided_at"] < tick["tick_at"]]
    report.expect(not early, f"{len(early)} ticks came early: {early[:3]}")
    tasks = [tick["task_id"] for tick in ticks]
    report.expect(None not in tasks and len(set(tasks)) == len(tasks), "ticks without a task of their own")
    made = await admin.fetchval("SELECT count(*) FROM all_tasks WHERE created_by LIKE 'schedule:%'")
    report.expect(made in (len(ticks), 0), f"{made} tasks for {len(ticks)} ticks")
    report.figures["ticks"] = len(ticks)


def _check_logs(servers: list[Child], report: Report) -> None:
    """Their clocks really were wrong, and none lost its lease."""
    for server in servers:
        report.expect(not server.count_in_log("executor lease lost"), f"{server.name} lost its lease")
        wrong = [
            abs(_logged_at(line) - time.time()) for line in server.read_log().splitlines() if "time" in line
        ]
        hour_off = sum(off > HOUR / 2 for off in wrong)
        report.expect(hour_off > 0, f"{server.name}: its clock was right: this proves nothing")


def _logged_at(line: str) -> float:
    """Return the moment that a line of a log names, or now when it names none."""
    try:
        return datetime.fromisoformat(json.loads(line)["time"]).astimezone(UTC).timestamp()
    except (ValueError, KeyError, TypeError):
        return time.time()
