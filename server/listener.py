"""LISTEN and NOTIFY as hints between replicas: work has come, a run was cancelled. Everything also works without them.

One connection per process, proven by a notification to itself: a paused link stays open and silent for ever otherwise.
Nothing is notified inside a transaction that inserts: PostgreSQL holds a global lock through such commits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

import orjson

from server.database import Database
from server.supervisor import Beat
from services.tasks import Cancelled
from sql import SQL, Connection

log = logging.getLogger(__name__)

WAKE, CONTROL, PROBE = "galley_wake", "galley_control", "galley_probe"
DEBOUNCE_SECONDS = 0.1
PROBE_ANSWER_SECONDS = 3.0
CANCELS_PER_NOTICE = 100  # of about 60 bytes each; a payload may have 8,000


async def send_cancelled(connection: Connection, sender: str, cancelled: Sequence[Cancelled]) -> None:
    """Tell every process but *sender* to stop these runs. *connection*: outside a transaction."""
    for start in range(0, len(cancelled), CANCELS_PER_NOTICE):
        runs = [
            [str(c.task_id), str(c.executor_id), c.fence]
            for c in cancelled[start : start + CANCELS_PER_NOTICE]
        ]
        await connection.execute(SQL["executors.notify"], CONTROL, orjson.dumps([sender, runs]).decode())


async def send_work(connection: Connection, sender: str, queues: Iterable[str]) -> None:
    """Tell every process but *sender* that these queues have work. *connection*: outside a transaction."""
    for queue in queues:
        await connection.execute(SQL["executors.notify"], WAKE, f"{sender} {queue}")


class Listener:
    """Sends and receives hints. `on_wake(queue)` and `on_cancelled(runs)` are called for what other replicas tell."""

    def __init__(
        self,
        database: Database,
        *,
        probe_seconds: float,
        on_wake: Callable[[str], None],
        on_cancelled: Callable[[list[Cancelled]], object],
    ) -> None:
        self._database = database
        self._probe_seconds = probe_seconds
        self._on_wake, self._on_cancelled = on_wake, on_cancelled
        self._me = secrets.token_hex(4)
        self._queues: set[str] = set()
        self._cancelled: list[Cancelled] = []
        self._to_send = asyncio.Event()
        self._urgent = asyncio.Event()  # a cancel does not wait for the next time that wake-ups may be sent
        self._probe = ""
        self._probe_answered = asyncio.Event()

    def tell_work(self, queue: str) -> None:
        """Tell other replicas, soon and at most every 100 ms, that *queue* has work."""
        self._queues.add(queue)
        self._to_send.set()

    def tell_cancelled(self, cancelled: Iterable[Cancelled]) -> None:
        """Tell other replicas at once to stop these runs."""
        self._cancelled.extend(cancelled)
        self._to_send.set()
        self._urgent.set()

    async def keep(self, beat: Beat) -> None:
        """Listen, send and probe until cancelled. Raises: when the connection is lost or silent; the supervisor starts it again."""
        connection = await self._database.dedicated("listener")
        try:
            for channel in (WAKE, CONTROL, PROBE):
                await connection.add_listener(channel, self._receive)
            self._on_wake("")  # whatever was said while nobody listened
            async with asyncio.TaskGroup() as group:
                lock = asyncio.Lock()
                group.create_task(self._keep_sending(connection, lock))
                group.create_task(self._keep_probing(connection, lock, beat))
        finally:
            connection.terminate()

    async def _keep_sending(self, connection: Connection, lock: asyncio.Lock) -> None:
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            self._urgent.clear()
            queues, self._queues = self._queues, set()
            cancelled, self._cancelled = self._cancelled, []
            async with lock, asyncio.timeout(PROBE_ANSWER_SECONDS):
                await send_cancelled(connection, self._me, cancelled)
                await send_work(connection, self._me, queues)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEBOUNCE_SECONDS):
                    await self._urgent.wait()

    async def _keep_probing(self, connection: Connection, lock: asyncio.Lock, beat: Beat) -> None:
        while True:
            self._probe = f"{self._me} {secrets.token_hex(4)}"
            self._probe_answered.clear()
            async with asyncio.timeout(PROBE_ANSWER_SECONDS):
                async with lock:
                    await connection.execute(SQL["executors.notify"], PROBE, self._probe)
                await self._probe_answered.wait()
            beat()
            await asyncio.sleep(self._probe_seconds)

    def _receive(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        text = str(payload)
        if channel == PROBE:
            if text == self._probe:
                self._probe_answered.set()
            return
        try:
            if channel == WAKE:
                sender, _, queue = text.partition(" ")
                if sender != self._me:
                    self._on_wake(queue)
                return
            sender, runs = orjson.loads(text)
            if sender != self._me:
                self._on_cancelled(
                    [Cancelled(task_id=UUID(i), executor_id=UUID(e), fence=f) for i, e, f in runs]
                )
        except (ValueError, TypeError) as exc:
            log.warning("notification not understood", extra={"channel": channel, "error": str(exc)})
