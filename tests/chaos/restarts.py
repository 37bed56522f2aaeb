"""PostgreSQL is stopped dead, its backends are killed and its connections cut while clients create tasks (E3: P1, P9, P20).

Eight clients send keyed calls to two servers and repeat each until they have read an answer that settles it. What they were
told stands in the history, on disk before the next call; it is then held against what PostgreSQL has kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import asyncpg
from aiohttp import ClientError, ClientSession

from server import cluster
from server.embedded import EmbeddedPostgres
from tests.chaos.history import Report
from tests.chaos.processes import Pace, Place

PACE = Pace(
    lease=8.0, heartbeat=1.0
)  # outlasts each outage, so that what ran goes on and its results meet the restarted server
CLIENTS = 8
BULK = 5
ANSWER_SECONDS = 2.0
BACK_SECONDS = 5.0  # from PostgreSQL's return to the first task it accepts
LIVENESS_SECONDS = 60.0
CUT_EVERY_SECONDS = 0.2
# What a connection ends in when PostgreSQL does.
GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything. `slack`: seconds that a machine busy with other tests may be late."""

    restarts: int
    backend_kills: int
    cutting_seconds: float
    slack: float


LONG = Scale(restarts=30, backend_kills=5, cutting_seconds=10.0, slack=0.5)
SHORT = Scale(restarts=3, backend_kills=1, cutting_seconds=0.6, slack=6.0)


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Let clients create tasks, break PostgreSQL under them, stop breaking, drain, check."""
    scale = LONG if long else SHORT
    dice = random.Random(seed)
    key = await place.key()
    servers = await asyncio.gather(*(place.start(name, "serve") for name in "ab"))
    stopping = asyncio.Event()
    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(place.client(server.url, key)) for server in servers]
        async with asyncio.timeout(600), asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                client = Client(place, apis, number, random.Random(seed * 1000 + number))
                group.create_task(client.work(stopping))
            await _break(place, dice, scale)
            await asyncio.sleep(0.5)
            stopping.set()
    place.history.add("drained", seconds=await place.drain(LIVENESS_SECONDS))
    report = Report(violations=await check(place, scale))
    report.figures = await _figures(place)
    report.expect(all(server.alive for server in servers), "a server died")
    report.expect(report.figures["answers 503"] > 0, "no client noticed any outage: this proves nothing")
    return report


@dataclass(kw_only=False)
class Client:
    """One caller: creates tasks, one or five at a time, and gives up on none."""

    place: Place
    apis: list[ClientSession]
    number: int
    dice: random.Random

    async def work(self, stopping: asyncio.Event) -> None:
        """Create until told to stop; the last call is carried to its end."""
        turn = 0
        while not stopping.is_set():
            turn += 1
            await self._create(f"client-{self.number}-{turn}")
            await asyncio.sleep(self.dice.uniform(0, 0.02))

    async def _create(self, key: str) -> None:
        one = {"type": self.dice.choice(("noop", "noop", "drip")), "payload": {"seconds": 0}}
        bulk = self.dice.random() < 0.2
        path, body = ("/api/v1/tasks/bulk", {"tasks": [one] * BULK}) if bulk else ("/api/v1/tasks", one)
        while True:
            ids = await self._ask(self.dice.choice(self.apis), key, path, body)
            if ids:
                self.place.history.add("acknowledged", key=key, ids=ids)
                return
            await asyncio.sleep(0.05)

    async def _ask(self, api: ClientSession, key: str, path: str, body: object) -> list[str]:
        """Send one call and note what came of it. Returns the tasks it was told of; none: unknown, or to be asked again."""
        began = time.time()
        try:
            async with api.post(path, json=body, headers={"Idempotency-Key": key}) as response:
                answer = await response.json(content_type=None)
        except (ClientError, TimeoutError, ValueError) as exc:
            took = round(time.time() - began, 3)
            self.place.history.add("maybe", key=key, why=type(exc).__name__, began=began, took=took)
            return []
        self.place.history.add(
            "answer",
            key=key,
            status=response.status,
            media=response.content_type,
            slug=answer.get("type", ""),
            retry_after=response.headers.get("Retry-After"),
            began=began,
            took=round(time.time() - began, 3),
        )
        return (answer.get("ids") or [answer["id"]]) if response.status == 201 else []


async def _break(place: Place, dice: random.Random, scale: Scale) -> None:
    await asyncio.sleep(1)
    for _ in range(scale.restarts):
        await restart(place, dice.uniform(0.2, 1.0))
        await asyncio.sleep(dice.uniform(0.7, 1.5))
    for _ in range(scale.backend_kills):
        await _kill_backend(place, dice)
        await asyncio.sleep(dice.uniform(0.7, 1.5))
    await _cut(place, scale.cutting_seconds)


async def restart(place: Place, seconds: float) -> None:
    """Stop PostgreSQL dead, as a crash would (`pg_ctl -m immediate`), and start it again after *seconds*."""
    postgres = place.postgres
    assert postgres is not None
    place.history.add("fault", process="postgres", pid=postgres.postmaster.pid, signal="SIGQUIT")
    os.kill(postgres.postmaster.pid, signal.SIGQUIT)
    async with asyncio.timeout(30):
        while not cluster._ended(postgres.postmaster):
            await asyncio.sleep(0.005)
    place.history.add("down")
    await asyncio.sleep(seconds)
    postmaster, _ = await asyncio.to_thread(cluster.ensure_running, postgres.home, durable=True)
    place.postgres = EmbeddedPostgres(
        admin_dsn=postgres.admin_dsn,
        web_dsn=postgres.web_dsn,
        home=postgres.home,
        user=postgres.user,
        postmaster=postmaster,
    )
    place.history.add("up")


async def _kill_backend(place: Place, dice: random.Random) -> None:
    """kill -9 one of the servers' backends: PostgreSQL then ends all others and recovers as after a crash."""
    async with asyncio.timeout(30):
        with contextlib.suppress(*GONE):
            async with place.admin() as admin:
                victim = await _strike_backend(admin, dice)
                place.history.add("fault", process="backend", pid=victim, signal="SIGKILL")
                while await admin.fetchval(
                    "SELECT true"
                ):  # until PostgreSQL has noticed, and ends this one too
                    await asyncio.sleep(0.005)
        place.history.add("down")
        while True:
            try:
                async with place.admin() as admin:
                    assert await admin.fetchval("SELECT 1")
                break
            except GONE:
                await asyncio.sleep(0.01)
    place.history.add("up")


