"""Real server processes for experiments: started, killed, stopped in their tracks, and always cleaned up by process id."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from aiohttp import ClientSession, ClientTimeout

from server import embedded, migrations
from server.database import Database
from server.embedded import EmbeddedPostgres
from tests.chaos import types
from tests.chaos.history import History
from tests.patience import patiently

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0  # a loaded machine
SERVES, RUNS = "Galley serves at ", "engine runs"


class Nursery:
    """Forks processes that have everything imported; see nursery.py. One may serve many experiments."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._say() == "ready"

    def fork(self, order: dict[str, Any]) -> int:
        """Start a process and return its id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._say())

    def close(self) -> None:
        """End it, and with it every process it has started."""
        self._process.communicate()

    def _say(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The engine's intervals in an experiment, in seconds."""

    lease: float = 3.0
    heartbeat: float = 0.6
    rescue: float = 0.5
    poll: float = 0.5
    grace: float = 1.0

    @property
    def restart_bound(self) -> float:
        """How long after a kill what was lost may take to start again."""
        return self.lease + self.rescue + self.poll + 1

    def environment(self) -> dict[str, str]:
        """Return these as settings."""
        return {
            "LEASE_SECONDS": str(self.lease),
            "HEARTBEAT_SECONDS": str(self.heartbeat),
            "RESCUE_SECONDS": str(self.rescue),
            "POLL_SECONDS": str(self.poll),
            "GRACE_SECONDS": str(self.grace),
            "DRAIN_SECONDS": str(self.grace),
        }


@dataclass(kw_only=True)
class Child:
    """One process of the experiment."""

    name: str
    pid: int
    log: Path
    url: str = ""
    faults: History
    gone: bool = False

    @property
    def alive(self) -> bool:
        """Whether it exists; a stopped one does. Once gone it stays gone, whoever gets its number next."""
        if not self.gone:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                self.gone = True
        return not self.gone

    @property
    def exit_code(self) -> int | None:
        """What it ended with by itself; None while it lives, when a signal took it, and for `program` and `module`."""
        _, found, code = self.read_log().rpartition("process ended with ")
        return int(code.split()[0]) if found else None

    def send(self, number: signal.Signals) -> None:
        """Send a signal and log it as a fault."""
        self.faults.add("fault", process=self.name, pid=self.pid, signal=number.name)
        os.kill(self.pid, number)

    async def ended(self, seconds: float = 30) -> None:
        """Wait until it is gone. Raises: TimeoutError."""
        async with asyncio.timeout(seconds):
            while self.alive:
                await asyncio.sleep(0.01)

    async def says(self, words: str, seconds: float = START_SECONDS) -> str:
        """Return the first line of its log with *words*. Raises: AssertionError with the log when it ends or takes too long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            text = self.log.read_text(errors="replace") if self.log.exists() else ""
            for line in text.splitlines(keepends=True):
                if words in line and line.endswith("\n"):
                    return line.strip()
            if not self.alive:
                break
            await asyncio.sleep(0.02)
        raise AssertionError(f"{self.name} did not say {words!r}:\n{self.read_log()[-3000:]}")

    def read_log(self) -> str:
        """Return what it printed and logged so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def count_in_log(self, message: str) -> int:
        """Return how many lines say *message*."""
        return sum(message in line for line in self.read_log().splitlines())


