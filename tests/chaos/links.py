"""The link between one server and PostgreSQL pauses, goes deaf, breaks, slows down or is refused (E8: P5, P19, P20).

The server sits behind a link of our own; a second one has a good link and takes over. Nobody may wait: readiness turns red and
green again in time, calls are refused in time, the code of tasks ends before the lease does, and what the bad link still delivers
afterwards is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit
from uuid import UUID

from aiohttp import ClientError, ClientSession

from server.database import WEB_ANSWER_SECONDS, Database
from services import access
from services.tasks import NewTask
from tests.chaos import drip, types
from tests.chaos.history import Report
from tests.chaos.processes import Child, Pace, Place
from tests.patience import patiently

PACE = Pace(lease=3.0, heartbeat=0.6, rescue=0.5, poll=0.5, grace=1.0)
ENVIRONMENT = {
    "WEB_CONNECTIONS": "6",
    "ENGINE_CONNECTIONS": "4",
    "EXECUTOR_SLOTS": "50",
    "LISTEN_PROBE_SECONDS": "1",
}
CONNECTIONS = 6 + 4 + 2  # both pools, and one each for the heartbeat and for listening
RED_SECONDS = GREEN_SECONDS = 5.0
ANSWER_SECONDS = 2.0
LOOK_SECONDS = 0.1
LATENCY_SECONDS = 0.2
BEACONS = 3
BEACON_SECONDS = 12.0
LIVENESS_SECONDS = 40.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Which faults for how long. `slack`: seconds that a machine busy with other tests may be late."""

    faults: tuple[tuple[str, float], ...]
    slack: float
    fence_slack: float


LONG = Scale(
    faults=(
        ("pause", 5), ("pause", 30), ("half-open", 8), ("reset", 8), ("latency", 8), ("silent", 8), ("refuse", 30), ("pause", 1.5),
        ("half-open", 1.5),
    ),
    slack=0.5,
    fence_slack=0.0,
)  # fmt: skip
SHORT = Scale(faults=(("pause", 6), ("half-open", 4)), slack=8.0, fence_slack=2.0)


class Link:
    """Between a server and PostgreSQL: carries bytes until it is told to do worse."""

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._ends: set[asyncio.StreamWriter] = set()  # on the server's side
        self._carrying: set[asyncio.Task[None]] = set()
        self._deaf: set[asyncio.StreamWriter] = set()  # for ever: what they should have carried is gone
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay = 0.0
        self._mode = ""

    @property
    def dsn(self) -> str:
        """The same database through this link."""
        user = self._parts.netloc.rpartition("@")[0]
        return urlunsplit(self._parts._replace(netloc=f"{user}@127.0.0.1:{self._port}", query=""))

    @property
    def connections(self) -> int:
        """How many connections the server holds through it."""
        return len(self._ends)

    async def open(self) -> None:
        """Accept connections; again at the same port after they were refused."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Carry nothing more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()
        for carrying in self._carrying:
            carrying.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    def reset(self) -> None:
        """Break every connection with an RST."""
        for end in self._ends:
            end.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            end.transport.abort()

    async def strike(self, mode: str) -> None:
        """Begin a fault."""
        self._mode = mode
        if mode == "pause":
            self._flowing.clear()
        elif mode == "latency":
            self._delay = LATENCY_SECONDS
        elif mode == "half-open":
            self._deaf |= self._ends
        elif mode in {"reset", "silent"}:
            self.reset()
        else:
            await self.close()

    async def heal(self) -> None:
        """End the fault. What was paused flows on; what was lost stays lost."""
        self._mode, self._delay = "", 0.0
        self._flowing.set()
        if self._server is None:
            await self.open()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrying = asyncio.current_task()
        assert carrying is not None
        self._carrying.add(carrying)
        self._ends.add(writer)
        far_writer = None
        try:
            if self._mode == "reset":
                self.reset()
                return
            if self._mode in {"silent", "half-open"}:
                self._deaf.add(writer)
            far_reader, far_writer = await self._reach()
            with contextlib.suppress(ConnectionError, ExceptionGroup):
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(writer, reader, far_writer))
                    both.create_task(self._pump(writer, far_reader, writer))
        except asyncio.CancelledError:
            pass  # the link is cut; asyncio's streams would report it as an error
        finally:
            if far_writer is not None:
                far_writer.transport.abort()
            self._ends.discard(writer)
            self._deaf.discard(writer)
            writer.transport.abort()
            self._carrying.discard(carrying)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        query = parse_qs(self._parts.query)
        if "host" in query:
            folder, port = query["host"][0], query.get("port", ["5432"])[0]
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._parts.hostname, self._parts.port or 5432)

    async def _pump(
        self, end: asyncio.StreamWriter, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            if end in self._deaf:
                continue
            await asyncio.sleep(self._delay)
            writer.write(data)
            await writer.drain()
        await self._flowing.wait()
        if end not in self._deaf or writer is not end:
            writer.close()


@dataclass(kw_only=True)
class Stage:
    """What every fault needs."""

    place: Place
    link: Link
    server: Child
    api: ClientSession
    database: Database
    tenant: UUID
    scale: Scale
    leases: dict[str, float] = field(default_factory=dict)  # by executor, as PostgreSQL has it


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Let two servers work, break the link of one in each way, let everything end, check."""
    types.register()
    report = Report()
    async with _stage(place, LONG if long else SHORT) as stage:
        besides = [
            asyncio.create_task(one)
            for one in (_drip(stage, random.Random(seed)), _ask(stage), _watch_leases(stage))
        ]
        try:
            for fault, seconds in stage.scale.faults:
                await _once(stage, report, fault, seconds)
        finally:
            for task in besides:
                task.cancel()
            ended = await asyncio.gather(*besides, return_exceptions=True)
        report.expect(
            all(isinstance(one, asyncio.CancelledError) for one in ended), f"the load broke off: {ended}"
        )
        await place.drain(LIVENESS_SECONDS)
        await asyncio.sleep(1)  # whatever the link still delivers has been delivered by now
        deadline = time.monotonic() + GREEN_SECONDS
        while (held := stage.link.connections) > CONNECTIONS and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)  # one that is being closed beside the one that takes its place
        report.expect(held <= CONNECTIONS, f"{held} connections are held, the pools allow {CONNECTIONS}")
        report.expect(stage.server.alive, "the server died")
    report.violations += await drip.check(place)
    await _check_handlers(stage, report)
    _check_answers(stage, report)
    report.figures |= {
        "stale results refused": stage.server.count_in_log("stale result refused"),
        "leases lost": stage.server.count_in_log("executor lease lost"),
        "connections at the end": held,
    }
    return report


