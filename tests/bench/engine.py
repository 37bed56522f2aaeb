"""How fast the engine is: no-op tasks a second beside a bare loop, from enqueue to start, from cancel to the handler, memory.

Everything in one run on one PostgreSQL with its default durability. The bare loop claims 500 rows with SKIP LOCKED and marks them
done in one statement, on a table of four columns without history: what PostgreSQL and the driver give when nothing is promised.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import uvloop

from server import embedded, migrations
from server.app import Engine, Parts
from server.database import Database
from server.metrics import Metrics
from server.settings import Settings
from services import access, tasks
from services.embeddings import Embedder
from services.task_context import TaskContext
from services.tasks import NewTask
from tests.engine import task_type

BATCH = 500
ENQUEUE_BATCH = 1000
DRAIN_SECONDS = 300
PAUSE_SECONDS = 0.02  # between two samples: the engine is idle again
NOTIFY_PAUSE_SECONDS = 0.15  # longer than wake-ups are held together
HELD_SECONDS = 30.0

Figures = dict[str, float]


async def bare(dsn: str, count: int) -> Figures:
    """Drain *count* rows with the least that claims and finishes."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state text NOT NULL DEFAULT 'queued', payload jsonb, result jsonb)"
    )
    await connection.execute("CREATE INDEX ON bare (id) WHERE state = 'queued'")
    await connection.execute(
        "INSERT INTO bare (payload) SELECT '{\"seconds\": 0}' FROM generate_series(1, $1)", count
    )
    await connection.execute("VACUUM ANALYZE bare")
    done, began = 0, time.perf_counter()
    while True:
        rows = await connection.fetch(
            "UPDATE bare SET state = 'running' WHERE id IN (SELECT id FROM bare WHERE state = 'queued' ORDER BY id LIMIT $1"
            " FOR UPDATE SKIP LOCKED) RETURNING id, payload",
            BATCH,
        )
        if not rows:
            break
        await connection.execute(
            "UPDATE bare b SET state = 'done', result = d.result FROM unnest($1::bigint[], $2::jsonb[]) AS d (id, result) WHERE b.id = d.id",
            [row["id"] for row in rows],
            ['{"slept": 0}'] * len(rows),
        )
        done += len(rows)
    seconds = time.perf_counter() - began
    await connection.execute("DROP TABLE bare")
    await connection.close()
    assert done == count
    return {"tasks a second": done / seconds}


@asynccontextmanager
async def engine(database: Database, *, role: str = "all", slots: int = 1000) -> AsyncIterator[Engine]:
    """Run a whole engine with the product's own intervals."""
    settings = Settings(
        role=role, executor_slots=slots, openai_model="none", openai_base_url="http://127.0.0.1:9/v1"
    )
    parts = Parts(settings=settings, database=database, provider=None, embedder=Embedder(), base_url="")
    made = Engine(parts, Metrics(release="0", depths=lambda: made.depths()))  # noqa: PLW0108
    made.start()
    if made.executor is not None:
        await made.executor.lease.held.wait()
    try:
        yield made
    finally:
        await made.stop(asyncio.Event())


async def drain(database: Database, tenant: UUID, admin: Any, count: int) -> Figures:
    """Create *count* no-op tasks, then let one process run them all."""
    began = time.perf_counter()
    for _ in range(0, count, ENQUEUE_BATCH):
        async with database.tenant(tenant, "bench") as db:
            new = [NewTask(type="noop", payload={})] * ENQUEUE_BATCH
            await tasks.enqueue_many(db, tenant, new, actor="bench")
    created = time.perf_counter() - began
    await admin.execute("VACUUM ANALYZE tasks")
    before = cpu_seconds()
    async with engine(database):
        began = time.perf_counter()
        async with asyncio.timeout(DRAIN_SECONDS):
            while await admin.fetchval("SELECT EXISTS (SELECT FROM tasks)"):
                await asyncio.sleep(0.02)
        seconds = time.perf_counter() - began
    ended = await admin.fetchval("SELECT count(*) FROM task_history WHERE state = 'succeeded'")
    assert ended == count, ended
    return {
        "created a second, in batches of 1,000": count / created,
        "tasks a second": count / seconds,
        "this process's CPU, µs a task": (cpu_seconds() - before) / count * 1e6,
        "RSS after it, MB": rss(),
    }


def cpu_seconds() -> float:
    """Return what this process has used so far."""
    used = os.times()
    return used.user + used.system


