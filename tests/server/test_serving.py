"""The address a process takes, before it starts anything else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOWHERE = "postgresql://nobody@127.0.0.1:9/nothing"


def serve(**env: str) -> subprocess.CompletedProcess[str]:
    """Run `main.py serve` on a database that does not exist and return how it ended."""
    return subprocess.run(
        [sys.executable, "main.py", "serve"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": NOWHERE, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_taken_port_ends_the_start_with_one_sentence_before_anything_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = serve(PORT=str(port))

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"galley: port {port} on 127.0.0.1 is taken by another program; set PORT to a free one\n"
    )


def test_an_address_that_is_not_here_ends_the_start_with_one_sentence() -> None:
    ended = serve(HOST="192.0.2.1", PORT="0")

    assert ended.returncode == 1
    assert ended.stderr.startswith("galley: cannot listen on 192.0.2.1:0: ")
    assert ended.stderr.count("\n") == 1


def test_a_wrong_database_url_ends_the_start_with_one_sentence() -> None:
    ended = serve(PORT="0")

    assert ended.returncode == 1
    assert ended.stderr.startswith(
        "galley: PostgreSQL does not answer at postgresql://nobody@127.0.0.1:9/nothing: "
    )
    assert ended.stderr.count("\n") == 1
