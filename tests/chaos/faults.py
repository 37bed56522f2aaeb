"""Every statement of two servers may fail, before or after it was done, be given up or come late (E9: P2, P4, P6, P9).

Clients do all that tasks can do, over HTTP, and repeat what they got no answer to. A fifth of all statements is hit. With the
faults off, everything must end, and every answer that was given must be what PostgreSQL holds.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession

from tests.chaos import restarts
from tests.chaos.faulty_connections import KINDS
from tests.chaos.history import Report
from tests.chaos.processes import Pace, Place

PACE = Pace(lease=6.0, heartbeat=0.6, rescue=0.5, poll=0.5, grace=1.0)
SHARE = 0.05  # of each kind of fault
CLIENTS = 6
SETTLE_SECONDS = 60.0
LIVENESS_SECONDS = 60.0
FINAL = {"succeeded", "failed", "timed_out", "cancelled"}
EXPECTED = {"idempotency-key-in-use", "task-ended", "task-not-ended", "signal-exists"}


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Work under faults, work on without them until everything has ended, check."""
    key = await place.key()
    flag = place.folder / "faults"
    servers = await asyncio.gather(
        *(
            place.start(name, "serve", faults={"seed": seed + number, "share": SHARE, "flag": str(flag)})
            for number, name in enumerate("ab")
        )
    )
    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(place.client(server.url, key)) for server in servers]
        flag.touch()
        until = time.monotonic() + (60 if long else 5)
        clients = [
            Client(place, apis, number, random.Random(seed * 1000 + number)) for number in range(CLIENTS)
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(client.work(until, flag))
        finally:
            flag.unlink(missing_ok=True)
    place.history.add("drained", seconds=await place.drain(LIVENESS_SECONDS))
    report = await check(place)
    report.expect(all(server.alive for server in servers), "a server died")
    return report


@dataclass
class Client:
    """One caller. Whatever it began it carries to an answer that settles it."""

    place: Place
    apis: list[ClientSession]
    number: int
    dice: random.Random
    turn: int = 0

    async def work(self, until: float, flag: Path) -> None:
        """Begin things for as long as there are to be faults."""
        stories = (
            self._simple,
            self._written,
            self._staged,
            self._signalled,
            self._cancelled,
            self._requeued,
        )
        while flag.exists() and (time.monotonic() < until or not self._seen_all(until)):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self.dice.choice(stories)()

    def _seen_all(self, until: float) -> bool:
        """Whether each kind of fault has come about; a slow machine sends few statements in the time there is."""
        return set(_injected(self.place)) == set(KINDS) or time.monotonic() > until + SETTLE_SECONDS

    async def _simple(self) -> None:
        await self._create("tally", seconds=round(self.dice.uniform(0, 0.2), 3))

    async def _written(self) -> None:
        await self._create("drip", seconds=round(self.dice.uniform(0, 0.4), 3))

    async def _staged(self) -> None:
        await self._create("staged", phase=self.dice.choice(("step", "write", "result")))

    async def _signalled(self) -> None:
        task = await self._create("staged", phase="wait")
        await asyncio.sleep(self.dice.uniform(0, 0.3))
        await self._settle(f"/api/v1/tasks/{task}/signal", {"name": "go"})

    async def _cancelled(self) -> None:
        task = await self._create("linger", seconds=self.dice.choice((0.1, 60)))
        await asyncio.sleep(self.dice.uniform(0, 0.5))
        status, answer = await self._settle(f"/api/v1/tasks/{task}/cancel", {"reason": "chaos"})
        if status == 200:
            self.place.history.add("told cancelled", task=task, state=answer["state"])

    async def _requeued(self) -> None:
        task = await self._create("tally")
        while (await self._settle(f"/api/v1/tasks/{task}", None))[1]["state"] not in FINAL:
            await asyncio.sleep(0.05)
        key = self._key()
        status, answer = await self._settle(f"/api/v1/tasks/{task}/requeue", {}, key=key)
        self.place.history.add("acknowledged", key=key, ids=[answer["id"]], retry_of=task, status=status)

    async def _create(self, name: str, **payload: Any) -> str:
        key = self._key()
        _, answer = await self._settle("/api/v1/tasks", {"type": name, "payload": payload}, key=key)
        self.place.history.add("acknowledged", key=key, ids=[answer["id"]])
        return str(answer["id"])

    def _key(self) -> str:
        self.turn += 1
        return f"client-{self.number}-{self.turn}"

    async def _settle(self, path: str, body: object, *, key: str | None = None) -> tuple[int, dict[str, Any]]:
        """Ask this server and that one until the answer is final. No body: a GET."""
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            api = self.dice.choice(self.apis)
            asked = api.get(path) if body is None else api.post(path, json=body, headers=headers)
            try:
                async with asked as response:
                    raw = await response.read()
            except (ClientError, TimeoutError) as exc:
                self.place.history.add("maybe", path=path, why=type(exc).__name__)
                continue
            answer = json.loads(raw) if raw else {}
            slug = str(answer.get("type", "")).removeprefix("/problems/") if response.status >= 400 else ""
            self.place.history.add("answer", path=path, status=response.status, slug=slug)
            if response.status != 503 and slug != "idempotency-key-in-use":
                return response.status, answer
            await asyncio.sleep(self.dice.uniform(0, 0.1))


# Runs whose end is written down as theirs.
WRITTEN = """
SELECT task_id::text AS task, fence FROM task_events WHERE event IN ('retry_scheduled', 'snoozed') AND actor = 'executor'
UNION SELECT id::text, fence FROM task_history WHERE state = 'succeeded'
"""


async def check(place: Place) -> Report:
    """What was told is what stands; nothing is there twice or by half; nothing was left behind."""
    report = Report()
    acknowledged = {entry["key"]: entry["ids"] for entry in place.history.read("acknowledged")}
    requeued = {entry["retry_of"] for entry in place.history.read("acknowledged") if "retry_of" in entry}
    async with place.admin() as admin:
        rows: list[Any] = await admin.fetch(
            "SELECT id::text, type, state, fence, attempt, max_attempts, retry_of::text, result, error FROM task_history"
        )
        keys: list[Any] = await admin.fetch("SELECT key, status, body FROM idempotency")
        halves: Any = await admin.fetchrow(restarts.HALVES)
        written: list[Any] = await admin.fetch(WRITTEN)
    restarts.check_keys(report, acknowledged, rows, keys)
    restarts.check_halves(report, halves)
    states = {row["id"]: row["state"] for row in rows}
    undone = [
        entry for entry in place.history.read("told cancelled") if states.get(entry["task"]) != "cancelled"
    ]
    report.expect(not undone, f"{len(undone)} acknowledged cancels did not stand: {undone[:3]}")
    again = Counter(row["retry_of"] for row in rows if row["retry_of"])
    report.expect(
        set(again) == requeued and set(again.values()) <= {1}, f"requeued otherwise than told: {again}"
    )
    _check_runs(report, rows)
    refused = {(entry["task_id"], entry["fence"]) for entry in _logged(place, "stale result refused")}
    both = refused & {(row["task"], row["fence"]) for row in written}
    report.expect(
        not both, f"{len(both)} runs were told that they came too late for what they had written: {both}"
    )
    _check_answers(place, report)
    faults = _injected(place)
    report.expect(set(faults) == set(KINDS), f"not every kind of fault came about: {faults}")
    report.figures = {
        "faults": faults,
        "tasks": len(rows),
        "runs": sum(row["fence"] for row in rows),
        "ended": dict(Counter(row["state"] for row in rows)),
        "answers": dict(sorted(Counter(one["status"] for one in place.history.read("answer")).items())),
        "unknown answers": len(place.history.read("maybe")),
        "stale results refused": len(refused),
        "drained s": place.history.read("drained")[0]["seconds"],
    }
    return report


def _check_runs(report: Report, rows: list[Any]) -> None:
    succeeded = [row for row in rows if row["state"] == "succeeded"]
    stale = [row["id"] for row in succeeded if row["result"]["fence"] != row["fence"]]
    report.expect(not stale, f"{len(stale)} results of a run that had lost its task: {stale[:3]}")
    over = [row["id"] for row in rows if row["attempt"] > row["max_attempts"]]
    report.expect(not over, f"{len(over)} tasks had more attempts than they may: {over[:3]}")
    failed = [
        row["error"]
        for row in rows
        if row["state"] in {"failed", "timed_out"} and row["error"]["class"] != "crash_loop"
    ]
    report.expect(not failed, f"{len(failed)} tasks failed: {failed[:3]}")


def _check_answers(place: Place, report: Report) -> None:
    odd = Counter(
        f"{one['status']} {one['slug']} {one['path'].rpartition('/')[2][:10]}"
        for one in place.history.read("answer")
        if one["status"] not in {200, 201, 202, 503} and one["slug"] not in EXPECTED
    )
    report.expect(not odd, f"answers that no caller can act upon: {dict(odd)}")


def _injected(place: Place) -> dict[str, int]:
    return dict(Counter(entry["kind"] for entry in _logged(place, "fault injected")))


def _logged(place: Place, message: str) -> list[dict[str, Any]]:
    lines = [line for child in place.children for line in child.read_log().splitlines()]
    return [json.loads(line) for line in lines if f'"message": "{message}"' in line]
