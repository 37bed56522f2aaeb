"""procrastinate: async tasks over psycopg, many at a time in one worker, LISTEN on."""

from __future__ import annotations

import asyncio
import sys
import time

from procrastinate import App, JobContext, PsycopgConnector

from tests.bench.workers.protocol import Ran, serve, spread

CONCURRENCY = 50
POOL = 20


class Procrastinate:
    """Tasks are created by `defer_async` and `batch_defer_async`."""

    def __init__(self, dsn: str) -> None:
        self._app = App(connector=PsycopgConnector(conninfo=dsn, min_size=1, max_size=POOL))
        self._ran = Ran()

        @self._app.task(name="measured", pass_context=True)
        async def measured(context: JobContext) -> None:
            self._ran(context.job.id)

        self._task = measured

    async def open(self, *, install: bool) -> None:
        await self._app.open_async()
        if install:
            await self._app.schema_manager.apply_schema_async()

    async def enqueue(self, count: int, clients: int) -> None:
        await spread(count, clients, self._task.defer_async)

    async def bulk(self, count: int, size: int) -> None:
        for _ in range(0, count, size):
            await self._task.batch_defer_async(*[{}] * size)

    async def probe(self) -> float:
        await self._task.defer_async()
        return time.monotonic()

    async def start(self, ran: Ran) -> None:
        self._ran = ran
        self._worker = asyncio.create_task(
            self._app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
        )

    async def stop(self) -> None:
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)

    async def close(self) -> None:
        await self._app.close_async()


if __name__ == "__main__":
    serve(Procrastinate(sys.argv[1]))
