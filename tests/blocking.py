"""Functions that tests call in worker processes (well behaved, endless, greedy, crashing) and how tests see what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.worker_main import ANSWER
from services.errors import Fault, Invalid


@dataclass(frozen=True, slots=True)
class Facts:
    """What a worker process sees of itself."""

    pid: int
    session: int
    niceness: int
    environment: dict[str, str]
    open_files: dict[int, str]


class Stubborn(Exception):
    """Cannot be copied: it takes two arguments and remembers one."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def add(left: int, right: int) -> int:
    return left + right


def facts() -> Facts:
    handles = Path("/proc/self/fd")
    open_files = {}
    for handle in os.listdir(handles):
        try:
            open_files[int(handle)] = os.readlink(handles / handle)
        except OSError:
            continue  # the one that was used for the list
    return Facts(os.getpid(), os.getsid(0), os.nice(0), dict(os.environ), open_files)


def spin(mark: str) -> None:
    """Never end, holding the interpreter's lock, and leave a note of the process."""
    Path(mark).write_text(f"{os.getpid()}", encoding="utf-8")
    while True:
        pass


def spin_with_company(mark: str) -> None:
    """The same, having started a process of its own."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(mark).write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
    while True:
        pass


def sleep(seconds: float, mark: str | None = None) -> float:
    if mark is not None:
        Path(mark).write_text(f"{os.getpid()}", encoding="utf-8")
    time.sleep(seconds)
    return seconds


def meet(mark: str, other: str) -> str:
    """Leave a note and block until somebody leaves another one, which takes an event loop that goes on."""
    Path(mark).write_text(f"{os.getpid()}", encoding="utf-8")
    deadline = time.monotonic() + 20
    while not Path(other).exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody came")
        time.sleep(0.01)
    return "met"


def burst() -> int:
    """Take memory until there is none."""
    kept = []
    while True:
        kept.append(bytearray(8 << 20))


def take(megabytes: int) -> int:
    return len(bytearray(megabytes << 20))


def vanish(status: int) -> None:
    os._exit(status)


def crash() -> None:
    """Read where there is nothing, as a broken parser does."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def crash_parser(source: str, mime: str, title: str) -> None:
    """What a hostile document does to a parser with a hole in it."""
    crash()


def hang_up() -> None:
    """Close everything and stay."""
    os.closerange(3, 256)
    signal.pause()


def flood(kind: bytes) -> None:
    """Announce a terabyte in the place of an answer and begin with it, as code may that has broken out of a parser."""
    for number in range(3, 256):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as answering:
            answering.sendall(ANSWER.pack(kind, 1 << 40) + bytes(16 << 20))
    vanish(0)


def lie(kind: bytes, body: bytes) -> None:
    """Send an answer that server/worker_main.py would not send."""
    for number in range(3, 256):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as answering:
            answering.sendall(ANSWER.pack(kind, len(body)) + body)
    vanish(0)


def inflate(megabytes: int) -> bytes:
    return bytes(megabytes << 20)


def refuse() -> None:
    raise Invalid("it has no text", slug="empty", faults=(Fault("/text", "is empty"),))


def stumble() -> None:
    raise ValueError("no luck")


def be_stubborn() -> None:
    raise Stubborn("this", "that")


def stumble_over_a_stranger() -> None:
    import zipapp  # what the server has not imported

    raise zipapp.ZipAppError("no such thing")


def give_a_stranger() -> Any:
    """Return what holds only data, but whose class the server would have to import."""
    import sched

    return sched.Event(1.0, 0, 0, print, (), {})


def give_code() -> Any:
    """Return something whose reading would run code in the server."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("exit 1",)

    return Bomb()


def alive(pid: int) -> bool:
    """Whether the process runs; one that is only waiting to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def marked(mark: Path) -> list[int]:
    """Wait until a function has left its note and return the pids in it."""
    async with asyncio.timeout(30):
        while not (mark.exists() and mark.read_text(encoding="utf-8")):
            await asyncio.sleep(0.005)
    return [int(pid) for pid in mark.read_text(encoding="utf-8").split()]


async def gone(*pids: int, seconds: float = 10) -> float:
    """Wait until none of the processes runs; returns how long that took."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while any(alive(pid) for pid in pids):
            await asyncio.sleep(0.002)
    return time.monotonic() - started
