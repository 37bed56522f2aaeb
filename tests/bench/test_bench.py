"""The benchmark itself: a tiny run of Galley and the bare loop ends with figures of the promised shape. No figure is judged here."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.bench import plot, table
from tests.bench.environments import ROOT
from tests.bench.figures import METRICS, Figures, percentile

TINY = ("--quick", "--tasks", "300", "--history", "500", "--only", "galley,bare")


@pytest.mark.timeout(300)
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
