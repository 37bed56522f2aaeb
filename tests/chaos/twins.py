"""Ten equal calls at once for each key, and some with another body, over two servers of which one is killed (E4: P2).

Whichever call comes first decides what its key stands for. All that sent the same get its answer to the byte, all others are refused,
and a caller whose server was killed learns from the other one what became of its call.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientError, ClientSession

from tests.chaos.history import Report
from tests.chaos.processes import Child, Place

TWINS = 10
KEYS_AT_ONCE = 10
SETTLE_SECONDS = 30.0
DRAIN_SECONDS = 30.0
BUSY = 503
IN_USE = "/problems/idempotency-key-in-use"
REUSED = "/problems/idempotency-key-reused"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How many keys, how many of them with a call of another body, in how many rounds, and whether the machine may be too busy to answer."""

    keys: int
    conflicts: int
    rounds: int
    busy: bool = False


LONG = Scale(keys=500, conflicts=50, rounds=4)  # the first without a kill
SHORT = Scale(keys=80, conflicts=10, rounds=1, busy=True)


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Call, kill, call again until each call is settled, drain, check."""
    scale = LONG if long else SHORT
    key = await place.key()
    servers = list(await asyncio.gather(*(place.start(name, "serve") for name in "ab")))
    for turn in range(scale.rounds):
        burst = Burst(place=place, servers=servers, key=key, dice=random.Random(seed + turn), turn=turn)
        await burst.run(scale, kill=turn > 0 or not long)
    await place.drain(DRAIN_SECONDS)
    return await check(place, scale)


@dataclass(kw_only=True)
class Burst:
    """One round of keys."""

    place: Place
    servers: list[Child]
    key: str
    dice: random.Random
    turn: int

    async def run(self, scale: Scale, *, kill: bool) -> None:
        """Send the calls of ten keys at a time; in the middle of the round a server is killed and started again."""
        odd = set(self.dice.sample(range(scale.keys), scale.conflicts))
        killing = None
        for start in range(0, scale.keys, KEYS_AT_ONCE):
            if kill and killing is None and start >= scale.keys // 3:
                killing = asyncio.create_task(self._kill())
            numbers = range(start, min(start + KEYS_AT_ONCE, scale.keys))
            calls = [(number, 0) for number in numbers for _ in range(TWINS)]
            calls += [(number, 1) for number in numbers if number in odd]
            self.dice.shuffle(calls)
            async with AsyncExitStack() as stack:
                apis = [
                    await stack.enter_async_context(self.place.client(child.url, self.key))
                    for child in self.servers
                ]
                await asyncio.gather(
                    *(self._settle(apis, f"{self.turn}-{n}", variant) for n, variant in calls)
                )
        if killing is not None:
            await killing

    async def _kill(self) -> None:
        await asyncio.sleep(self.dice.uniform(0.01, 0.1))
        victim = self.dice.randrange(len(self.servers))
        self.servers[victim].send(signal.SIGKILL)
        await self.servers[victim].ended()
        self.servers[victim] = await self.place.start(self.servers[victim].name, "serve")

    async def _settle(self, apis: list[ClientSession], key: str, variant: int) -> None:
        """Be one caller: ask one server, then another, until the call has been answered for good."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while not await self._ask(self.dice.choice(apis), key, variant):
                await asyncio.sleep(self.dice.uniform(0.02, 0.2))

    async def _ask(self, api: ClientSession, key: str, variant: int) -> bool:
        body = {"type": "noop", "payload": {"seconds": 0}, "priority": 2 + variant}
        try:
            async with api.post("/api/v1/tasks", json=body, headers={"Idempotency-Key": key}) as response:
                raw = await response.read()
                answer = await response.json(content_type=None)
        except (ClientError, TimeoutError, ValueError) as exc:
            self.place.history.add("maybe", key=key, variant=variant, why=type(exc).__name__)
            return False
        self.place.history.add(
            "answer",
            key=key,
            variant=variant,
            status=response.status,
            slug=answer.get("type") if response.status >= 400 else "",
            task=answer.get("id"),
            body=hashlib.sha256(raw).hexdigest()[:16],
            replayed=response.headers.get("Idempotency-Replayed", ""),
        )
        return response.status not in {409, BUSY}


async def check(place: Place, scale: Scale) -> Report:
    """One task and one answer for each key, and no answer that a caller could not expect."""
    report = Report()
    answers = place.history.read("answer")
    async with place.admin() as admin:
        rows: list[Any] = await admin.fetch("SELECT id::text, priority FROM task_history")
    wanted = scale.keys * scale.rounds
    report.expect(len(rows) == wanted, f"{len(rows)} tasks for {wanted} keys")
    odd = Counter(
        f"{one['status']} {one['slug']}"
        for one in answers
        if (one["status"], one["slug"]) not in {(201, ""), (409, IN_USE), (422, REUSED)}
        and not (scale.busy and one["status"] == BUSY)
    )
    report.expect(not odd, f"answers that no caller can act upon: {dict(odd)}")
    priorities = {row["id"]: row["priority"] for row in rows}
    by_key = defaultdict(list)
    for one in answers:
        by_key[one["key"]].append(one)
    report.expect(len(by_key) == wanted, f"{wanted - len(by_key)} keys were never answered")
    for key, told in by_key.items():
        _check_key(report, key, told, priorities)
    report.figures = {
        "keys": wanted,
        "calls": len(answers) + len(place.history.read("maybe")),
        "kills": len(place.history.read("fault")),
        "answers": dict(sorted(Counter(one["status"] for one in answers).items())),
        "of them replayed": sum(one["replayed"] == "true" for one in answers),
        "unknown answers": len(place.history.read("maybe")),
    }
    report.expect(report.figures["unknown answers"] > 0, "the kill met no call: this proves nothing")
    return report


def _check_key(report: Report, key: str, told: list[dict[str, Any]], priorities: dict[str, int]) -> None:
    accepted = [one for one in told if one["status"] == 201]
    refused = {one["variant"] for one in told if one["status"] == 422}
    report.expect(len({one["body"] for one in accepted}) == 1, f"key {key} got several answers")
    winners = {one["variant"] for one in accepted}
    report.expect(len(winners) == 1, f"key {key} stands for several requests")
    report.expect(not winners & refused, f"key {key} refused the very request that it stands for")
    for one in accepted:
        right = priorities.get(one["task"]) == 2 + one["variant"]
        report.expect(right, f"key {key} was told of task {one['task']}, which is not what it asked for")
