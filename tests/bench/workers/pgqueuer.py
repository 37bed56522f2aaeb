"""pgqueuer: asyncpg with a pool, so that claiming and logging overlap, large batches, its autovacuum settings applied."""

from __future__ import annotations

import asyncio
import sys
import time

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from tests.bench.workers.protocol import Ran, serve, spread

BATCH = 1000


class Contender:
    """Tasks are created by `Queries.enqueue` through the pool that the worker uses too."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def open(self, *, install: bool) -> None:
        self._pool = await asyncpg.create_pool(self._dsn, min_size=1, max_size=16)
        self._queries = Queries(AsyncpgPoolDriver(self._pool))
        if install:
            await self._queries.install()
            await self._queries.optimize_autovacuum()

    async def enqueue(self, count: int, clients: int) -> None:
        await spread(count, clients, lambda: self._queries.enqueue("measured", b"{}"))

    async def bulk(self, count: int, size: int) -> None:
        for _ in range(0, count, size):
            await self._queries.enqueue(["measured"] * size, [b"{}"] * size, [0] * size)

    async def probe(self) -> float:
        await self._queries.enqueue("measured", b"{}")
        return time.monotonic()

    async def start(self, ran: Ran) -> None:
        self._worker = PgQueuer(AsyncpgPoolDriver(self._pool))

        @self._worker.entrypoint("measured")
        async def measured(job: Job) -> None:
            ran(job.id)

        self._loop = asyncio.create_task(self._worker.run(batch_size=BATCH))

    async def stop(self) -> None:
        self._worker.shutdown.set()
        await asyncio.gather(self._loop, return_exceptions=True)

    async def close(self) -> None:
        await self._pool.close()


if __name__ == "__main__":
    serve(Contender(sys.argv[1]))
