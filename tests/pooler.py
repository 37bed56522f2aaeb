"""A real PgBouncer in transaction mode between a test and its database."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from server.cluster import UNPRIVILEGED

START_SECONDS = 10.0
CONFIGURATION = """\
[databases]
* = host={host} port={port}
[pgbouncer]
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 500
listen_addr =
unix_socket_dir = {folder}
listen_port = 6432
auth_type = trust
auth_file = {folder}/users
logfile = {folder}/log
pidfile = {folder}/pid
{more}
"""


@asynccontextmanager
async def pooler(dsn: str, *, size: int = 3, ignored: str = "") -> AsyncIterator[str]:
    """Give an address of galley_web in the database of *dsn* through *size* server connections.

    *ignored*: start-up parameters that are dropped; others are refused. Skips where PgBouncer is not installed, except in CI.
    """
    program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        told = "PgBouncer is not installed: apt-get install pgbouncer"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    parts = urlsplit(dsn)
    server = parse_qs(parts.query)
    if "host" not in server:
        pytest.skip("PgBouncer signs in as galley_web on a Unix socket; this database is reached by TCP")
    folder = Path(tempfile.mkdtemp(prefix="galley-pooler-"))
    host, port = server["host"][0], server.get("port", ["5432"])[0]
    more = f"ignore_startup_parameters = {ignored}" if ignored else ""
    (folder / "bouncer.ini").write_text(
        CONFIGURATION.format(host=host, port=port, size=size, folder=folder, more=more)
    )
    (folder / "users").write_text('"galley_web" ""\n')
    words = [program, "-q", str(folder / "bouncer.ini")]
    if os.geteuid() == 0:  # it refuses to run as root
        nobody = pwd.getpwnam("nobody")
        for path in (folder, *folder.iterdir()):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        words = [
            sys.executable,
            "-I",
            "-S",
            str(UNPRIVILEGED),
            str(nobody.pw_uid),
            str(nobody.pw_gid),
            "search",
            *words,
        ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        through = f"postgresql://galley_web@/{parts.path.lstrip('/')}?host={folder}&port=6432"
        await _answers(through, process, folder / "log")
        yield through
    finally:
        process.send_signal(signal.SIGINT if process.poll() is None else 0)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder)


async def _answers(dsn: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a client gets through. Raises: AssertionError with the log."""
    try:
        async with asyncio.timeout(START_SECONDS):
            while process.poll() is None:
                try:
                    connection = await asyncpg.connect(dsn, statement_cache_size=0, timeout=5)
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(0.02)
                else:
                    await connection.close()
                    return
    except TimeoutError:
        pass
    raise AssertionError(f"PgBouncer does not answer: {log.read_text() if log.exists() else 'no log'}")
