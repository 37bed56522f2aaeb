"""The starter of worker processes: a small clean process that imports a function's module once and forks it for every call.

    server ──"start" + one end of a socket pair──> starter ──fork──> worker process ──answer over that socket──> server
           ──"kill"──────────────────────────────>         ──────── how it ended ────────────────────────────> server

It is made by exec, so nothing of the server is in it: no sockets, no connections, no secrets. It ends, and kills what it has
started, when the server is gone, however the server went; a worker process ends when its starter does. It has no threads and
must get none: modules that start some when they are imported do not belong into worker processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import enum
import gc
import importlib
import io
import os
import pickle
import resource
import select
import signal
import socket
import struct
import sys
import traceback
from typing import Any, NoReturn

START, KILL = b"S", b"K"
ORDER = struct.Struct("!cQ")  # server to starter: what, and the number of the call
EXIT = struct.Struct(
    "!Qi"
)  # starter to server: the number of the call, and its wait status or -errno of a fork that failed
REQUEST = struct.Struct(
    "!IQQHQ"
)  # CPU seconds, bytes of memory, bytes of result, length of the module's name and of the call
ANSWER = struct.Struct("!cQ")  # what follows and its length
RESULT, RAISED, TOO_LARGE, NO_MEMORY = b"R", b"E", b"L", b"M"

PR_SET_PDEATHSIG = 1
NICENESS = 5  # the server answers, renews its lease and stops runs while worker processes fill the cores
MAX_TOLD = 16_384  # characters of a message or a traceback
# What may come back beside plain values, data classes, named tuples, enumerations and exceptions.
PLAIN = {
    "builtins": {"complex", "range", "slice", "set", "frozenset", "bytearray"},
    "collections": {"OrderedDict", "deque", "Counter"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "uuid": {"UUID"},
}


class Reader(pickle.Unpickler):
    """Reads an answer. Code that has broken out of a parser could send any pickle: nothing is imported for it, only classes that hold data are made."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class. Raises: pickle.UnpicklingError for one that does not merely hold data, or is not here yet."""
        if module not in sys.modules or name.partition(".")[0] not in vars(sys.modules[module]):
            raise pickle.UnpicklingError(
                f"{module}.{name} does not come back from a worker process: nothing here has imported {module}"
            )
        found = super().find_class(module, name)
        holds_data = isinstance(found, type) and (
            issubclass(found, BaseException | enum.Enum | tuple)
            or dataclasses.is_dataclass(found)
            or name in PLAIN.get(module, ())
        )
        if not holds_data:
            raise pickle.UnpicklingError(
                f"{module}.{name} does not come back from a worker process: return plain values or data classes"
            )
        return found


def read_answer(data: bytes | bytearray) -> Any:
    """Return what a worker process has sent. Raises: pickle.UnpicklingError, or whatever reading a broken pickle does."""
    return Reader(io.BytesIO(data)).load()


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read from a blocking socket. Raises: EOFError."""
    parts = []
    while size:
        part = sock.recv(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Starter:
    """Forks and kills as it is told, and reports every end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._living: dict[int, int] = {}  # call by pid
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._woken, self._wakes = socket.socketpair()

    def run(self) -> None:
        """Serve until the server closes its end or is gone, then kill what is left."""
        # Ctrl-C and a service manager's SIGTERM are for the server, which ends its runs in order and then this process.
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        self._woken.setblocking(False)
        self._wakes.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        gc.disable()
        try:
            while self._serve():
                pass
        except (EOFError, OSError):
            pass  # the server is gone
        finally:
            for pid in self._living:
                self._kill(pid)

    def _serve(self) -> bool:
        ready, _, _ = select.select([self._control, self._woken], [], [])
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
            self._reap()
        if self._control not in ready:
            return True
        data, handles, _, _ = socket.recv_fds(self._control, ORDER.size, 1)
        if not data:
            return False
        data += read_exactly(self._control, ORDER.size - len(data))
        order, call = ORDER.unpack(data)
        if order == START:
            with socket.socket(fileno=handles[0]) as job:
                self._start(call, job)
        else:
            for pid in [pid for pid, started in self._living.items() if started == call]:
                self._kill(pid)
        return True

    def _start(self, call: int, job: socket.socket) -> None:
        try:
            cpu_seconds, memory, most, named, size = REQUEST.unpack(read_exactly(job, REQUEST.size))
            module = read_exactly(job, named).decode()
        except (EOFError, OSError):
            self._report(call, 0)  # given up already
            return
        if module not in sys.modules:
            with contextlib.suppress(BaseException):  # fails again, and is reported, where it is needed
                importlib.import_module(module)
            gc.freeze()  # what is shared with the children stays shared
        try:
            pid = os.fork()
        except OSError as exc:
            self._report(call, -(exc.errno or 1))
            return
        if pid == 0:
            self._become_worker(job, cpu_seconds, memory, most, size)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        self._living[pid] = call

    def _become_worker(
        self, job: socket.socket, cpu_seconds: int, memory: int, most: int, size: int
    ) -> NoReturn:
        try:
            starter = os.getppid()
            if self._libc is not None:
                self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != starter:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for foreign in (self._control, self._woken, self._wakes):
                foreign.close()
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)
            gc.enable()
            limit(cpu_seconds, memory)
            answer(job, size, most)
            sys.stderr.flush()
        finally:
            os._exit(0)

    def _reap(self) -> None:
        while self._living:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            self._kill(ended.si_pid)  # what it has started itself; its pid is taken until the next line
            _, status = os.waitpid(ended.si_pid, 0)
            if (call := self._living.pop(ended.si_pid, None)) is not None:
                self._report(call, status)

    def _kill(self, pid: int) -> None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except OSError:  # it has not got its group yet, or has just gone
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _report(self, call: int, status: int) -> None:
        self._control.sendall(EXIT.pack(call, status))


def limit(cpu_seconds: int, memory: int) -> None:
    """Bound this process: its processor time, and how much more memory it may take than it has now."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    if sys.platform == "linux":
        with open("/proc/self/oom_score_adj", "w") as file, contextlib.suppress(OSError):
            file.write("800")  # when the machine runs out of memory this goes, not the server
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, resource.RLIM_INFINITY))


def answer(job: socket.socket, size: int, most: int) -> None:
    """Read the call, make it and send what came of it."""
    try:
        function, arguments = pickle.loads(read_exactly(job, size))  # noqa: S301 - from our own server
        data = pickle.dumps(function(*arguments), protocol=5)
        kind = RESULT
        if len(data) > most:
            kind, data = TOO_LARGE, str(len(data)).encode()
    except MemoryError:
        kind, data = NO_MEMORY, b""
    except BaseException as exc:  # noqa: BLE001 - whatever it is goes back to the one who called
        kind, data = _raised(exc)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with contextlib.suppress(OSError):  # nobody waits any longer
        job.sendall(ANSWER.pack(kind, len(data)) + data)


def _raised(exc: BaseException) -> tuple[bytes, bytes]:
    """Return the exception's class and words, with itself where it can be read again."""
    where = "".join(traceback.format_exception(exc))[-MAX_TOLD:]
    copied = b""
    with contextlib.suppress(Exception):  # a class that cannot be copied is told in words
        exc.add_note(f"In the worker process:\n{where}")
        data = pickle.dumps(exc, protocol=5)
        if len(data) <= 4 * MAX_TOLD and type(read_answer(data)) is type(exc):
            copied = data
    return RAISED, pickle.dumps((type(exc).__name__, str(exc)[:MAX_TOLD], where, copied), protocol=5)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as opened:
        Starter(opened).run()
