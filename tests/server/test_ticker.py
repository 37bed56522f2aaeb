"""The loops of a real engine: schedules tick on every replica and their tasks run; alerts show among the metrics."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

from server.app import Engine, Parts
from server.database import Database
from server.metrics import Metrics
from server.settings import Settings
from server.ticker import Ticker
from services import schedules, tasks, ticks
from services.embeddings import Embedder
from services.schedules import NewSchedule
from tests.conftest import Cluster

ADA = "user:ada"


def _engine(database: Database, folder: Path) -> tuple[Engine, Metrics]:
    metrics = Metrics(release="1", depths=lambda: built.depths())  # noqa: PLW0108 - made below
    settings = Settings(role="executor", listen=False, data_dir=folder, drain_seconds=0, executor_slots=5)
    built = Engine(
        Parts(settings=settings, database=database, provider=None, embedder=Embedder(), base_url=""), metrics
    )
    return built, metrics


async def test_two_replicas_tick_second_by_second_and_run_what_they_made(
    cluster: Cluster, database: Database, database_name: str, tenant: UUID, tmp_path: Path
) -> None:
    async with database.tenant(tenant, ADA) as db:
        new = NewSchedule(name="heartbeat", type="noop", payload={}, interval_seconds=1, missed="all")
        schedule = await schedules.create(db, tenant, new, actor=ADA)
    other = Database(cluster.web(database_name))
    await other.open()
    engines = [_engine(one, tmp_path)[0] for one in (database, other)]
    for engine in engines:
        engine.start()
    try:
        async with asyncio.timeout(30):
            while True:
                async with database.tenant(tenant, ADA) as db:
                    found = await ticks.list_ticks(db, tenant, schedule.id)
                if sum(tick.task_state == "succeeded" for tick in found) >= 5:
                    break
                await asyncio.sleep(0.05)
        health = await engines[0].health()
    finally:
        await asyncio.gather(*(engine.stop(asyncio.Event()) for engine in engines))
        await other.close()

    assert {health["ticker"], health["alarm"], health["tick sweeper"]} == {None}
    moments = sorted(tick.tick_at for tick in found)
    assert {later - earlier for earlier, later in pairwise(moments)} == {timedelta(seconds=1)}
    assert all(tick.outcome == "enqueued" for tick in found)
    async with database.tenant(tenant, ADA) as db:
        made = {task.id for task in await tasks.list_tasks(db, tenant, limit=1000)}
        every = await ticks.list_ticks(db, tenant, schedule.id, limit=1000)
    assert made == {tick.task_id for tick in every}
    assert len(made) == len(every)


async def test_an_open_alert_shows_among_the_metrics(
    database: Database, admin: Any, tenant: UUID, tmp_path: Path
) -> None:
    await admin.execute(
        "INSERT INTO dead_letters (task_id, tenant_id, queue, type, state, error_class, failed_at)"
        " SELECT app.uuid7(), $1, 'default', 'noop', 'failed', 'x', app.now() FROM generate_series(1, 12)",
        tenant,
    )
    engine, metrics = _engine(database, tmp_path)
    engine.start()
    try:
        async with asyncio.timeout(15):
            while 'galley_alerts_open{kind="dead_letters"} 1.0' not in (await metrics.render()).decode():
                await asyncio.sleep(0.05)
    finally:
        await engine.stop(asyncio.Event())

    assert metrics.registry.get_sample_value("galley_alerts_open", {"kind": "failure_rate"}) == 0


async def test_a_ticker_with_nothing_to_do_sleeps_until_the_next_tick(
    database: Database, tenant: UUID
) -> None:
    ticker = Ticker(database, on_work=lambda _: None)
    assert await ticker.tick_due() is None
    async with database.tenant(tenant, ADA) as db:
        new = NewSchedule(name="later", type="noop", payload={}, interval_seconds=100)
        await schedules.create(db, tenant, new, actor=ADA)

    due_in = await ticker.tick_due()
    assert due_in is not None
    assert 90 < due_in <= 100
