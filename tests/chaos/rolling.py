"""Two servers are stopped in turn with SIGTERM and replaced, while tasks run, pages stream and clients call (E16: P18).

Nobody waits for a lease: runs that do not end within the drain are given back with their attempt, the process ends with code 0, a
stream that breaks off is opened again at the other server. Then a second SIGTERM hurries, and SIGTERM in the middle of a start.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import signal
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
from aiohttp import ClientError, ClientSession, ClientTimeout

from tests.chaos.history import Report
from tests.chaos.processes import SERVES, Child, Pace, Place

PACE = Pace(lease=20.0, heartbeat=0.6, rescue=0.5, poll=0.5, grace=1.0)
DRAIN_SECONDS = 2.0
STOP_SECONDS = 8.0  # drain, grace and what closing takes on a busy machine
LASTING = STOP_SECONDS + 2  # what a run takes that a stop must not wait for
OUTLASTING = DRAIN_SECONDS + 1.5  # what a run has to go that will outlast a drain which is about to begin
LIVENESS_SECONDS = 90.0
UNAVAILABLE = 503
SETTINGS = {"DRAIN_SECONDS": str(DRAIN_SECONDS), "EXECUTOR_SLOTS": "120"}
RUNS_OF = "SELECT count(*) FROM tasks t JOIN executors e ON e.id = t.executor_id WHERE e.pid = $1"
# Runs of a process that will take so many seconds more.
LONGER_RUNS = """
SELECT t.id::text FROM tasks t JOIN executors e ON e.id = t.executor_id
WHERE e.pid = $1 AND t.state = 'running'
  AND (t.payload ->> 'seconds')::float8 - extract(epoch FROM clock_timestamp() - t.started_at) > $2
"""
STARTING = """
SELECT EXISTS (
  SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name IN ('galley migrate', 'galley check'))
"""
SIGN_IN = """
WITH u AS (
  INSERT INTO users (tenant_id, email, name, password_hash, role)
  SELECT id, 'ada@example.org', 'Ada', 'none', 'operator' FROM tenants WHERE name = 'chaos' RETURNING id, tenant_id
)
INSERT INTO sessions (tenant_id, user_id, token_hash, csrf_token, expires_at)
SELECT tenant_id, id, $1, 'none', clock_timestamp() + $2::interval FROM u
"""


async def sign_in(admin: asyncpg.Connection[asyncpg.Record], life: timedelta) -> str:
    """Open a session of a person of the experiment's tenant and return its token."""
    token = secrets.token_urlsafe(32)
    await admin.execute(SIGN_IN, hashlib.sha256(token.encode()).digest(), life)
    return token


