"""Carries bulk operations out, on every process whatever its role: they need no queue, so they work when queues do not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from server.database import CONNECTION_ERRORS, Database
from server.supervisor import Beat
from services import bulk_batches
from services.bulk_batches import Batch
from services.errors import Unavailable
from services.tasks import Cancelled
from sql import Connection

log = logging.getLogger(__name__)

BATCH_SECONDS = 5.0  # what a batch takes at most before readiness asks
IDLE_SECONDS = 1.0  # between two looks when there is nothing to do; a start in this process pokes
BREATH_SECONDS = 0.02  # between two rounds: a stop waits for the row that every batch locks
TRIES = 5  # batches that fail one after another before an operation is given up


class BulkOperations:
    """One batch of each operation in turn; SKIP LOCKED shares them among replicas.

    After each commit `on_cancelled(runs)` is told which runs to stop, and `on_work(queue)` which queues got tasks.
    """

    def __init__(
        self,
        database: Database,
        *,
        on_work: Callable[[str], None],
        on_cancelled: Callable[[Sequence[Cancelled]], None],
        retry_seconds: float = 0.5,
    ) -> None:
        self._database = database
        self._on_work = on_work
        self._on_cancelled = on_cancelled
        self._retry_seconds = retry_seconds  # after a first failure, twice as long after each further one
        self._poked = asyncio.Event()
        self._troubled: dict[UUID, tuple[int, float]] = {}  # failures in a row, and when to try again

    def poke(self) -> None:
        """Look again now: an operation has begun."""
        self._poked.set()

    async def keep(self, beat: Beat) -> None:
        """Carry out what there is until cancelled."""
        while True:
            self._poked.clear()
            worked = await self.carry_out(beat)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BREATH_SECONDS if worked else _idle()):
                    await self._poked.wait()

    async def carry_out(self, beat: Beat) -> bool:
        """Do one batch of each operation that waits for one; returns whether there was any."""
        async with self._database.statement() as db:
            waiting = await bulk_batches.list_waiting(db)
        beat()
        worked = False
        for tenant_id, operation_id, actor in waiting:
            failures, not_before = self._troubled.get(operation_id, (0, 0.0))
            if time.monotonic() < not_before:
                continue
            try:
                batch = await self._run(tenant_id, operation_id, actor)
            except (*CONNECTION_ERRORS, Unavailable):
                raise  # nothing wrong with the operation: the supervisor tries again
            except Exception as exc:  # noqa: BLE001 - whatever breaks one operation, the others go on
                await self._failed(tenant_id, operation_id, actor, failures + 1, exc)
            else:
                self._troubled.pop(operation_id, None)
                worked = worked or batch is not None
            beat()
        return worked

    async def _run(self, tenant_id: UUID, operation_id: UUID, actor: str) -> Batch | None:
        async def work(db: Connection) -> Batch | None:
            return await bulk_batches.run_batch(db, tenant_id, operation_id)

        batch = await self._database.run(tenant_id, actor, work)
        if batch is None:
            return None
        if batch.cancelled:
            self._on_cancelled(batch.cancelled)
        for queue in batch.queues:
            self._on_work(queue)
        if batch.over:
            log.info("bulk operation carried out", extra={"operation_id": str(operation_id)})
        return batch

    async def _failed(
        self, tenant_id: UUID, operation_id: UUID, actor: str, failures: int, exc: Exception
    ) -> None:
        told = f"{type(exc).__name__}: {exc}"
        log.warning(
            "batch of a bulk operation failed",
            extra={"operation_id": str(operation_id), "failures": failures, "error": told},
        )
        self._troubled[operation_id] = (
            failures,
            time.monotonic() + self._retry_seconds * 2 ** (failures - 1),
        )
        if failures >= TRIES:
            async with self._database.tenant(tenant_id, actor) as db:
                await bulk_batches.give_up(db, tenant_id, operation_id, error=told)
            del self._troubled[operation_id]


def _idle() -> float:
    return IDLE_SECONDS * random.uniform(0.8, 1.0)  # noqa: S311 - keeps replicas out of step
