"""Claims tasks, runs their code, and hands over how it ended. One per process.

    claimer ──> _run (one asyncio task per run) ──> finisher ──> PostgreSQL
                     ▲ stop(): cancelled, timed out, lease lost, shutting down

A run is stopped by cancelling its asyncio task, once, with a reason. Code that swallows the cancellation keeps its slot: after
the grace it counts as leaked, its outcome is written without it, and whatever it returns is refused by the fence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from server import logs
from server.claimer import Claimer
from server.database import Database
from server.finisher import Finisher, Outcome
from server.lease import Lease
from server.options import Options
from server.outcomes import outcome_of
from server.supervisor import Beat, Supervisor
from server.worker_processes import WorkerProcesses
from services import task_types
from services.embeddings import Embedder
from services.errors import StaleAttempt
from services.llm import Provider, TaskModel
from services.task_context import Run, Suspended, TaskContext
from services.task_types import NotKnownHere
from services.tasks import Cancelled

log = logging.getLogger(__name__)

FINISHERS = 2  # one writes a batch while the commit of the other reaches the disk: see DECISIONS for what that gives, and where nothing
DEADLINE_SECONDS = 0.1  # how much longer than its time-out a run may take; time-outs are whole seconds
STOP_REASONS_WITHOUT_OUTCOME = ("cancelled", "lease lost", "shutdown")


@dataclass(slots=True)
class _Running:
    """A run under way in this process."""

    run: Run
    started: float
    handle: asyncio.Task[None] | None = None
    begun: bool = False
    stop_reason: str = ""
    leaked: bool = False
    watched: tuple[TaskContext, float] | None = None  # of types with a progress_timeout, and that in seconds

    def has_stalled(self, now: float) -> bool:
        """Whether it has shown no sign of progress for longer than its type allows."""
        if self.watched is None:
            return False
        context, seconds = self.watched
        return max(self.started, context.alive_at) + seconds <= now

    @property
    def deadline(self) -> float:
        """When its time is up, on the monotonic clock."""
        return self.started + self.run.seconds_left


class Executor:
    """Runs tasks of every queue in up to `options.slots` slots."""

    def __init__(
        self,
        database: Database,
        *,
        options: Options,
        provider: Provider | None = None,
        embedder: Embedder | None = None,
        on_ended: Callable[[Run, str, float], None] = lambda run, state, seconds: None,
        on_scheduled: Callable[[], None] = lambda: None,
        on_claimed: Callable[[str, Sequence[float]], None] = lambda queue, waits: None,
    ) -> None:
        self._database = database
        self._options = options
        self._provider, self._embedder = provider, embedder
        self._on_ended, self._on_scheduled = on_ended, on_scheduled
        self._running: dict[tuple[UUID, int], _Running] = {}  # by task and fence
        self._dice = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._stopping = False
        self.lag = 0.0  # as it was last reported, in seconds
        self._lag = 0.0  # how late the event loop was at worst since the last heartbeat, in seconds
        self._looked_at = time.monotonic()  # at deadlines, the latest time
        self._blocked_at = 0.0  # the latest look that came far too late
        self._processes = WorkerProcesses(limit=options.worker_processes)
        self._finisher = Finisher(database, on_written=self._written)
        self.stale_results = 0
        self.lease = self._make_lease()
        self._claimer = Claimer(
            database,
            self.lease,
            poll=(options.poll_min, options.poll_max),
            room=self._room,
            start=self._start,
            dice=self._dice,
            on_claimed=on_claimed,
        )

    def _make_lease(self) -> Lease:
        return Lease(
            self._database,
            timing=self._options.timing,
            slots=self._options.slots,
            release=self._options.release,
            runs=self._list_runs,
            load=self._report,
            blocked=self._was_blocked,
            on_lost=self._stop_lost,
            on_expired=self._stop_expired,
            on_drain=self._hold,
        )

    @property
    def busy(self) -> int:
        """How many slots are taken, leaked ones included."""
        return len(self._running)

    @property
    def leaked(self) -> int:
        """How many slots are held by code that does not end although it was stopped."""
        return sum(running.leaked for running in self._running.values())

    def start(self, supervisor: Supervisor) -> None:
        """Put this executor's loops under *supervisor*."""
        task_types.load_all()
        supervisor.start(
            "heartbeat", self.lease.keep, interval=self._options.timing.heartbeat.total_seconds()
        )
        for number in range(1, FINISHERS + 1):
            supervisor.start(f"finisher {number}", self._finisher.keep, interval=2)
        supervisor.start("claimer", self._claimer.keep, interval=2)
        supervisor.start("deadlines", self._keep_deadlines, interval=1)

    def wake(self, queue: str = "") -> None:
        """Look for work now; *queue* is only a hint. Nothing depends on it but speed."""
        self._claimer.expect(queue)

    def stop_cancelled(self, cancelled: Iterable[Cancelled]) -> list[Cancelled]:
        """Stop the runs of cancelled tasks that are here; return those that are not."""
        elsewhere = []
        for one in cancelled:
            running = self._running.get((one.task_id, one.fence))
            if running is not None:
                self._stop(running, "cancelled")
            elif one.executor_id not in (None, self.lease.executor_id):
                elsewhere.append(one)
        return elsewhere

    async def drain(self, *, hurry: asyncio.Event | None = None) -> None:
        """Stop claiming, let runs end or give them back with their attempt, and sign off. *hurry* skips the waiting."""
        self._stopping = self._claimer.stopped = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.grace.total_seconds()):
                # Else what is being claimed just now would be nobody's, and wait for the rescuer.
                await self._claimer.settle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.drain.total_seconds()):
                await self._until_idle(hurry)
        left = {
            running.run.id: running.run.fence for running in self._running.values() if not running.stop_reason
        }
        for running in list(self._running.values()):
            self._stop(running, "shutdown")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.grace.total_seconds()):
                await self._until_idle(hurry)
                await self._finisher.flushed()
        if left:
            await self.lease.give_back(left)
        await self._processes.close()
        await self.lease.give_up()

    # Run -----------------------------------------------------------------------------------------------------------

    def _room(self) -> int:
        # A third of the slots at a time: one third is claimed and runs while two are being written.
        return min(self._options.slots - len(self._running), max(self._options.slots // 3, 1))

    def _report(self) -> tuple[int, int, float]:
        """Return what operators see of this executor: slots taken, slots leaked, lag in ms."""
        lag, self._lag = self._lag, 0.0
        self.lag = lag
        return self.busy, self.leaked, lag * 1000

    def _start(self, run: Run) -> None:
        running = _Running(run, time.monotonic())
        self._running[run.id, run.fence] = running
        running.handle = asyncio.create_task(self._run(running))  # a name costs as much as the task itself

    async def _run(self, running: _Running) -> None:
        """Run the task's code to its end and hand over the outcome, unless it was stopped for a reason that has none."""
        running.begun = True
        run = running.run
        logs.TASK_ID.set(run.id)  # for this run's records only: an asyncio task has a context of its own
        logs.REQUEST_ID.set(run.request_id)
        ended: Any = None
        try:
            ended = await self._call(running)
        except (asyncio.CancelledError, Suspended, StaleAttempt) as exc:
            ended = exc
        except (GeneratorExit, KeyboardInterrupt):
            raise  # this process ends, not the code
        except BaseException as exc:  # noqa: BLE001 - the one place where code of task types may fail in any way it likes
            ended = _unwrapped(exc)
        if running.leaked:
            self._free(running)
            log.warning("leaked slot freed", extra={"task_id": str(run.id), "fence": run.fence})
            return
        self._hand_over(running, ended)

    async def _call(self, running: _Running) -> Any:
        run = running.run
        task_type = task_types.load_all().get(run.type)
        if task_type is None or task_type.version < run.type_version:
            raise NotKnownHere(f"this release knows no task type {run.type!r} of version {run.type_version}")
        payload = task_type.payload.model_validate(run.payload)
        context = TaskContext(
            run, database=self._database, embedder=self._embedder, processes=self._processes
        )
        if task_type.progress_timeout is not None:
            running.watched = (context, task_type.progress_timeout.total_seconds())
        if (provider := self._provider) is not None:
            context.bind_llm(lambda: TaskModel(provider, self._database, context))
        try:
            return await task_type.run(context, payload)
        finally:
            await context.close()

    def _hand_over(self, running: _Running, ended: Any) -> None:
        outcome = None
        if running.stop_reason not in STOP_REASONS_WITHOUT_OUTCOME:
            outcome = outcome_of(running.run, ended, stop_reason=running.stop_reason, dice=self._dice)
        if outcome is not None:
            self._finisher.put(outcome)
            return
        if isinstance(ended, StaleAttempt):
            self._refused(running.run)
        self._free(running)
        if isinstance(ended, Suspended):
            self._on_ended(running.run, "waiting", time.monotonic() - running.started)

    def _written(self, outcome: Outcome, accepted: bool) -> None:
        running = self._running.get((outcome.run.id, outcome.run.fence))
        if running is not None and not running.leaked:
            self._free(running)
        if not accepted:
            self._refused(outcome.run)
            return
        if outcome.delay:
            self._on_scheduled()
        if running is not None:
            self._on_ended(
                outcome.run, outcome.state or outcome.retry_event, time.monotonic() - running.started
            )

    def _refused(self, run: Run) -> None:
        """Count and tell of a run that came too late with a write or with its result."""
        self.stale_results += 1
        log.warning("stale result refused", extra={"task_id": str(run.id), "fence": run.fence})

    def _free(self, running: _Running) -> None:
        self._running.pop((running.run.id, running.run.fence), None)
        self._claimer.wake()

    def _list_runs(self) -> dict[UUID, int]:
        """Return the fence of each task that runs here. Leaked runs have lost theirs once their end is written."""
        return {
            running.run.id: running.run.fence
            for running in self._running.values()
            if not running.leaked or self._finisher.holds(running.run)
        }

    async def _until_idle(self, hurry: asyncio.Event | None) -> None:
        while self._running and not (hurry is not None and hurry.is_set()):  # noqa: ASYNC110 - many slots, one condition
            await asyncio.sleep(0.02)

    # Stop ----------------------------------------------------------------------------------------------------------

    async def _keep_deadlines(self, beat: Beat) -> None:
        """Stop runs whose time is up. One look at all of them is cheaper than a timer for each that is hardly ever needed."""
        due = time.monotonic()
        while True:
            now = time.monotonic()
            self._lag = max(self._lag, now - due)
            if self._was_blocked(now):
                self._blocked_at = now
            self._looked_at = now
            for running in list(self._running.values()):
                if running.deadline <= now:
                    self._stop(running, "timeout")
                elif running.has_stalled(now):
                    self._stop(running, "stalled")
            beat()
            due = time.monotonic() + DEADLINE_SECONDS
            await asyncio.sleep(DEADLINE_SECONDS)

    def _was_blocked(self, since: float) -> bool:
        """Whether the event loop stood still since then for a tenth of a lease: then code that runs here may have cost the lease."""
        longest = self._options.timing.lease.total_seconds() / 10
        return self._blocked_at >= since or time.monotonic() - self._looked_at > DEADLINE_SECONDS + longest

    def _stop(self, running: _Running, reason: str) -> None:
        if running.stop_reason or running.handle is None:
            return
        running.stop_reason = reason
        running.handle.cancel()
        if not running.begun:
            # Stopped in the very tick it was started in: its code, and _run with it, never begins.
            self._hand_over(running, asyncio.CancelledError())
            return
        asyncio.get_running_loop().call_later(self._options.grace.total_seconds(), self._after_grace, running)

    def _after_grace(self, running: _Running) -> None:
        """Count a run that did not end as leaked, and write its outcome without it."""
        if (
            running.handle is None
            or running.handle.done()
            or self._running.get((running.run.id, running.run.fence)) is not running
        ):
            return
        log.warning(
            "run ignored its cancellation",
            extra={"task_id": str(running.run.id), "type": running.run.type, "reason": running.stop_reason},
        )
        if running.stop_reason not in STOP_REASONS_WITHOUT_OUTCOME:
            outcome = outcome_of(running.run, None, stop_reason=running.stop_reason, dice=self._dice)
            if outcome is not None:
                self._finisher.put(outcome)
        running.leaked = True

    def _stop_lost(self, lost: Mapping[UUID, int]) -> None:
        """Stop runs that the database says are no longer ours, unless their end is just being written."""
        for one in lost.items():
            running = self._running.get(one)
            if running is not None and running.handle is not None and not running.handle.done():
                self._stop(running, "cancelled")

    def _stop_expired(self) -> None:
        self._finisher.drop_all()
        for running in list(self._running.values()):
            if running.handle is not None and running.handle.done():
                self._free(running)
            else:
                self._stop(running, "lease lost")

    def _hold(self, draining: bool) -> None:
        """Claim nothing more while an operator drains this executor. Its runs go on."""
        if not self._stopping and self._claimer.stopped != draining:
            log.info(
                "executor drained" if draining else "executor resumed",
                extra={"executor_id": str(self.lease.executor_id)},
            )
            self._claimer.stopped = draining
            self._claimer.wake()


def _unwrapped(exc: BaseException) -> BaseException:
    """Return what moved the task on where that is in a group: an asyncio.TaskGroup wraps what its children raise."""
    while isinstance(exc, BaseExceptionGroup):
        moved = exc.subgroup((Suspended, StaleAttempt))
        if moved is None:
            break
        exc = moved.exceptions[0]
    return exc
