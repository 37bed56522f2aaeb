"""How a contender's process is told what to do: one JSON object a line on standard input, one answer a line on standard output.

Every contender does the same few things in its own way (`Contender`). Times are taken where things happen, on the monotonic clock,
which all processes of a machine share. Only the standard library is needed here: peers run in environments of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

LATEST = 2000  # ids of the tasks that ran last; whoever measures asks the database whether these are finished


class Ran:
    """Counts the tasks whose code ran. Each contender's task calls it once with the task's id and does nothing else."""

    def __init__(self) -> None:
        self.latest: deque[Any] = deque(maxlen=LATEST)
        self.expect(0)

    def expect(self, count: int) -> None:
        """Start counting anew, until *count*."""
        self.count, self._expected = 0, count
        self.first = self.last = 0.0
        self.latest.clear()
        self.all = asyncio.Event()

    def __call__(self, task_id: Any) -> None:
        if not self.count:
            self.first = time.monotonic()
        self.count += 1
        self.latest.append(task_id)
        if self.count == self._expected:
            self.last = time.monotonic()
            self.all.set()


class Contender(Protocol):
    """What is measured, in a contender's own way and at its best documented settings."""

    async def open(self, *, install: bool) -> None:
        """Connect; make the schema where *install* says so."""

    async def enqueue(self, count: int, clients: int) -> None:
        """Create *count* tasks, each in a transaction of its own, from *clients* at the same time."""

    async def bulk(self, count: int, size: int) -> None:
        """Create *count* tasks, *size* in a call."""

    async def probe(self) -> float:
        """Create one task as for `enqueue`; return when it was committed."""

    async def start(self, ran: Ran) -> None:
        """Run tasks until `stop`."""

    async def stop(self) -> None:
        """Run no more tasks."""

    async def close(self) -> None:
        """Disconnect."""


async def spread(count: int, clients: int, work: Callable[[], Awaitable[object]]) -> None:
    """Do *work* *count* times in *clients* tasks."""

    async def client(share: int) -> None:
        for _ in range(share):
            await work()

    shares = [count // clients + (number < count % clients) for number in range(clients)]
    await asyncio.gather(*(client(share) for share in shares))


async def _timed(work: Awaitable[object]) -> dict[str, Any]:
    began = time.monotonic()
    await work
    return {"seconds": time.monotonic() - began}


class _Orders:
    """One method an order; what it returns is the answer."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._ran = Ran()
        self.open, self.stop, self.close = contender.open, contender.stop, contender.close

    async def enqueue(self, **sizes: int) -> dict[str, Any]:
        return await _timed(self._contender.enqueue(**sizes))

    async def bulk(self, **sizes: int) -> dict[str, Any]:
        return await _timed(self._contender.bulk(**sizes))

    async def probe(self) -> dict[str, Any]:
        return {"at": await self._contender.probe()}

    async def expect(self, count: int) -> None:
        self._ran.expect(count)

    async def start(self) -> None:
        await self._contender.start(self._ran)

    async def ran(self) -> dict[str, Any]:
        await self._ran.all.wait()
        return {
            "first": self._ran.first,
            "last": self._ran.last,
            "latest": [str(one) for one in self._ran.latest],
        }

    async def count(self) -> dict[str, Any]:
        return {"count": self._ran.count}


async def _serve(contender: Contender) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    orders = _Orders(contender)
    while line := await reader.readline():
        order = json.loads(line)
        answer = await getattr(orders, order.pop("do"))(**order)
        answers.write(json.dumps(answer or {}) + "\n")


def serve(contender: Contender) -> None:
    """Obey until standard input ends."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(contender))