class Load:
    """What goes on meanwhile. `servers` are those that should answer."""

    def __init__(self, place: Place, key: str, session: str, dice: random.Random) -> None:
        self.place, self.dice = place, dice
        self.headers = {"Authorization": f"Bearer {key}"}
        self.cookies = {"sid": session}
        self.servers: list[Child] = []
        self.accepted: list[str] = []
        self.wrong: list[str] = []
        self.answers = self.unavailable = self.unreachable = 0
        self.streamed: list[int] = []  # how many streams each watcher has opened
        self.over = asyncio.Event()

    async def create(self, number: int, *, shortest: float = 0.1, longest: float = 5.0) -> list[str]:
        """Create tasks of so many seconds over any server; an unknown answer is asked for again under its key."""
        body = {
            "tasks": [
                {"type": "noop", "payload": {"seconds": round(self.dice.uniform(shortest, longest), 2)}}
                for _ in range(number)
            ]
        }
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        while True:
            status, answer = await self.call("POST", "/api/v1/tasks/bulk", headers, body)
            if status == 201:
                self.accepted += answer["ids"]
                return list(answer["ids"])
            await asyncio.sleep(0.1)

    async def call(self, method: str, path: str, headers: Any = None, body: Any = None) -> tuple[int, Any]:
        """Call any server. 0: it could not be reached, which says nothing."""
        server = self.dice.choice(self.servers)
        try:
            async with (
                ClientSession(headers=self.headers, timeout=ClientTimeout(total=10)) as session,
                session.request(method, server.url + path, headers=headers, json=body) as response,
            ):
                self.answers += 1
                self.unavailable += response.status == UNAVAILABLE
                if response.status >= 400 and response.status != UNAVAILABLE:
                    self.wrong.append(f"{method} {path}: {response.status} {await response.text()}")
                return response.status, await response.json()
        except (ClientError, TimeoutError, ValueError):
            self.unreachable += 1
            return 0, None

    async def keep_calling(self) -> None:
        """Be a client that reads what it has created."""
        while not self.over.is_set():
            if self.accepted:
                await self.call("GET", f"/api/v1/tasks/{self.dice.choice(self.accepted)}")
            await asyncio.sleep(0.02)

    async def watch(self, task_id: str, first: Child | None = None) -> None:
        """Watch a task's page until the stream says that it is over; whenever it breaks off, open it again anywhere."""
        number = len(self.streamed)
        self.streamed.append(0)
        while not self.over.is_set():
            server = (
                first if first is not None and not self.streamed[number] else self.dice.choice(self.servers)
            )
            try:
                if await self._stream(f"{server.url}/desk/tasks/{task_id}/live", number):
                    return
            except (ClientError, TimeoutError):
                self.unreachable += 1
            await asyncio.sleep(0.2)

    async def _stream(self, url: str, number: int) -> bool:
        timeout = ClientTimeout(total=None, sock_read=30)
        async with (
            ClientSession(cookies=self.cookies, timeout=timeout) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                if response.status != UNAVAILABLE:
                    self.wrong.append(f"stream: {response.status} {await response.text()}")
                return False
            self.streamed[number] += 1
            async for line in response.content:
                if line.startswith(b"event: end"):
                    return True
        return False


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Replace servers in turn, 2 times or *long* 20 times; then the second signal, then starts that are broken off."""
    dice = random.Random(seed)
    report = Report()
    key = await place.key()
    async with place.admin() as admin:
        load = Load(place, key, await sign_in(admin, timedelta(days=1)), dice)
        load.servers = list(await asyncio.gather(*(place.start(n, "serve", env=SETTINGS) for n in "ab")))
        await _roll(place, load, report, admin, turns=20 if long else 2, watchers=100 if long else 10)
        await _hurry(place, load, report, admin)
        for _ in range(20 if long else 3):
            await _break_off(place, report, dice)
        await check(load, report, admin)
    return report


async def _roll(
    place: Place,
    load: Load,
    report: Report,
    admin: asyncpg.Connection[asyncpg.Record],
    *,
    turns: int,
    watchers: int,
) -> None:
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        clients = [group.create_task(load.keep_calling()) for _ in range(3)]
        first = await load.create(200)
        watching = [group.create_task(load.watch(task_id)) for task_id in first[-watchers:]]
        took = []
        for turn in range(turns):
            old = load.servers[0]  # clients go on knocking at its door
            watching.append(await _occupy(load, admin, group, old))
            took.append(await _stop(old, report, f"turn {turn}"))
            load.servers = [load.servers[1], await place.start(old.name, "serve", env=SETTINGS)]
            await load.create(100)
        async with asyncio.timeout(LIVENESS_SECONDS):
            await asyncio.gather(*watching)
        load.over.set()
        await asyncio.gather(*clients)
    report.figures |= {"stops": turns, "slowest stop s": round(max(took), 2)}


async def _occupy(
    load: Load, admin: asyncpg.Connection[asyncpg.Record], group: asyncio.TaskGroup, server: Child
) -> asyncio.Task[None]:
    """See to it that the server has runs that will outlast its drain, and a stream of one of them to break off."""
    async with asyncio.timeout(LIVENESS_SECONDS):
        while len(lasting := await admin.fetch(LONGER_RUNS, server.pid, OUTLASTING)) < 10:
            await load.create(50, shortest=5.0)
            await asyncio.sleep(0.1)
        number = len(load.streamed)
        watcher = group.create_task(load.watch(lasting[-1]["id"], first=server))
        while not sum(load.streamed[number:]):
            await asyncio.sleep(0.005)
    return watcher


async def _stop(server: Child, report: Report, where: str) -> float:
    """Send SIGTERM and wait for the end. Returns the seconds it took."""
    began = time.monotonic()
    server.send(signal.SIGTERM)
    try:
        await server.ended(STOP_SECONDS)
    except TimeoutError:
        report.violations.append(f"{where}: still there {STOP_SECONDS} s after SIGTERM")
        server.send(signal.SIGKILL)
        return STOP_SECONDS
    report.expect(server.exit_code == 0, f"{where}: ended with {server.exit_code}")
    report.expect("Traceback" not in server.read_log(), f"{where}:\n{server.read_log()[-1500:]}")
    return time.monotonic() - began


async def _hurry(place: Place, load: Load, report: Report, admin: asyncpg.Connection[asyncpg.Record]) -> None:
    """SIGTERM twice: runs that would outlast the drain are given back at once."""
    patient = {**SETTINGS, "DRAIN_SECONDS": "60"}
    server = await place.start("hurried", "serve", env=patient)
    others = load.servers
    load.servers = [server]
    async with asyncio.timeout(LIVENESS_SECONDS):
        while await admin.fetchval(RUNS_OF, server.pid) < 10:  # the others are quick to take what it is given
            await load.create(50, shortest=LASTING, longest=LASTING)
            await asyncio.sleep(0.1)
    server.send(signal.SIGTERM)
    await server.says("stopping")
    load.servers = others
    report.figures["second signal, s"] = round(await _stop(server, report, "the second signal"), 2)


async def _break_off(place: Place, report: Report, dice: random.Random) -> None:
    """SIGTERM at a random moment of a start."""
    async with place.admin() as admin:
        starting = await place.spawn("broken off", "serve", ["serve"], env=SETTINGS)
        async with asyncio.timeout(LIVENESS_SECONDS):
            # Before its first connection it has nothing to lose; and those of its start are soon over.
            while not await admin.fetchval(STARTING) and SERVES not in starting.read_log():
                await asyncio.sleep(0.005)
    await asyncio.sleep(dice.uniform(0, 0.5))
    await _stop(starting, report, "a start that was broken off")


async def check(load: Load, report: Report, admin: asyncpg.Connection[asyncpg.Record]) -> None:
    """Liveness, and what history says: every task ended well in its first attempt, and nobody was rescued."""
    try:
        async with asyncio.timeout(LIVENESS_SECONDS):
            while await admin.fetchval("SELECT count(*) FROM tasks"):
                await asyncio.sleep(0.05)
    except TimeoutError:
        report.violations.append("tasks are left that nobody runs")
    rows = await admin.fetch("SELECT id, state, attempt, fence FROM task_history")
    events = dict(await admin.fetch("SELECT event, count(*) FROM task_events GROUP BY 1"))
    report.expect({row["id"] for row in rows} == set(map(UUID, load.accepted)), "tasks were lost or invented")
    bad = [dict(row) for row in rows if row["state"] != "succeeded" or row["attempt"] != 1]
    report.expect(not bad, f"{len(bad)} tasks lost an attempt or more: {bad[:3]}")
    report.expect(set(events) <= {"interrupted"}, f"leases ran out: {events}")
    report.expect(events.get("interrupted", 0) > 0, "no run was given back: this proves nothing")
    report.expect(not load.wrong, f"{len(load.wrong)} wrong answers: {load.wrong[:3]}")
    reopened = sum(count > 1 for count in load.streamed)
    report.expect(reopened > 0, "no stream was broken off: this proves nothing")
    left = await admin.fetchval("SELECT count(*) FROM executors")
    report.expect(
        left == len(load.servers), f"{left} executors are registered, {len(load.servers)} servers live"
    )
    report.figures |= {
        "tasks": len(rows),
        "runs given back": events.get("interrupted", 0),
        "answers": load.answers,
        "of them 503": load.unavailable,
        "unreachable": load.unreachable,
        "streams opened again": reopened,
    }
