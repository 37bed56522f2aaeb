"""Writes down how runs ended: many at once, fenced, again and again until PostgreSQL has answered or the lease is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from server.database import CONNECTION_ERRORS, Database, is_refusal
from server.supervisor import Beat
from services.errors import Unavailable
from services.task_context import Run
from sql import SQL

log = logging.getLogger(__name__)

BATCH = 500
ERRORS = (*CONNECTION_ERRORS, TimeoutError, Unavailable, asyncpg.PostgresError)
IDLE_BEAT_SECONDS = 1.0
_by_id = attrgetter("run.id")
BUSY_SECONDS = 0.01  # a row locked by a cancel or a decision is free again soon


class Outcome(NamedTuple):
    """How one run ended: in a final `state`, or, with `retry_event`, to be tried again after `delay` seconds."""

    run: Run
    state: str = ""
    result: str | None = None  # as JSON
    error: dict[str, Any] | None = None
    retry_event: str = ""
    delay: float = 0.0
    counts: bool = True


class Finisher:
    """Takes outcomes and reports each as written or refused through `on_written(outcome, accepted)`."""

    def __init__(self, database: Database, *, on_written: Callable[[Outcome, bool], None]) -> None:
        self._database = database
        self._on_written = on_written
        self._waiting: dict[tuple[UUID, int], Outcome] = {}
        self._writing: dict[tuple[UUID, int], Outcome] = {}
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def holds(self, run: Run) -> bool:
        """Whether the end of *run* is still to be written."""
        return (run.id, run.fence) in self._waiting or (run.id, run.fence) in self._writing

    def __len__(self) -> int:
        return len(self._waiting) + len(self._writing)

    def put(self, outcome: Outcome) -> None:
        """Take an outcome to write."""
        self._waiting[outcome.run.id, outcome.run.fence] = outcome
        self._empty.clear()
        self._arrived.set()

    def drop_all(self) -> None:
        """Forget what is not written: the lease is gone, so the fence would refuse it anyway."""
        self._waiting.clear()
        self._writing.clear()
        self._empty.set()

    async def flushed(self) -> None:
        """Wait until everything taken so far is written."""
        await self._empty.wait()

    async def keep(self, beat: Beat) -> None:
        """Write outcomes until cancelled; several may, each a batch of its own at a time.

        Raises: whatever the database raises; nothing is forgotten by that.
        """
        while True:
            if not self._waiting:
                await self._wait()
                beat()
                continue
            await asyncio.sleep(0)  # lets runs that end in this same tick join the batch
            if not self._waiting:
                continue  # another loop has taken them
            written = await self._write_batch()
            beat()
            if not written:
                await asyncio.sleep(BUSY_SECONDS)

    async def _wait(self) -> None:
        self._arrived.clear()
        try:
            async with asyncio.timeout(IDLE_BEAT_SECONDS):
                await self._arrived.wait()
        except TimeoutError:
            pass

    def _take(self) -> list[Outcome]:
        # One run of a task at a time: answers come back by task.
        batch = sorted(
            {outcome.run.id: outcome for outcome in islice(self._waiting.values(), BATCH)}.values(),
            key=_by_id,
        )
        for outcome in batch:
            key = (outcome.run.id, outcome.run.fence)
            self._writing[key] = self._waiting.pop(key)
        return batch

    async def _write_batch(self) -> int:
        batch = self._take()
        try:
            written = await self._try(batch)
        finally:
            for outcome in batch:  # what is not settled: busy, or nobody knows
                key = (outcome.run.id, outcome.run.fence)
                if (left := self._writing.pop(key, None)) is not None:
                    self._waiting.setdefault(key, left)
        if written:
            log.info("runs finished", extra={"runs": written})
        return written

    async def _try(self, batch: list[Outcome]) -> int:
        try:
            return await self._write(batch)
        except ERRORS as exc:
            if not is_refusal(exc):
                # Unknown whether it was written: kept and sent again, which the statement recognises.
                error = str(exc) or type(exc).__name__
                log.warning("run results not written", extra={"runs": len(batch), "error": error})
                raise
            return await self._write_one_by_one(batch)

    async def _write(self, batch: list[Outcome]) -> int:
        written = 0
        async with self._database.statement() as db:
            ended = [outcome for outcome in batch if not outcome.retry_event]
            if ended:
                written += await self._write_ended(db, ended)
            for outcome in batch:
                if outcome.retry_event:
                    with contextlib.suppress(asyncpg.LockNotAvailableError):  # busy: sent again
                        written += await self._write_retry(db, outcome)
        return written

    async def _write_one_by_one(self, batch: list[Outcome]) -> int:
        """Find the one that cannot be written: its task fails, saying so, and holds nobody else up."""
        written = 0
        for outcome in batch:
            if (outcome.run.id, outcome.run.fence) not in self._writing:
                continue
            try:
                written += await self._write([outcome])
            except ERRORS as exc:
                if not is_refusal(exc):
                    raise
                log.exception("run result cannot be written", extra={"task_id": str(outcome.run.id)})
                message = f"how it ended cannot be written down: {type(exc).__name__}"
                error = {"class": "result", "message": message, "attempt": outcome.run.attempt}
                told = Outcome(run=outcome.run, state="failed", error=error)
                self._writing[outcome.run.id, outcome.run.fence] = told
                written += await self._write([told])
        return written

    async def _write_ended(self, db: asyncpg.Connection[asyncpg.Record], ended: list[Outcome]) -> int:
        rows = await db.fetch(
            SQL["executors.finish"],
            [outcome.run.id for outcome in ended],
            [outcome.run.fence for outcome in ended],
            [outcome.state for outcome in ended],
            [outcome.result for outcome in ended],
            [outcome.error for outcome in ended],
        )
        answers: dict[UUID, str] = {row["id"]: row["outcome"] for row in rows}
        for outcome in ended:
            if (answer := answers.get(outcome.run.id)) != "busy":
                self._settle(outcome, accepted=answer is None)
        return len(ended) - sum(answer == "busy" for answer in answers.values())

    async def _write_retry(self, db: asyncpg.Connection[asyncpg.Record], outcome: Outcome) -> int:
        accepted = await db.fetchval(
            SQL["runs.retry"],
            outcome.run.id,
            outcome.run.fence,
            outcome.retry_event,
            outcome.error,
            outcome.delay,
            outcome.counts,
        )
        self._settle(outcome, accepted=bool(accepted))
        return 1

    def _settle(self, outcome: Outcome, *, accepted: bool) -> None:
        if self._writing.pop((outcome.run.id, outcome.run.fence), None) is not None:
            self._on_written(outcome, accepted)
        if not self._waiting and not self._writing:
            self._empty.set()