@asynccontextmanager
async def _stage(place: Place, scale: Scale) -> AsyncIterator[Stage]:
    key = await place.key()
    link = Link(place.web_dsn)
    await link.open()
    try:
        server = await place.start("linked", "serve", env=ENVIRONMENT | {"DATABASE_URL": link.dsn})
        await place.start("heir", "engine", env=ENVIRONMENT)
        patience = WEB_ANSWER_SECONDS + 1 + scale.slack
        async with place.client(server.url, key, patience=patience) as api, place.database() as database:
            async with database.engine() as db:
                tenant = await access.ensure_tenant(db, "chaos")
            yield Stage(
                place=place, link=link, server=server, api=api, database=database, tenant=tenant, scale=scale
            )
    finally:
        await link.close()


async def _drip(stage: Stage, dice: random.Random) -> None:
    while True:
        seconds = round(dice.uniform(0.05, 0.8), 3)
        await _create(stage, NewTask(type="drip", payload={"seconds": seconds}))
        await asyncio.sleep(0.05)


async def _create(stage: Stage, *new: NewTask) -> None:
    made = await patiently(lambda: drip.create(stage.database, stage.tenant, new))
    stage.place.history.add("accepted", tasks=[task.id for task in made])


async def _ask(stage: Stage) -> None:
    """Be a client of the server whose link is bad."""
    while True:
        began = time.time()
        try:
            async with stage.api.get("/api/v1/tasks?limit=1") as response:
                await response.read()
            status: Any = response.status
        except (ClientError, TimeoutError) as exc:
            status = type(exc).__name__
        stage.place.history.add("answer", status=status, began=began, took=round(time.time() - began, 3))
        await asyncio.sleep(LOOK_SECONDS)


async def _once(stage: Stage, report: Report, fault: str, seconds: float) -> None:
    """One fault: from green, over red where the fault is long enough, to green."""
    name = f"{fault} {seconds:g} s"
    await _until_ready(stage, ready=True, within=RED_SECONDS + stage.scale.slack)
    await _light_beacons(stage)
    stage.place.history.add("fault", process="link", signal=name)
    await stage.link.strike(fault)
    began = time.monotonic()
    if fault != "latency" and seconds > PACE.lease:
        red = await _until_ready(stage, ready=False, within=RED_SECONDS + stage.scale.slack)
        report.expect(red is not None, f"{name}: readiness stayed green")
        report.figures[f"{name}: red after s"] = red
    await asyncio.sleep(max(0, began + seconds - time.monotonic()))
    await stage.link.heal()
    stage.place.history.add("healed", fault=name)
    green = await _until_ready(stage, ready=True, within=GREEN_SECONDS + stage.scale.slack)
    report.expect(green is not None, f"{name}: readiness stayed red: {await _checks(stage)}")
    report.figures[f"{name}: green after s"] = green


