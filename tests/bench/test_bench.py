"""The benchmark itself: a tiny run of Galley and the bare loop ends with figures of the promised shape. No figure is judged here."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.bench import plot, table
from tests.bench.bench import Bench, Sizes
from tests.bench.contenders import BARE, Contender
from tests.bench.environments import ROOT, Environments
from tests.bench.figures import METRICS, Figures, percentile
from tests.bench.process import Fault
from tests.bench.turns import _Turn
from tests.conftest import Cluster

TINY = ("--quick", "--tasks", "300", "--history", "500", "--only", "galley,bare")


class OnCluster(Bench):
    """A bench on the tests' PostgreSQL instead of one of its own."""

    cluster: Cluster

    def dsn(self, database: str, *, role: str = "admin") -> str:
        return self.cluster.admin("postgres" if database == "galley" else database)


@pytest.fixture
async def bench(cluster: Cluster, tmp_path: Path) -> OnCluster:
    environments = Environments({"own": [sys.executable, "-m"]})
    nothing: Any = None
    made = OnCluster(nothing, environments, Sizes(tasks=100, singles=20), Figures(), tmp_path)
    made.cluster = cluster
    return made


@pytest.fixture
async def bare(bench: OnCluster) -> AsyncIterator[Contender]:
    """The bare loop with a database of its own, installed."""
    contender = replace(BARE, name=f"bare-{uuid4().hex}")
    await bench.install([contender])
    yield contender
    async with bench.admin() as admin:
        await admin.execute(f"DROP DATABASE {contender.database} WITH (FORCE)")


@pytest.mark.timeout(900)
async def test_a_tiny_run_measures_every_metric_of_galley_and_of_the_bare_loop(tmp_path: Path) -> None:
    target = tmp_path / "bench.json"

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench", *TINY),
        cwd=ROOT,
        env={**os.environ, "BENCH_JSON": str(target)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()

    assert process.returncode == 0, said
    found = json.loads(target.read_text(encoding="utf-8"))
    about = found.pop("_about")
    assert about["sizes"]["tasks"] == 300
    assert list(found) == [metric.name for metric in METRICS]
    assert {frozenset(figure) for both in found.values() for figure in both.values()} == {
        frozenset({"median", "min", "max"})
    }
    alone = ("cancel_", "page_")
    for metric, both in found.items():
        assert set(both) == ({"galley"} if metric.startswith(alone) else {"galley", "bare"}), metric
    assert "no-op tasks" in said
    assert plot.draw(found, table.names(found), table.TITLES).count("<rect") == 10


async def test_a_contender_whose_tasks_are_finished_has_a_figure(bench: OnCluster, bare: Contender) -> None:
    await _Turn(bench, bare).run_beside_history()

    assert "drain_history" in bench.figures.summary()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"left": "SELECT 1"}, "of 20 tasks 20 ran, 20 are done, 1 are left"),
        (
            {"done": "SELECT count(*) FROM bare WHERE state = 'done' AND id % 2 = 0"},
            "of 20 tasks 20 ran, 10 are done, 0 are left",
        ),
    ],
)
async def test_a_contender_that_lost_a_task_has_no_figure(
    bench: OnCluster, bare: Contender, wrong: dict[str, str], says: str
) -> None:
    with pytest.raises(Fault, match=says):
        await _Turn(bench, replace(bare, **wrong)).run_beside_history()

    assert bench.figures.summary() == {}


def test_of_many_samples_the_middle_and_the_spread_are_told() -> None:
    figures = Figures()
    for rate in (10.0, 30.0, 20.0):
        figures.record("drain", "galley", rate)
        figures.record("drain", "bare", rate * 2)

    summary = figures.summary()

    assert summary == {
        "drain": {
            "galley": {"median": 20.0, "min": 10.0, "max": 30.0},
            "bare": {"median": 40.0, "min": 20.0, "max": 60.0},
        }
    }
    assert table.ratios(summary) == {"drain": {"bare": 0.5}}


def test_the_99th_percentile_of_few_samples_is_close_to_their_highest() -> None:
    assert percentile([5.0], 99) == 5.0
    assert percentile([float(n) for n in range(1, 101)], 99) == pytest.approx(99.01)