async def _strike_backend(admin: asyncpg.Connection[asyncpg.Record], dice: random.Random) -> int:
    """Kill one of the servers' backends and return its process id. They come and go: one that is gone is no victim."""
    while True:
        rows = await admin.fetch("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'galley%'")
        if rows:
            victim: int = dice.choice(rows)["pid"]
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                return victim
        await asyncio.sleep(0.01)


async def _cut(place: Place, seconds: float) -> None:
    """Take every connection of the servers away, five times a second."""
    until = time.monotonic() + seconds
    async with place.admin() as admin:
        while time.monotonic() < until:
            cut = await admin.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'galley%'"
            )
            place.history.add("fault", process="connections", signal="terminated", count=cut)
            await asyncio.sleep(CUT_EVERY_SECONDS)
    place.history.add("up")


async def check(place: Place, scale: Scale) -> list[str]:
    """What was told is there, nothing is there by half, and no client was left waiting."""
    report = Report()
    acknowledged = {entry["key"]: entry["ids"] for entry in place.history.read("acknowledged")}
    async with place.admin() as admin:
        rows: list[Any] = await admin.fetch("SELECT id::text, state, result, error FROM task_history")
        keys: list[Any] = await admin.fetch("SELECT key, status, body FROM idempotency")
        halves = await admin.fetchrow(HALVES)
    check_keys(report, acknowledged, rows, keys)
    check_halves(report, halves)
    failed = [
        row["error"] for row in rows if row["state"] != "succeeded" and row["error"]["class"] != "crash_loop"
    ]
    report.expect(not failed, f"{len(failed)} tasks failed otherwise than by three crashes: {failed[:3]}")
    _check_answers(place, report, scale)
    return report.violations


# A write's effect and its checkpoint commit together, and before the task's success.
HALVES = """
WITH marks AS (SELECT task_id, count(*) AS n FROM chaos_marks WHERE what = 'version' GROUP BY 1),
     steps AS (SELECT task_id FROM task_steps WHERE name = 'version')
SELECT (SELECT count(*) FROM marks WHERE n > 1) AS doubles,
       (SELECT count(*) FROM steps WHERE task_id NOT IN (SELECT task_id FROM marks)) AS markless,
       (SELECT count(*) FROM marks WHERE task_id NOT IN (SELECT task_id FROM steps)) AS stepless,
       (SELECT count(*) FROM task_history WHERE type = 'drip' AND state = 'succeeded'
          AND id NOT IN (SELECT task_id FROM marks)) AS unwritten
"""


