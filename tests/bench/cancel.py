"""From the commit of a cancel to the handler's CancelledError, in the same process and through NOTIFY from another engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from server.app import Engine, Parts
from server.database import Database
from server.metrics import Metrics
from server.settings import Settings
from services import access, tasks
from services.embeddings import Embedder
from services.task_context import TaskContext
from services.tasks import NewTask
from tests.bench.bench import Bench, say
from tests.bench.contenders import GALLEY
from tests.bench.figures import percentile
from tests.engine import task_type

HELD_SECONDS = 30.0
APART_SECONDS = 0.12


class _Watch:
    """A task type that says when its code began and when it was stopped."""

    def again(self) -> None:
        loop = asyncio.get_running_loop()
        self.began: asyncio.Future[None] = loop.create_future()
        self.stopped: asyncio.Future[float] = loop.create_future()

    async def run(self, task: TaskContext, payload: Any) -> None:
        self.began.set_result(None)
        try:
            await asyncio.sleep(HELD_SECONDS)
        finally:
            self.stopped.set_result(time.monotonic())


@asynccontextmanager
async def _engine(database: Database, role: str) -> AsyncIterator[Engine]:
    settings = Settings(role=role, openai_model="none", openai_base_url="http://127.0.0.1:9/v1")  # type: ignore[arg-type]
    parts = Parts(settings=settings, database=database, provider=None, embedder=Embedder(), base_url="")
    engine = Engine(parts, Metrics(release="0", depths=lambda: engine.depths()))  # noqa: PLW0108
    engine.start()
    if engine.executor is not None:
        await engine.executor.lease.held.wait()
    try:
        yield engine
    finally:
        await engine.stop(asyncio.Event())


async def _sample(database: Database, tenant: UUID, told: Engine, watch: _Watch) -> float:
    watch.again()
    async with database.tenant(tenant, "bench") as db:
        task = await tasks.enqueue(db, tenant, NewTask(type="watched", payload={}), actor="bench")
    told.wake(task.queue)
    await watch.began
    await asyncio.sleep(APART_SECONDS)
    async with database.tenant(tenant, "bench") as db:
        _, cancelled = await tasks.cancel(db, tenant, task.id, actor="bench")
    committed = time.monotonic()
    told.stop_cancelled(cancelled)
    return max(await watch.stopped - committed, 0.0) * 1000


async def measure(bench: Bench) -> None:
    """Record both, round by round."""
    database = Database(bench.dsn(GALLEY.database, role="web"))
    await database.open()
    watch = _Watch()
    try:
        async with database.engine() as db:
            tenant = await access.ensure_tenant(db, "bench")
        with task_type("watched", watch.run, timeout=timedelta(minutes=1)):
            async with _engine(database, "all") as here, _engine(database, "web") as other:
                await asyncio.sleep(0.5)  # both listen
                for number in range(1, bench.sizes.rounds + 1):
                    say(f"round {number} of {bench.sizes.rounds}: cancel")
                    for metric, told in (("cancel_same_p99", here), ("cancel_p99", other)):
                        took = [
                            await _sample(database, tenant, told, watch) for _ in range(bench.sizes.samples)
                        ]
                        bench.figures.record(metric, GALLEY.name, percentile(took, 99))
    finally:
        await database.close()
