"""Galley's engine as `serve` runs it: executor, finisher, heartbeat, scheduler, rescuer, listener, one process."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

from server import logs, migrations
from server.app import Engine, Parts
from server.database import Database
from server.metrics import Metrics
from server.settings import Settings
from services import access, task_types, tasks
from services.embeddings import Embedder
from services.task_context import TaskContext
from services.task_types import TaskType
from services.task_types.noop import Payload
from services.tasks import NewTask
from tests.bench.workers.protocol import Ran, serve, spread

SLOTS = 2000  # EXECUTOR_SLOTS
NEW = NewTask(type="measured", payload={})


class Galley:
    """Tasks are created through services/tasks.py, in a transaction of their tenant, as the API does."""

    def __init__(self, admin_dsn: str, web_dsn: str, role: str) -> None:
        self._admin_dsn, self._role = admin_dsn, role
        self._database = Database(web_dsn)
        self._engine: Engine | None = None

    async def open(self, *, install: bool) -> None:
        if install:
            await migrations.migrate(self._admin_dsn)
        await self._database.open()
        async with self._database.engine() as db:
            self._tenant: UUID = await access.ensure_tenant(db, "bench")
        task_types.load_all()["measured"] = TaskType(
            name="measured", payload=Payload, run=self._run, timeout=timedelta(hours=1)
        )
        self._ran = Ran()
        if self._role == "web":
            await self.start(self._ran)  # tells other processes of new work, runs none

    async def _run(self, task: TaskContext, payload: Any) -> dict[str, Any]:
        self._ran(task.id)
        return {"slept": payload.seconds}

    async def _enqueue(self) -> float:
        async with self._database.tenant(self._tenant, "bench") as db:
            task = await tasks.enqueue(db, self._tenant, NEW, actor="bench")
        committed = time.monotonic()
        if self._engine is not None:
            self._engine.wake(task.queue)
        return committed

    async def enqueue(self, count: int, clients: int) -> None:
        await spread(count, clients, self._enqueue)

    async def bulk(self, count: int, size: int) -> None:
        for _ in range(0, count, size):
            async with self._database.tenant(self._tenant, "bench") as db:
                await tasks.enqueue_bulk(db, self._tenant, [NEW] * size, actor="bench")

    async def probe(self) -> float:
        return await self._enqueue()

    async def start(self, ran: Ran) -> None:
        self._ran = ran
        settings = Settings(
            role=self._role,  # type: ignore[arg-type]
            executor_slots=SLOTS,
            openai_model="none",
            openai_base_url="http://127.0.0.1:9/v1",
        )
        parts = Parts(
            settings=settings, database=self._database, provider=None, embedder=Embedder(), base_url=""
        )
        engine = Engine(parts, Metrics(release="0", depths=lambda: engine.depths()))  # noqa: PLW0108
        engine.start()
        self._engine = engine
        if engine.executor is not None:
            await engine.executor.lease.held.wait()

    async def stop(self) -> None:
        assert self._engine is not None
        await self._engine.stop(asyncio.Event())
        self._engine = None

    async def close(self) -> None:
        await self._database.close()


if __name__ == "__main__":
    logs.configure("INFO", "json")
    serve(Galley(*sys.argv[1:]))