def check_halves(report: Report, halves: Any) -> None:
    """No write is there without its checkpoint, twice, or missing from a task that succeeded."""
    report.expect(halves["doubles"] == 0, f"{halves['doubles']} tasks have two versions of one write")
    report.expect(halves["markless"] == 0, f"{halves['markless']} checkpoints without what they stand for")
    report.expect(halves["stepless"] == 0, f"{halves['stepless']} versions without their checkpoint")
    report.expect(halves["unwritten"] == 0, f"{halves['unwritten']} tasks succeeded without their version")


def check_keys(report: Report, acknowledged: dict[str, list[str]], rows: list[Any], keys: list[Any]) -> None:
    """Each acknowledged key has its tasks and its answer; no task is there without its key, and no key without its task."""
    ended = {row["id"] for row in rows}
    promised = {task for ids in acknowledged.values() for task in ids}
    kept = {row["key"]: _ids(row["body"]) for row in keys}
    named = [task for ids in kept.values() for task in ids]
    report.expect(len(rows) == len(ended), f"{len(rows) - len(ended)} tasks ended twice")
    report.expect(
        promised <= ended, f"{len(promised - ended)} of {len(promised)} acknowledged tasks are lost"
    )
    differing = sum(kept.get(key) != ids for key, ids in acknowledged.items())
    report.expect(differing == 0, f"{differing} keys stand for other tasks than their callers were told")
    report.expect(set(kept) == set(acknowledged), "there are keys that no caller has settled")
    report.expect(len(named) == len(set(named)), "one task answers to two keys")
    halves = len(ended ^ set(named))
    report.expect(halves == 0, f"{halves} tasks without their key or keys without their tasks")


def _ids(body: bytes) -> list[str]:
    answer = json.loads(body)
    return list(answer.get("ids") or [answer["id"]])


def _check_answers(place: Place, report: Report, scale: Scale) -> None:
    answers = place.history.read("answer")
    bad = Counter(
        f"{one['status']} {one['slug']}"
        for one in answers
        if one["status"] not in {201, 503} and not one["slug"].endswith("/idempotency-key-in-use")
    )
    report.expect(not bad, f"answers that no caller can act upon: {dict(bad)}")
    rude = [
        one
        for one in answers
        if one["status"] == 503
        and not (one["media"] == "application/problem+json" and int(one["retry_after"] or 0) >= 1)
    ]
    report.expect(not rude, f"{len(rude)} refusals without a reason or a time: {rude[:2]}")
    bound = ANSWER_SECONDS + scale.slack
    slow = [(one["took"], one.get("status")) for one in [*answers, *_maybes(place)] if one["took"] > bound]
    report.expect(not slow, f"{len(slow)} calls took longer than {bound} s: {sorted(slow)[-5:]}")
    bound = BACK_SECONDS + scale.slack
    late = [seconds for seconds in _returns(place) if seconds > bound]
    report.expect(not late, f"the first task came later than {bound} s after PostgreSQL's return: {late}")


def _maybes(place: Place) -> list[dict[str, Any]]:
    return place.history.read("maybe")


def _returns(place: Place) -> list[float]:
    """Return the seconds from each return of PostgreSQL to the next task it accepted."""
    told = [entry["at"] for entry in place.history.read("acknowledged")]
    returns = []
    for up in place.history.read("up"):
        after = [moment - up["at"] for moment in told if moment > up["at"]]
        returns.append(round(min(after, default=float("inf")), 2))
    return returns


async def _figures(place: Place) -> dict[str, Any]:
    faults = place.history.read("fault")
    answers = place.history.read("answer")
    async with place.admin() as admin:
        looping = await admin.fetchval("SELECT count(*) FROM task_history WHERE state <> 'succeeded'")
    refused = sorted(one["took"] for one in answers if one["status"] == 503)
    return {
        "restarts": sum(one["signal"] == "SIGQUIT" for one in faults),
        "backends killed": sum(one["signal"] == "SIGKILL" for one in faults),
        "times that all connections were cut": sum(one["signal"] == "terminated" for one in faults),
        "calls acknowledged": len(place.history.read("acknowledged")),
        "tasks acknowledged": sum(len(one["ids"]) for one in place.history.read("acknowledged")),
        "answers 503": len(refused),
        "answers 409": sum(one["status"] == 409 for one in answers),
        "unknown answers": len(_maybes(place)),
        "ended by three crashes": looping,
        "slowest 503 s": refused[-1] if refused else None,
        "slowest answer s": max(one["took"] for one in answers),
        "return to first task s max": max(_returns(place)),
        "drained s": place.history.read("drained")[0]["seconds"],
    }
