"""Galley's HTTP side: creating tasks beside a bare handler, and pages beside a large history.

The server is `main.py serve` with ROLE=web in a process of its own, so nothing runs what is created.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from server.database import Database
from services import access
from tests.bench import turns
from tests.bench.bench import Bench, say
from tests.bench.client import Request, load, until_live
from tests.bench.contenders import BARE, GALLEY
from tests.bench.environments import ROOT
from tests.bench.figures import percentile
from tests.bench.process import Fault

CLIENTS = 16
BULK_CLIENTS = 2
BULK = 1000
DATABASE = "bench_http"
TASK = {"type": "noop", "payload": {"seconds": 0}}
PAGES = (
    ("page_list_p95", "/api/v1/tasks"),
    ("page_tasks_p95", "/desk/tasks"),
    ("page_overview_p95", "/desk"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """A server under load: where it is, how its two calls are named, who we are there, and what tells how many tasks it has."""

    name: str
    port: int
    path: str
    headers: dict[str, str]
    database: str
    count: str


async def measure(bench: Bench) -> None:
    """Pages first, beside the history alone; then the creating of tasks, which leaves many behind."""
    key, session = await sign_up(bench)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(galley(bench))
        bare = await stack.enter_async_context(_bare(bench))
        headers = {"Authorization": f"Bearer {key}", "Cookie": f"sid={session}"}
        await _pages(bench, port, headers)
        servers = (
            _Server(
                name=GALLEY.name,
                port=port,
                path="/api/v1/tasks",
                headers={"Authorization": f"Bearer {key}"},
                database=GALLEY.database,
                count="SELECT count(*) FROM tasks",
            ),
            _Server(
                name=BARE.name,
                port=bare,
                path="/tasks",
                headers={},
                database=DATABASE,
                count="SELECT count(*) FROM bare",
            ),
        )
        for number in range(1, bench.sizes.rounds + 1):
            for server in servers:
                say(f"round {number} of {bench.sizes.rounds}: HTTP, {server.name}")
                await _create(bench, server, "http_create", server.path, TASK, tasks=1)
                path, body = f"{server.path}/bulk", {"tasks": [TASK] * BULK}
                await _create(bench, server, "http_bulk", path, body, tasks=BULK)


async def _create(bench: Bench, server: _Server, metric: str, path: str, body: object, *, tasks: int) -> None:
    clients = CLIENTS if tasks == 1 else BULK_CLIENTS
    request = Request("POST", path, server.headers, body, status=201)
    async with bench.admin(server.database) as admin:
        before = await admin.fetchval(server.count)
        await admin.execute("CHECKPOINT")
        took = await load(server.port, request, clients=clients, seconds=bench.sizes.seconds)
        created = await admin.fetchval(server.count) - before
    if created != len(took) * tasks:
        raise Fault(f"{server.name}: {len(took)} calls of {tasks} were answered, {created} tasks are there")
    # A call lasts to its answer, also past the end: busy seconds of all clients, not the clock, are what it took.
    bench.figures.record(metric, server.name, created * clients / sum(took))


async def _pages(bench: Bench, port: int, headers: dict[str, str]) -> None:
    async with bench.admin(GALLEY.database) as admin:
        finished = await admin.fetchval("SELECT count(*) FROM task_history")
    if finished < bench.sizes.history:
        await turns.seed(bench, [GALLEY])
    for _, path in PAGES:
        await load(port, Request("GET", path, headers), clients=1, seconds=0.3)
    for number in range(1, bench.sizes.rounds + 1):
        say(f"round {number} of {bench.sizes.rounds}: pages")
        for metric, path in PAGES:
            took = await load(port, Request("GET", path, headers), clients=1, seconds=bench.sizes.seconds / 2)
            bench.figures.record(metric, GALLEY.name, percentile(took, 95) * 1000)


async def sign_up(bench: Bench) -> tuple[str, str]:
    """Make an API key and the session of a person; return both as they are sent."""
    email = f"bench-{secrets.token_hex(8)}@example.org"
    database = Database(bench.dsn(GALLEY.database, role="web"))
    await database.open()
    try:
        async with database.engine() as db:
            tenant = await access.ensure_tenant(db, "bench")
        async with database.tenant(tenant, "bench") as db:
            _, key = await access.create_api_key(
                db, tenant_id=tenant, name="bench", role="admin", actor="bench"
            )
            await access.create_user(
                db,
                tenant_id=tenant,
                email=email,
                name="Bench",
                password=secrets.token_urlsafe(16),
                role="admin",
            )
        async with database.engine() as db:
            found = await access.find_login(db, email)
        assert found is not None
        async with database.tenant(tenant, "bench") as db:
            return key, await access.open_session(db, found[0])
    finally:
        await database.close()


@asynccontextmanager
async def galley(bench: Bench) -> AsyncIterator[int]:
    """Run Galley's server, which executes nothing, and give its port once it answers."""
    settings = {
        "ROLE": "web",
        "DATABASE_URL": bench.dsn(GALLEY.database, role="web"),
        "MIGRATE_DATABASE_URL": bench.dsn(GALLEY.database),
        "DATA_DIR": str(bench.logs / "galley-data"),
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "OPENAI_MODEL": "none",
        "LOG_FORMAT": "json",
    }
    async with _served(bench, "galley-web", ["main.py", "serve"], settings) as port:
        yield port


@asynccontextmanager
async def _bare(bench: Bench) -> AsyncIterator[int]:
    async with bench.admin() as admin:
        await admin.execute(f"CREATE DATABASE {DATABASE}")
    program = ["-m", "tests.bench.workers.bare_http", bench.dsn(DATABASE), "PORT"]
    async with _served(bench, "bare-web", program, {}) as port:
        yield port


@asynccontextmanager
async def _served(
    bench: Bench, name: str, program: list[str], settings: dict[str, str]
) -> AsyncIterator[int]:
    """Run a server on a free port and give it once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log: Path = bench.logs / f"{name}.log"
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(part if part != "PORT" else str(port) for part in program),
            cwd=ROOT,
            env={**os.environ, **settings, "PORT": str(port)},
            stdout=errors,
            stderr=errors,
            start_new_session=True,
        )
    try:
        await until_live(port)
        yield port
    except TimeoutError:
        raise Fault(f"{name} does not answer\n{log.read_text(errors='replace')[-2000:]}") from None
    finally:
        process.terminate()
        await process.wait()
