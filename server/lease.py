"""An executor's lease: renewed over a connection of its own, and given up by this process before anyone else may take it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from server.database import Database
from server.supervisor import Beat
from sql import SQL, Connection

log = logging.getLogger(__name__)

RENEW_SECONDS = 3.0  # one renewal may take this long before its connection is dropped
UNKNOWN_SECONDS = (
    5.0  # the answer to a claim takes milliseconds; one that comes later still is refused by the fence
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a lease lasts, how often it is renewed, and when this process stops trusting it."""

    lease: timedelta = timedelta(seconds=20)
    heartbeat: timedelta = timedelta(seconds=4)

    @property
    def self_fence(self) -> timedelta:
        """Counted from when the last successful renewal was sent, on this process's monotonic clock."""
        return self.lease * 0.7


class Lease:
    """Registers this process as an executor and keeps it registered.

    `runs` says which (task, fence) this executor holds and `load` what to report (slots taken, slots leaked, lag in ms). `on_drain` is told
    whether an operator wants it drained; `on_lost` is called with those that are no longer its own, and
    `on_expired` when the lease may have run out: everything must stop, at once and without asking the database.
    What the database says is running here and is not is given back: the answer to its claim was lost on the way.
    """

    def __init__(
        self,
        database: Database,
        *,
        timing: Timing,
        slots: int,
        release: str,
        runs: Callable[[], Mapping[UUID, int]],
        load: Callable[[], tuple[int, int, float]],
        on_lost: Callable[[Mapping[UUID, int]], None],
        on_expired: Callable[[], None],
        on_drain: Callable[[bool], None],
    ) -> None:
        self.executor_id = uuid4()
        self.held = asyncio.Event()
        self._database = database
        self._timing = timing
        self._slots = slots
        self._release = release
        self._runs, self._load = runs, load
        self._on_lost, self._on_expired, self._on_drain = on_lost, on_expired, on_drain
        self._fence_timer: asyncio.TimerHandle | None = None
        self._registering = asyncio.Lock()
        self._given_up = False

    async def keep(self, beat: Beat) -> None:
        """Register and renew until cancelled. Raises: whatever the database raises; the supervisor starts it again."""
        connection = await self._database.dedicated("heartbeat")
        try:
            while True:
                if not self.held.is_set():
                    async with self._registering:
                        await self._register(connection)
                else:
                    await self._renew(connection)
                beat()
                await asyncio.sleep(self._timing.heartbeat.total_seconds())
        finally:
            connection.terminate()

    async def give_up(self) -> None:
        """Sign off: nothing runs here any more and nobody has to wait for the lease to expire."""
        self._given_up = True
        async with self._registering:  # one under way would come after us
            self._stop_timer()
            self.held.clear()
            async with self._database.statement() as db:
                await db.execute(SQL["executors.deregister"], self.executor_id)

    async def _register(self, connection: Connection) -> None:
        if self._given_up:
            return
        sent = asyncio.get_running_loop().time()
        async with asyncio.timeout(RENEW_SECONDS):
            await connection.execute(
                SQL["executors.register"],
                self.executor_id,
                socket.gethostname(),
                os.getpid(),
                self._release,
                self._slots,
                self._timing.lease.total_seconds(),
            )
        self._trust(sent)
        self.held.set()
        log.info("executor registered", extra={"executor_id": str(self.executor_id), "slots": self._slots})

    async def _renew(self, connection: Connection) -> None:
        sent = asyncio.get_running_loop().time()
        runs = self._runs()
        async with asyncio.timeout(RENEW_SECONDS):
            row = await connection.fetchrow(
                SQL["executors.heartbeat"],
                self.executor_id,
                self._timing.lease.total_seconds(),
                list(runs),
                list(runs.values()),
                *self._load(),
            )
        assert row is not None
        if not self.held.is_set():
            return  # given up or expired while the answer was on its way
        if not row["alive"]:
            self._expire()
            return
        self._trust(sent)
        self._on_drain(row["draining"])
        if row["lost"]:
            self._on_lost({task_id: runs[task_id] for task_id in row["lost"]})
        await self._give_back_unknown(connection)

    async def _give_back_unknown(self, connection: Connection) -> None:
        async with asyncio.timeout(RENEW_SECONDS):
            given = await connection.fetchval(
                SQL["executors.give_back_unknown"], self.executor_id, list(self._runs()), UNKNOWN_SECONDS
            )
        if given:
            log.warning("claims without an answer given back", extra={"tasks": len(given)})

    def _trust(self, sent: float) -> None:
        self._stop_timer()
        self._fence_timer = asyncio.get_running_loop().call_at(
            sent + self._timing.self_fence.total_seconds(), self._expire
        )

    def _stop_timer(self) -> None:
        if self._fence_timer is not None:
            self._fence_timer.cancel()
            self._fence_timer = None

    def _expire(self) -> None:
        """Fence this process off: its runs may belong to others from now on. It comes back under a new id."""
        self._stop_timer()
        if not self.held.is_set():
            return
        log.warning("executor lease lost", extra={"executor_id": str(self.executor_id)})
        self.held.clear()
        self._on_expired()
        self.executor_id = uuid4()