@dataclass(kw_only=True)
class Place:
    """Where an experiment happens: a database, a folder, a history of faults, and processes."""

    admin_dsn: str
    web_dsn: str
    folder: Path
    pace: Pace = field(default_factory=Pace)
    model_url: str = "http://127.0.0.1:9/v1"  # nobody listens there
    model: str = "none"
    nursery: Nursery
    postgres: EmbeddedPostgres | None = None  # where the experiment may do to it what it likes
    children: list[Child] = field(default_factory=list)
    history: History = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.history = History(self.folder / "history.jsonl")

    def environment(self, **more: str) -> dict[str, str]:
        """Return the settings of a server here."""
        return {
            "DATABASE_URL": self.web_dsn,
            "MIGRATE_DATABASE_URL": self.admin_dsn,
            "DATA_DIR": str(self.folder / "data"),
            "HOST": "127.0.0.1",
            "PORT": "0",
            "OPENAI_BASE_URL": self.model_url,
            "OPENAI_API_KEY": "none",
            "OPENAI_MODEL": self.model,
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "INFO",
            "WEB_CONNECTIONS": "8",
            **self.pace.environment(),
            **more,
        }

    async def start(
        self,
        name: str,
        how: str = "serve",
        *,
        self_fence: bool = True,
        faults: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
    ) -> Child:
        """Start a process and wait until it works. *how*: serve, engine or program (see nursery.py)."""
        child = await self.spawn(name, how, ["serve"], self_fence=self_fence, faults=faults, env=env)
        line = await child.says(RUNS if how == "engine" else SERVES)
        child.url = line.partition(SERVES)[2]
        return child

    async def spawn(
        self,
        name: str,
        how: str,
        arguments: list[str],
        *,
        self_fence: bool = True,
        faults: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
    ) -> Child:
        """Start a process without waiting for anything."""
        log = self.folder / f"{name}-{len(self.children)}.log"
        order = {
            "how": how,
            "arguments": arguments,
            "log": str(log),
            "self_fence": self_fence,
            "faults": faults,
            "env": self.environment(**(env or {})),
        }
        pid = self.nursery.fork(order)
        child = Child(name=name, pid=pid, log=log, faults=self.history)
        self.children.append(child)
        self.history.add("start", process=name, pid=pid, how=how)
        return child

    async def key(self, role: str = "admin", tenant: str = "chaos") -> str:
        """Make an API key as an operator would, with `main.py key create`."""
        child = await self.spawn("key", "command", ["key", "create", "--tenant", tenant, "--role", role])
        await child.ended(START_SECONDS)
        keys = [line for line in child.read_log().splitlines() if line.startswith("gk_")]
        assert len(keys) == 1, child.read_log()
        return keys[0]

    async def post(self, client: ClientSession, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create something and return the answer, asking again under one key while the server says that it is busy."""
        headers = {"Idempotency-Key": secrets.token_hex(8)}

        async def ask() -> tuple[int, dict[str, Any]]:
            async with client.post(path, json=body, headers=headers) as response:
                return response.status, await response.json()

        status, answer = await patiently(ask)
        assert status == 201, answer
        return answer

    @asynccontextmanager
    async def client(self, url: str, key: str, *, patience: float = 10) -> AsyncIterator[ClientSession]:
        """A client of one server, that gives up after so many seconds."""
        headers = {"Authorization": f"Bearer {key}"}
        async with ClientSession(url, headers=headers, timeout=ClientTimeout(total=patience)) as session:
            yield session

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A superuser's connection, for the checker."""
        connection = await asyncpg.connect(self.admin_dsn)
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """The database as a server sees it, for a load that does not go through HTTP."""
        opened = Database(self.web_dsn)
        await opened.open()
        try:
            yield opened
        finally:
            await opened.close()

    async def drain(self, seconds: float) -> float:
        """Wait until every task has ended and return how long that took. Raises: AssertionError with what is left."""
        began = time.monotonic()
        async with self.admin() as admin:
            while left := await admin.fetch("SELECT state, count(*) AS n FROM tasks GROUP BY state"):
                if time.monotonic() > began + seconds:
                    states = ", ".join(f"{row['n']} {row['state']}" for row in left)
                    raise AssertionError(f"after {seconds} s without faults there are still tasks: {states}")
                await asyncio.sleep(0.05)
        return round(time.monotonic() - began, 2)

    async def clean_up(self) -> None:
        """End every process of this place, whatever state it is in."""
        for child in self.children:
            if child.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
        for child in self.children:
            await child.ended()


@asynccontextmanager
async def place(
    *,
    nursery: Nursery,
    admin_dsn: str,
    web_dsn: str,
    folder: Path,
    pace: Pace | None = None,
    **more: Any,
) -> AsyncIterator[Place]:
    """Yield a place on a migrated database and leave no process behind."""
    made = Place(
        nursery=nursery, admin_dsn=admin_dsn, web_dsn=web_dsn, folder=folder, pace=pace or Pace(), **more
    )
    async with made.admin() as admin:
        await admin.execute(types.MARKS)
    try:
        yield made
    finally:
        await made.clean_up()
        made.history.close()


@asynccontextmanager
async def own_place(*, nursery: Nursery, folder: Path, pace: Pace | None = None) -> AsyncIterator[Place]:
    """Yield a place on a durable PostgreSQL of its own, and leave neither running."""
    postgres = await asyncio.to_thread(embedded.start_postgres, folder / "cluster", durable=True)
    try:
        await migrations.migrate(postgres.admin_dsn)
        async with place(
            nursery=nursery,
            admin_dsn=postgres.admin_dsn,
            web_dsn=postgres.web_dsn,
            folder=folder / "place",
            pace=pace,
            postgres=postgres,
        ) as made:
            yield made
    finally:
        await asyncio.to_thread(embedded.stop_postgres, postgres)
