"""Runs functions in worker processes that can be killed and are limited: for code that computes, blocks or may crash.

One per server process. The processes are forked by a starter (server/worker_main.py) that is itself started with the first
call, so an installation that never calls has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from server import worker_main
from server.worker_main import ANSWER, EXIT, KILL, ORDER, REQUEST, START
from services.task_types import Permanent, ProcessCrashed, ProcessLimit, Retryable

log = logging.getLogger(__name__)

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
MB = 1 << 20
MAX_WORDS = MB  # of what was raised; an honest process sends a few times worker_main.MAX_TOLD
CLOSE_SECONDS = 2.0
# What a starter knows of the server's environment: no passwords, no keys.
KEPT = {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}


@dataclass(frozen=True, slots=True)
class _Limits:
    """What one call may use. Its time by the clock is that of the run that waits for it."""

    cpu_seconds: float
    memory_mb: int
    result_mb: int


class WorkerProcesses:
    """At most `limit` worker processes at a time; further calls wait for their turn."""

    def __init__(self, *, limit: int) -> None:
        self._turns = asyncio.Semaphore(limit)
        self._starter: _Starter | None = None

    async def run(
        self,
        function: Callable[..., T],
        args: tuple[Any, ...],
        *,
        cpu_seconds: float,
        memory_mb: int,
        result_mb: int,
    ) -> T:
        """Call *function* in a process of its own and return what it returns; cancelling this kills the process.

        Raises: what it raises; ProcessLimit, ProcessCrashed; Permanent when call or result cannot be sent; Retryable.
        """
        limits = _Limits(cpu_seconds, memory_mb, result_mb)
        body = await asyncio.to_thread(_pickle, function, args)
        await self._turns.acquire()
        try:
            call = self._start(function.__module__, limits, len(body))
        except BaseException:
            self._turns.release()
            raise
        call.exited.add_done_callback(lambda _: self._turns.release())
        try:
            answer: T = await _exchange(call, body, limits)
            return answer
        finally:
            call.end()

    async def close(self) -> None:
        """Kill whatever is left and end the starter."""
        if self._starter is not None:
            starter, self._starter = self._starter, None
            await starter.close()

    def _start(self, module: str, limits: _Limits, size: int) -> _Call:
        for _ in range(2):  # a starter that has died is only noticed by talking to it
            if self._starter is None or self._starter.dead:
                self._starter = _Starter()
            with contextlib.suppress(OSError):
                return self._starter.start(module, limits, size)
            self._starter.give_up()
        raise Retryable("no worker process could be started")


class _Starter:
    """The server's side of one starter."""

    def __init__(self) -> None:
        self.dead = False
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", worker_main.__name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what code prints is no output of the server
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd=ROOT,
                env={
                    name: value
                    for name, value in os.environ.items()
                    if name in KEPT or name.startswith("PYTHON")
                },
            )
        self._calls: dict[int, _Call] = {}
        self._number = 0
        self._reading = asyncio.create_task(self._read_exits(), name="worker processes")
        log.info("worker processes made ready", extra={"pid": self._process.pid})

    def start(self, module: str, limits: _Limits, size: int) -> _Call:
        """Have a process forked. Raises: OSError when the starter does not listen any more."""
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            named = module.encode()
            request = REQUEST.pack(
                math.ceil(limits.cpu_seconds), limits.memory_mb * MB, limits.result_mb * MB, len(named), size
            )
            try:
                ours.send(request + named)
                self._number += 1
                socket.send_fds(self._control, [ORDER.pack(START, self._number)], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        exited = asyncio.get_running_loop().create_future()
        call = self._calls[self._number] = _Call(self, self._number, ours, exited)
        return call

    def kill(self, number: int) -> None:
        """Kill a call's process, if there is still one."""
        if number in self._calls and not self.dead:
            try:
                socket.send_fds(self._control, [ORDER.pack(KILL, number)], [])
            except OSError:
                self.give_up()

    def give_up(self) -> None:
        """Kill the starter, and with it all that it has started."""
        self.dead = True
        self._process.kill()

    async def close(self) -> None:
        """End the starter and wait until it has gone."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        done, _ = await asyncio.wait([self._reading], timeout=CLOSE_SECONDS)
        if not done:
            self.give_up()
            await self._reading

    async def _read_exits(self) -> None:
        loop = asyncio.get_running_loop()
        data = b""
        try:
            while received := await loop.sock_recv(self._control, 4096):
                data += received
                while len(data) >= EXIT.size:
                    number, status = EXIT.unpack_from(data)
                    data = data[EXIT.size :]
                    self._calls.pop(number).exited.set_result(status)
        except OSError as exc:
            log.warning("worker processes lost", extra={"error": str(exc)})
        finally:
            self.give_up()
            self._process.wait()
            self._control.close()
            for call in self._calls.values():
                with contextlib.suppress(OSError):  # ended already
                    call.socket.shutdown(socket.SHUT_RDWR)  # whoever waits for an answer gets none
                call.exited.set_result(None)
            self._calls.clear()


@dataclass(slots=True)
class _Call:
    """One call under way. `exited` gets the wait status; None when the starter has gone, -errno when none was forked."""

    starter: _Starter
    number: int
    socket: socket.socket
    exited: asyncio.Future[int | None]

    def end(self) -> None:
        """Leave nothing behind. A process that has answered is about to end by itself."""
        self.starter.kill(self.number)
        self.socket.close()


async def _exchange(call: _Call, body: bytes, limits: _Limits) -> Any:
    try:
        await asyncio.get_running_loop().sock_sendall(call.socket, body)
        kind, size = ANSWER.unpack(await _receive(call.socket, ANSWER.size))
        if kind == worker_main.NO_MEMORY:
            raise ProcessLimit(f"the worker process needed more than {limits.memory_mb} MB of memory")
        most = limits.result_mb * MB if kind == worker_main.RESULT else MAX_WORDS
        if size > most:  # not what server/worker_main.py sends: it looks itself
            raise ProcessLimit(f"the worker process sent {size} bytes; at most {most // MB} MB are taken")
        data = await _receive(call.socket, size)
    except (EOFError, ConnectionError):
        call.starter.kill(call.number)  # it may live on, having closed its end
        raise _death(await asyncio.shield(call.exited), limits) from None
    return await _read(kind, data, limits)


async def _read(kind: bytes, data: bytes | bytearray, limits: _Limits) -> Any:
    """Return the result, or raise what was raised. Whoever has taken over the process may have sent anything."""
    if kind == worker_main.TOO_LARGE and data.isdigit():
        raise ProcessLimit(
            f"the worker process returned {data.decode()} bytes; at most {limits.result_mb} MB are taken"
        )
    if kind not in (worker_main.RESULT, worker_main.RAISED):
        raise Permanent(f"the result of the worker process cannot be read: it is no {kind!r}")
    try:
        value = await asyncio.to_thread(worker_main.read_answer, data)
    except Exception as exc:  # a pickle can fail in any way
        raise Permanent(f"the result of the worker process cannot be read: {exc}") from exc
    if kind == worker_main.RESULT:
        return value
    match value:
        case (str(name), str(message), str(where), bytes(copied)):
            raise _raised(name, message, where, copied)
        case _:
            raise Permanent("the result of the worker process cannot be read: it is no error")


def _raised(name: str, message: str, where: str, copied: bytes) -> Exception:
    """Return the exception itself, or one with its words where its class cannot be made here."""
    with contextlib.suppress(Exception):  # a pickle can fail in any way
        raised = worker_main.read_answer(copied)
        if isinstance(raised, Exception):
            return raised
    error = Retryable(message or name, slug=name)
    error.add_note(f"In the worker process:\n{where}")
    return error


async def _receive(sock: socket.socket, size: int) -> bytearray:
    """Read exactly *size* bytes. Raises: EOFError, OSError."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < size:
        part = await loop.sock_recv(sock, min(size - len(data), MB))
        if not part:
            raise EOFError
        data += part
    return data


def _pickle(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """Return the call as bytes. Raises: Permanent when it cannot be made elsewhere."""
    if function.__module__ == "__main__" or "<" in function.__qualname__:
        raise Permanent(
            f"{function.__qualname__} cannot run in a worker process: only a function of a module can, named as it is there"
        )
    try:
        return pickle.dumps((function, args), protocol=5)
    except Exception as exc:  # an argument's own code may fail in any way
        raise Permanent(
            f"the call of {function.__qualname__} cannot be sent to a worker process: {exc}"
        ) from exc


def _death(status: int | None, limits: _Limits) -> Exception:
    """Return the error that says how a process without an answer has ended."""
    if status is None:
        return Retryable("the process that starts worker processes has died")
    if status < 0:
        return Retryable(f"no worker process could be started: {os.strerror(-status)}")
    if not os.WIFSIGNALED(status):
        return ProcessCrashed(
            f"the worker process ended itself with exit status {os.waitstatus_to_exitcode(status)}"
        )
    killer = os.WTERMSIG(status)
    if killer == signal.SIGXCPU:
        return ProcessLimit(f"the worker process used more than {limits.cpu_seconds:g} s of processor time")
    if killer == signal.SIGKILL:
        return ProcessCrashed(
            "the worker process was killed or hung up; perhaps the machine had no memory left"
        )
    return ProcessCrashed(
        f"the worker process died of {signal.Signals(killer).name}; it may use {limits.memory_mb} MB of memory"
    )
