"""The least that claims and finishes: one connection, 500 rows a claim with SKIP LOCKED, marked done in one statement.

No history, no retries, no leases, no limits: what PostgreSQL and the driver give when nothing is promised.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

import asyncpg

from tests.bench.workers.protocol import Ran, serve, spread

BATCH = 500
POLL_SECONDS = 1.0  # NOTIFY comes first
PAYLOAD = "{}"
SCHEMA = """
CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state text NOT NULL DEFAULT 'queued', payload jsonb, result jsonb);
CREATE INDEX bare_queued ON bare (id) WHERE state = 'queued';
"""
INSERT = "INSERT INTO bare (payload) VALUES ($1)"
INSERT_MANY = "INSERT INTO bare (payload) SELECT * FROM unnest($1::jsonb[])"
CLAIM = (
    "UPDATE bare SET state = 'running' WHERE id IN (SELECT id FROM bare WHERE state = 'queued' ORDER BY id LIMIT $1"
    " FOR UPDATE SKIP LOCKED) RETURNING id, payload"
)
FINISH = "UPDATE bare b SET state = 'done', result = d.result FROM unnest($1::bigint[], $2::jsonb[]) AS d (id, result) WHERE b.id = d.id"


class Bare:
    """The bare loop."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def open(self, *, install: bool) -> None:
        self._pool = await asyncpg.create_pool(self._dsn, min_size=1, max_size=16)
        if install:
            await self._pool.execute(SCHEMA)

    async def enqueue(self, count: int, clients: int) -> None:
        await spread(count, clients, lambda: self._pool.execute(INSERT, PAYLOAD))

    async def bulk(self, count: int, size: int) -> None:
        async with self._pool.acquire() as db:
            for _ in range(0, count, size):
                await db.execute(INSERT_MANY, [PAYLOAD] * size)

    async def probe(self) -> float:
        async with self._pool.acquire() as db:
            await db.execute(INSERT, PAYLOAD)
            committed = time.monotonic()
            await db.execute("NOTIFY bare")
        return committed

    async def start(self, ran: Ran) -> None:
        self._woken = asyncio.Event()
        self._db = await asyncpg.connect(self._dsn)
        self._ears = await asyncpg.connect(self._dsn)
        await self._ears.add_listener("bare", lambda *_: self._woken.set())
        self._loop = asyncio.create_task(self._run(ran))

    async def _run(self, ran: Ran) -> None:
        while True:
            self._woken.clear()
            rows = await self._db.fetch(CLAIM, BATCH)
            for row in rows:
                ran(row["id"])
            if rows:
                await self._db.execute(FINISH, [row["id"] for row in rows], ['{"slept": 0}'] * len(rows))
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()

    async def stop(self) -> None:
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        await self._db.close()
        await self._ears.close()

    async def close(self) -> None:
        await self._pool.close()


if __name__ == "__main__":
    serve(Bare(sys.argv[1]))
