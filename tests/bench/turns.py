"""Every contender in turn, several rounds over, each in a database of its own: enqueue, drain, pick-up, idleness.

A turn has a fresh process; the tasks it creates one by one warm it up. A drain lasts from the first task's start to the commit of
the last one's end, and counts only when exactly as many tasks ran and are finished as were created.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import asyncpg

from tests.bench.bench import Bench, say
from tests.bench.contenders import GALLEY, Contender
from tests.bench.figures import percentile
from tests.bench.process import Fault, Process, processor_seconds, used_between

CLIENTS = 16
BULK = 1000
LOOK_SECONDS = 0.002
END_SECONDS = 60
SETTLE_SECONDS = 1.0  # a worker that has just started is not idle yet
APART_SECONDS = 0.12  # between two samples: longer than anybody holds wake-ups together
NEAR_SECONDS = 0.02
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"


async def measure(bench: Bench, contenders: Sequence[Contender]) -> None:
    """All rounds without a history, then all beside one."""
    for number in range(1, bench.sizes.rounds + 1):
        for contender in contenders:
            say(f"round {number} of {bench.sizes.rounds}: {contender.name}")
            await _Turn(bench, contender).run()
    if bench.sizes.history:
        await seed(bench, contenders)
        for number in range(1, bench.sizes.rounds + 1):
            for contender in contenders:
                say(f"beside the history, round {number} of {bench.sizes.rounds}: {contender.name}")
                await _Turn(bench, contender).run_beside_history()


async def seed(bench: Bench, contenders: Sequence[Contender]) -> None:
    """Give each contender the finished tasks that it would have kept."""
    for contender in contenders:
        say(f"{bench.sizes.history:,} finished tasks for {contender.name}")
        async with bench.admin(contender.database) as admin:
            for statement in contender.seed:
                await admin.execute(statement, *([bench.sizes.history] if "$1" in statement else []))
            await admin.execute("VACUUM ANALYZE")


class _Turn:
    """One contender's part of a round."""

    def __init__(self, bench: Bench, contender: Contender) -> None:
        self._bench, self._contender = bench, contender
        self._tasks = self._in_bulk(bench.sizes.tasks * contender.share)
        self._singles = max(round(bench.sizes.singles * contender.share), CLIENTS)
        self._admin: asyncpg.Connection[Any]

    async def run(self) -> None:
        """Measure all but what needs a history."""
        async with self._bench.admin(self._contender.database) as self._admin:
            await self._admin.execute("CHECKPOINT")
            async with self._bench.process(self._contender) as worker:
                await self._enqueue(worker)
                await self._drain(worker, "drain")
                self._record("rss", worker.rss)
                await self._wait_idle(worker)

    async def run_beside_history(self) -> None:
        """Measure the drain only."""
        async with self._bench.admin(self._contender.database) as self._admin:
            await self._admin.execute("CHECKPOINT")
            async with self._bench.process(self._contender) as worker:
                await worker.ask("enqueue", count=self._singles, clients=CLIENTS)
                await self._work_off(worker, self._singles)
                await worker.ask("stop")
                await worker.ask("bulk", count=self._tasks, size=min(BULK, self._tasks))
                await self._drain(worker, "drain_history")
                await worker.ask("stop")

    @staticmethod
    def _in_bulk(tasks: float) -> int:
        """Return *tasks* in whole calls."""
        return max(round(tasks / BULK), 1) * BULK if tasks >= BULK else round(tasks)

    async def _enqueue(self, worker: Process) -> None:
        answer = await worker.ask("enqueue", count=self._singles, clients=CLIENTS)
        self._record("enqueue", self._singles / answer["seconds"])
        await self._work_off(worker, self._singles)  # unmeasured: it warms up what the drain needs
        await worker.ask("stop")
        answer = await worker.ask("bulk", count=self._tasks, size=min(BULK, self._tasks))
        self._record("bulk", self._tasks / answer["seconds"])

    async def _drain(self, worker: Process, metric: str) -> None:
        await self._admin.execute(
            "VACUUM ANALYZE"
        )  # as autovacuum would: nobody starts with a neighbour's luck
        before = processor_seconds([worker.pid])
        backends = processor_seconds(await self._backends())
        first, last = await self._work_off(worker, self._tasks)
        self._record(metric, self._tasks / (last - first))
        used = used_between(before, processor_seconds([worker.pid]))
        self._record(f"{metric}_cpu_worker", used / self._tasks * 1e6)
        used = used_between(backends, processor_seconds(await self._backends()))
        self._record(f"{metric}_cpu_postgres", used / self._tasks * 1e6)

    async def _work_off(self, worker: Process, count: int) -> tuple[float, float]:
        """Start the worker, which goes on running, and wait until *count* tasks are done. Returns when that began and ended."""
        done = await self._done()
        await worker.ask("expect", count=count)
        await worker.ask("start")
        ran = await worker.ask("ran")
        deadline = time.monotonic() + END_SECONDS
        while await self._admin.fetchval(self._contender.unfinished, ran["latest"]):
            if time.monotonic() > deadline:
                raise Fault(f"{self._contender.name}: tasks ran, but are not finished after {END_SECONDS} s")
            await asyncio.sleep(LOOK_SECONDS)
        ended = time.monotonic()
        await self._verify(worker, count, done)
        return ran["first"], ended

    async def _verify(self, worker: Process, count: int, done_before: int) -> None:
        """Raises: Fault unless exactly *count* tasks ran and are finished."""
        ran = (await worker.ask("count"))["count"]
        left = await self._admin.fetchval(self._contender.left)
        done = await self._done() - done_before if self._contender.done else count
        if (ran, left, done) != (count, 0, count):
            raise Fault(
                f"{self._contender.name}: of {count} tasks {ran} ran, {done} are done, {left} are left"
            )

    async def _done(self) -> int:
        return await self._admin.fetchval(self._contender.done) if self._contender.done else 0

    async def _wait_idle(self, worker: Process) -> None:
        """With the worker running since the drain: its pick-up from here and from elsewhere, then what it costs to do nothing."""
        await self._pick_up(worker, worker, "pickup_same", NEAR_SECONDS)
        role = "web" if self._contender is GALLEY else "all"
        async with self._bench.process(self._contender, role=role) as producer:
            await producer.ask("probe") if role == "web" else None
            await self._pick_up(worker, producer, "pickup", APART_SECONDS)
        await asyncio.sleep(SETTLE_SECONDS)
        backends = await self._backends()
        pids = [worker.pid, *backends]
        before, began = processor_seconds(pids), time.monotonic()
        await asyncio.sleep(self._bench.sizes.idle_seconds)
        after, seconds = processor_seconds(pids), time.monotonic() - began
        mine = used_between({worker.pid: before[worker.pid]}, {worker.pid: after[worker.pid]})
        self._record("idle_cpu_worker", mine / seconds * 100)
        self._record("idle_cpu_postgres", (used_between(before, after) - mine) / seconds * 100)
        await worker.ask("stop")

    async def _pick_up(self, worker: Process, producer: Process, metric: str, pause: float) -> None:
        took = []
        for _ in range(self._bench.sizes.samples):
            await asyncio.sleep(pause)
            await worker.ask("expect", count=1)
            committed = (await producer.ask("probe"))["at"]
            began = (await worker.ask("ran"))["first"]
            took.append(
                max(began - committed, 0.0) * 1000
            )  # a notification can outrun the answer to its commit
        self._record(f"{metric}_p50", percentile(took, 50))
        self._record(f"{metric}_p99", percentile(took, 99))

    async def _backends(self) -> list[int]:
        return [row["pid"] for row in await self._admin.fetch(BACKENDS)]

    def _record(self, metric: str, value: float) -> None:
        self._bench.figures.record(metric, self._contender.name, value)
