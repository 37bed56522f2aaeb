"""An executor's lease: renewed over a connection of its own, and given up by this process before anyone else may take it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
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
# Together longer than any write of a run may take (RULINGS 6).
GIVE_BACK_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a lease lasts, how often it is renewed, and when this process stops trusting it."""

    lease: timedelta = timedelta(seconds=20)
    heartbeat: timedelta = timedelta(seconds=4)

    @property
    def self_fence(self) -> timedelta:
        """Counted from when the last successful renewal was sent, on this process's monotonic clock."""
        return self.lease * 0.7


@dataclass(frozen=True, slots=True)
class _Lost:
    """A lease that ended although this process lives: what ran under it, and whether the event loop had been blocked."""

    executor_id: UUID
    runs: dict[UUID, int]
    blocked: bool


class Lease:
    """Registers this process as an executor and keeps it registered.

    `runs` says which (task, fence) this executor holds and `load` what to report (slots taken, slots leaked, lag in ms). `on_drain` is told
    whether an operator wants it drained; `on_lost` is called with those that are no longer its own, and
    `on_expired` when the lease may have run out: everything must stop, at once and without asking the database.
    What the database says is running here and is not is given back: the answer to its claim was lost on the way.
    A lease that is lost by a process that lives is reported when it registers again, so that its runs do not count as crashed;
    `blocked` says whether the event loop stood still at some time since a given moment: then their attempts count.
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
        blocked: Callable[[float], bool],
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
        self._runs, self._load, self._blocked = runs, load, blocked
        self._lost: list[_Lost] = []
        self._sent = 0.0  # when the last successful renewal was sent
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

    async def give_back(self, runs: Mapping[UUID, int]) -> None:
        """Give runs, by task and fence, back with their attempt. What somebody is writing to is tried again a few times."""
        left = dict(runs)
        async with self._database.statement() as db:
            for pause in (*GIVE_BACK_PAUSES, None):
                row = await db.fetchrow(
                    SQL["executors.give_back"], self.executor_id, list(left), list(left.values())
                )
                assert row is not None
                left = {task_id: left[task_id] for task_id in row["busy"]}
                if not left or pause is None:
                    break
                await asyncio.sleep(pause)
        log.info("runs given back", extra={"runs": len(runs) - len(left), "busy": len(left)})

    async def give_up(self) -> None:
        """Sign off: nothing runs here any more and nobody has to wait for the lease to expire."""
        self._given_up = True
        async with self._registering:  # one under way would come after us
            self._stop_timer()
            self.held.clear()
            async with self._database.statement() as db:
                await self._report_lost(db)
                await db.execute(SQL["executors.deregister"], self.executor_id)

    async def _register(self, connection: Connection) -> None:
        if self._given_up:
            return
        former = [lost.executor_id for lost in self._lost[-1:]]
        sent = time.monotonic()
        async with asyncio.timeout(RENEW_SECONDS):
            await connection.execute(
                SQL["executors.register_anew"] if former else SQL["executors.register"],
                self.executor_id,
                socket.gethostname(),
                os.getpid(),
                self._release,
                self._slots,
                self._timing.lease.total_seconds(),
                *former,
            )
        await self._report_lost(connection)  # after that: what it was told to do is read from its former row
        self._trust(sent)
        self.held.set()
        log.info("executor registered", extra={"executor_id": str(self.executor_id), "slots": self._slots})

    async def _renew(self, connection: Connection) -> None:
        sent = time.monotonic()
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

    async def _report_lost(self, connection: Connection) -> None:
        """Tell of leases that were lost: the runs were stopped, their task need not pass for one that kills its process."""
        while self._lost:
            lost = self._lost[0]
            async with asyncio.timeout(RENEW_SECONDS):
                excused = await connection.fetchval(
                    SQL["executors.report_lost"],
                    lost.executor_id,
                    list(lost.runs),
                    list(lost.runs.values()),
                    not lost.blocked,
                )
            self._lost.pop(0)
            log.info("lost lease reported", extra={"executor_id": str(lost.executor_id), "runs": excused})

    def _trust(self, sent: float) -> None:
        self._stop_timer()
        self._sent = sent
        left = sent + self._timing.self_fence.total_seconds() - time.monotonic()
        self._fence_timer = asyncio.get_running_loop().call_later(left, self._expire)

    def _stop_timer(self) -> None:
        if self._fence_timer is not None:
            self._fence_timer.cancel()
            self._fence_timer = None

    def _expire(self) -> None:
        """Fence this process off: its runs may belong to others from now on. It comes back under a new id."""
        self._stop_timer()
        if not self.held.is_set():
            return
        blocked = self._blocked(self._sent)
        log.warning("executor lease lost", extra={"executor_id": str(self.executor_id), "blocked": blocked})
        self._lost.append(_Lost(self.executor_id, dict(self._runs()), blocked))
        self.held.clear()
        self._on_expired()
        self.executor_id = uuid4()
