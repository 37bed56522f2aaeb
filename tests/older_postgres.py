"""Runs tests on PostgreSQL 16, the oldest that is supported. The wheel that brings the embedded one brings it along.

    python -m tests.older_postgres tests/sql tests/services/test_tasks.py

What is given goes to pytest. Tests that start an embedded PostgreSQL of their own get the usual one.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from server import cluster

FOLDER = "pginstall"  # of the older PostgreSQL in the wheel
SETTINGS = {
    "max_connections": "200",
    "max_locks_per_transaction": "256",
    "jit": "off",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum_naptime": "15s",
}


def _programs() -> Path:
    return cluster.programs().parents[1] / FOLDER / "bin"


def _run(*command: str | Path) -> None:
    """Run a program of PostgreSQL as somebody whom it serves: it refuses root. Raises: SystemExit with what it said."""
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        account = (str(nobody.pw_uid), str(nobody.pw_gid), "search")
        prefix = (sys.executable, "-I", "-S", str(cluster.UNPRIVILEGED), *account)
    ran = subprocess.run(
        [*prefix, *map(str, command)], env=cluster.ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(f"{Path(command[0]).name}: {ran.stderr or ran.stdout}")


@contextmanager
def running(home: Path) -> Iterator[str]:
    """A cluster in *home*, for as long as this lasts; gives the superuser's address."""
    home.chmod(0o755)
    data, options = home / "cluster", " ".join(f"-c {name}='{value}'" for name, value in SETTINGS.items())
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
    programs = _programs()
    _run(
        programs / "initdb",
        "-D",
        data,
        "-U",
        cluster.SUPERUSER,
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "-N",
    )
    _run(programs / "pg_ctl", "-D", data, "-w", "-l", home / "log", "-o", f"-k '{home}' {options}", "start")
    try:
        yield f"postgresql://{cluster.SUPERUSER}@/postgres?host={quote(str(home), safe='/')}&port={cluster.PORT}"
    finally:
        _run(programs / "pg_ctl", "-D", data, "-w", "-m", "fast", "stop")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="galley-pg-") as folder, running(Path(folder)) as dsn:
        command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
        raise SystemExit(
            subprocess.run(command, env={**os.environ, "TEST_DATABASE_URL": dsn}, check=False).returncode
        )


if __name__ == "__main__":
    main()