async def _light_beacons(stage: Stage) -> None:
    """Have the server run code that says when it ended."""
    beacon = NewTask(type="beacon", payload={"seconds": BEACON_SECONDS, "pid": stage.server.pid})
    async with stage.place.admin() as admin, asyncio.timeout(20):
        while (
            await admin.fetchval(
                "SELECT count(*) FROM tasks t JOIN executors e ON e.id = t.executor_id"
                " WHERE t.type = 'beacon' AND t.started_at > clock_timestamp() - interval '3 s' AND e.pid = $1",
                stage.server.pid,
            )
            < BEACONS
        ):
            await _create(stage, beacon)
            await asyncio.sleep(0.05)


async def _until_ready(stage: Stage, *, ready: bool, within: float) -> float | None:
    """Return the seconds until readiness says so, None when it does not within that."""
    began = time.monotonic()
    while time.monotonic() < began + within:
        with contextlib.suppress(ClientError, TimeoutError):
            async with stage.api.get("/readyz") as response:
                if (response.status == 200) == ready:
                    return round(time.monotonic() - began, 2)
        await asyncio.sleep(LOOK_SECONDS)
    return None


async def _checks(stage: Stage) -> str:
    with contextlib.suppress(ClientError, TimeoutError):
        async with stage.api.get("/readyz") as response:
            return await response.text()
    return "no answer"


async def _watch_leases(stage: Stage) -> None:
    """Keep until when the server's leases lasted: it deletes them itself as soon as it is back."""
    async with stage.place.admin() as admin:
        while True:
            for row in await admin.fetch(
                "SELECT id::text, extract(epoch FROM lease_until)::float8 AS until FROM executors WHERE pid = $1",
                stage.server.pid,
            ):
                stage.leases[row["id"]] = row["until"]
            await asyncio.sleep(LOOK_SECONDS)


# Runs that lost their task with their lease, whoever noticed first.
TAKEN = """
SELECT v.task_id::text AS task, v.fence, v.executor_id::text AS executor
FROM task_events v
JOIN task_history h ON h.id = v.task_id
WHERE v.event IN ('rescued', 'interrupted') AND h.type = 'beacon'
"""


async def _check_handlers(stage: Stage, report: Report) -> None:
    """Code whose task was taken over had ended before the lease under which it ran."""
    lines = [line for line in stage.server.read_log().splitlines() if '"beacon ended"' in line]
    ended = {(entry["task_id"], entry["fence"]): entry["at"] for entry in map(json.loads, lines)}
    async with stage.place.admin() as admin:
        taken: list[Any] = await admin.fetch(TAKEN)
    margins = []
    for row in taken:
        if row["executor"] not in stage.leases:
            continue
        moment = ended.get((row["task"], row["fence"]))
        if moment is None:
            report.expect(False, f"run {row['fence']} of task {row['task']} never ended")
        else:
            margins.append(stage.leases[row["executor"]] - moment)
    late = [round(-margin, 2) for margin in margins if margin < -stage.scale.fence_slack]
    report.expect(not late, f"{len(late)} handlers ended after their lease, by s: {late[-5:]}")
    report.expect(bool(margins), "no task was taken over: this proves nothing")
    report.figures["handlers that fenced themselves"] = len(margins)
    report.figures["before the lease ended, s min"] = round(min(margins, default=0), 2)


def _check_answers(stage: Stage, report: Report) -> None:
    answers = stage.place.history.read("answer")
    odd = sorted({str(one["status"]) for one in answers} - {"200", "503"})
    report.expect(not odd, f"answers that no caller can act upon: {odd}")
    strikes = [fault["at"] for fault in stage.place.history.read("fault")]
    caught = [one for one in answers if _is_caught(one, strikes)]  # their statement is on its way already
    for these, seconds in (
        ([one for one in answers if one not in caught], ANSWER_SECONDS),
        (caught, WEB_ANSWER_SECONDS),
    ):
        bound = seconds + 1 + stage.scale.slack
        slow = sorted(one["took"] for one in these if one["took"] > bound)
        report.expect(not slow, f"{len(slow)} answers took longer than {bound} s: {slow[-5:]}")
    report.figures["answers"] = len(answers)
    report.figures["slowest answer s"] = max(one["took"] for one in answers)
    report.figures["calls caught in the midst"] = len(caught)


def _is_caught(answer: dict[str, Any], strikes: list[float]) -> bool:
    """Whether the call was under way when the link went bad."""
    return any(answer["began"] <= strike + 0.01 and answer["at"] >= strike for strike in strikes)