def rss() -> float:
    """Return the resident memory of this process in MB, or 0 where /proc does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Watch:
    """A task type that says when its code began and when it was stopped, by this process's clock."""

    began: asyncio.Future[float]
    stopped: asyncio.Future[float]

    def again(self) -> None:
        """Forget the last sample."""
        loop = asyncio.get_running_loop()
        self.began, self.stopped = loop.create_future(), loop.create_future()

    async def run(self, task: TaskContext, payload: Any) -> None:
        """Tell, and stay until stopped where the payload says so."""
        self.began.set_result(time.perf_counter())
        if payload.hold:
            try:
                await asyncio.sleep(HELD_SECONDS)
            finally:
                self.stopped.set_result(time.perf_counter())


@contextmanager
def watched() -> Iterator[Watch]:
    """Make the task type for as long as the block lasts."""
    watch = Watch()
    with task_type("watch", watch.run, timeout=timedelta(minutes=1)):
        yield watch


async def latencies(
    database: Database, tenant: UUID, told: Engine, samples: int, measure: Callable[..., Awaitable[float]]
) -> Figures:
    """Return p50 and p99 in milliseconds of *samples* measurements, one at a time."""
    took = []
    with watched() as watch:
        for _ in range(samples):
            watch.again()
            took.append(await measure(database, tenant, told, watch) * 1000)
            await asyncio.sleep(PAUSE_SECONDS if told.executor else NOTIFY_PAUSE_SECONDS)
    return {"p50 ms": statistics.median(took), "p99 ms": statistics.quantiles(took, n=100)[98]}


async def to_start(database: Database, tenant: UUID, told: Engine, watch: Watch) -> float:
    """From the commit that creates a task to the first line of its code."""
    async with database.tenant(tenant, "bench") as db:
        task = await tasks.enqueue(db, tenant, NewTask(type="watch", payload={"hold": False}), actor="bench")
    committed = time.perf_counter()
    told.wake(task.queue)
    return await watch.began - committed


async def to_stop(database: Database, tenant: UUID, told: Engine, watch: Watch) -> float:
    """From the commit of a cancel to the handler's CancelledError."""
    async with database.tenant(tenant, "bench") as db:
        task = await tasks.enqueue(db, tenant, NewTask(type="watch", payload={"hold": True}), actor="bench")
    told.wake(task.queue)
    await watch.began
    async with database.tenant(tenant, "bench") as db:
        _, cancelled = await tasks.cancel(db, tenant, task.id, actor="bench")
    committed = time.perf_counter()
    told.stop_cancelled(cancelled)
    return await watch.stopped - committed


async def measure_all(admin_dsn: str, web_dsn: str, *, count: int, samples: int) -> dict[str, Figures]:
    """Run every measurement, one after the other."""
    await migrations.migrate(admin_dsn)
    admin = await asyncpg.connect(admin_dsn)
    database = Database(web_dsn)
    await database.open()
    found: dict[str, Figures] = {}
    try:
        async with database.engine() as db:
            tenant = await access.ensure_tenant(db, "bench")
        found["bare loop"] = await bare(admin_dsn, count)
        found["drain of no-op tasks"] = await drain(database, tenant, admin, count)
        async with engine(database) as here:
            for name, measure in (("enqueue → start", to_start), ("cancel → handler", to_stop)):
                found[f"{name}, same process"] = await latencies(database, tenant, here, samples, measure)
            async with engine(database, role="web") as other:
                await asyncio.sleep(0.5)  # its listener is up
                for name, measure in (("enqueue → start", to_start), ("cancel → handler", to_stop)):
                    found[f"{name}, by NOTIFY"] = await latencies(
                        database, tenant, other, samples // 4, measure
                    )
        found["ratio"] = {
            "engine to bare loop": found["drain of no-op tasks"]["tasks a second"]
            / found["bare loop"]["tasks a second"]
        }
    finally:
        await database.close()
        await admin.close()
    return found


def main() -> None:
    """Measure and print a table, then the same as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=300)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        running = embedded.start_postgres(Path(folder) / "data", durable=True)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                found = runner.run(
                    measure_all(
                        running.admin_dsn, running.web_dsn, count=chosen.tasks, samples=chosen.samples
                    )
                )
        finally:
            embedded.stop_postgres(running)
    for what, figures in found.items():
        for name, figure in figures.items():
            print(f"{what:34} {name:40} {figure:>12,.2f}")
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    print(json.dumps({"machine": machine, "tasks": chosen.tasks, "figures": found}, ensure_ascii=False))


if __name__ == "__main__":
    main()
