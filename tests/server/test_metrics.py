"""What a process measures of its claims, and that every metric it shows is described."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from server.app import Engine, Parts
from server.database import Database
from server.metrics import Metrics
from server.settings import Settings
from services.embeddings import Embedder
from tests import engine

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
FROM_THE_CLIENT = ("python_", "process_")  # what the Prometheus client shows of any process


async def test_claims_are_counted_with_how_long_their_tasks_had_been_due(
    database: Database, admin: Any, tenant: UUID, tmp_path: Path
) -> None:
    late = await engine.enqueue(database, tenant, "noop")
    await admin.execute("UPDATE tasks SET run_at = app.now() - interval '30 seconds'")
    prompt = await engine.enqueue(database, tenant, "noop", queue="content")
    metrics = Metrics(release="1", depths=lambda: built.depths())  # noqa: PLW0108
    settings = Settings(role="executor", listen=False, data_dir=tmp_path, drain_seconds=0)
    built = Engine(
        Parts(settings=settings, database=database, provider=None, embedder=Embedder(), base_url=""), metrics
    )

    built.start()
    try:
        for task in (late, prompt):
            await engine.ended(database, task)
        shown = (await metrics.render()).decode()
    finally:
        await built.stop(asyncio.Event())

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("galley_tasks_claimed_total", queue="default") == 1
    assert value("galley_task_start_delay_seconds_count", queue="default") == 1
    assert 30 <= (value("galley_task_start_delay_seconds_sum", queue="default") or 0) < 90
    assert (value("galley_task_start_delay_seconds_sum", queue="content") or 0) < 30
    assert value("galley_executor_slots_leaked") == 0
    assert (value("galley_event_loop_lag_seconds") or 0) >= 0
    assert "galley_queue_tasks_known 1.0" in shown


async def test_runs_are_counted_by_what_became_of_them_and_measured_in_buckets() -> None:
    metrics = Metrics(release="1")
    for seconds in (0.01, 0.0101, 3.0, 3.5, 5000.0):
        metrics.runs.add("noop", "succeeded", seconds)
    metrics.runs.add("noop", "failed", 0.5)
    metrics.runs.add("call_http", "succeeded", 0.2)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("galley_tasks_finished_total", type="noop", outcome="succeeded") == 5
    assert value("galley_tasks_finished_total", type="noop", outcome="failed") == 1
    assert value("galley_tasks_finished_total", type="call_http", outcome="succeeded") == 1
    by_bound = {
        bound: value("galley_task_run_seconds_bucket", type="noop", le=bound)
        for bound in ("0.01", "0.05", "1.0", "2.5", "5.0", "1800.0", "+Inf")
    }
    assert list(by_bound.values()) == [1, 2, 3, 3, 5, 5, 6]
    assert value("galley_task_run_seconds_count", type="noop") == 6
    assert value("galley_task_run_seconds_sum", type="noop") == pytest.approx(5007.0201)
    text = (await metrics.render()).decode()
    assert "# TYPE galley_task_run_seconds histogram" in text
    assert 'galley_task_run_seconds_bucket{le="0.05",type="noop"} 2.0' in text


def test_every_metric_is_described_and_none_that_is_not_there() -> None:
    metrics = Metrics(release="1")
    shown = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in metrics.registry.collect()
        if not family.name.startswith(FROM_THE_CLIENT)
    }

    described = set(re.findall(r"^\| `(galley_\w+)`", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE))

    assert described == shown
