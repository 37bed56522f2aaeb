"""What was measured: samples by metric and contender, their medians with spread, and what each metric means."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table."""

    name: str
    title: str
    unit: str
    more_is_better: bool = False


METRICS = (
    Metric("enqueue", "enqueue, one task a transaction, 16 clients", "tasks/s", more_is_better=True),
    Metric("bulk", "enqueue, 1,000 tasks a call", "tasks/s", more_is_better=True),
    Metric("drain", "drain of no-op tasks", "tasks/s", more_is_better=True),
    Metric("drain_history", "the same beside finished tasks", "tasks/s", more_is_better=True),
    Metric("drain_cpu_worker", "worker's CPU in the drain", "µs a task"),
    Metric("drain_cpu_postgres", "PostgreSQL's CPU in the drain", "µs a task"),
    Metric("drain_history_cpu_worker", "worker's CPU in it beside finished tasks", "µs a task"),
    Metric("drain_history_cpu_postgres", "PostgreSQL's CPU in it beside finished tasks", "µs a task"),
    Metric("pickup_p50", "commit → start, created in another process, p50", "ms"),
    Metric("pickup_p99", "commit → start, created in another process, p99", "ms"),
    Metric("pickup_same_p50", "commit → start, created in the same process, p50", "ms"),
    Metric("pickup_same_p99", "commit → start, created in the same process, p99", "ms"),
    Metric("idle_cpu_worker", "idle worker's CPU", "% of a core"),
    Metric("idle_cpu_postgres", "PostgreSQL's CPU for it", "% of a core"),
    Metric("rss", "worker's memory after the drain", "MB"),
    Metric("cancel_same_p99", "commit of a cancel → handler, same process, p99", "ms"),
    Metric("cancel_p99", "commit of a cancel → handler, another process, p99", "ms"),
    Metric("http_create", "POST /api/v1/tasks, 16 clients", "requests/s", more_is_better=True),
    Metric("http_bulk", "POST /api/v1/tasks/bulk, 1,000 tasks each", "tasks/s", more_is_better=True),
    Metric("page_list_p95", "GET /api/v1/tasks beside finished tasks, p95", "ms"),
    Metric("page_tasks_p95", "/desk/tasks beside finished tasks, p95", "ms"),
    Metric("page_overview_p95", "/desk beside finished tasks, p95", "ms"),
)
BY_NAME = {metric.name: metric for metric in METRICS}

Summary = dict[str, dict[str, dict[str, float]]]


@dataclass(slots=True)
class Figures:
    """Samples as they come in, one a round."""

    about: dict[str, Any] = field(default_factory=dict)
    _samples: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def record(self, metric: str, contender: str, value: float) -> None:
        """Keep one sample."""
        assert metric in BY_NAME, metric
        self._samples[metric][contender].append(value)

    def summary(self) -> Summary:
        """Return median, least and most of each, in the order of METRICS."""
        return {
            metric.name: {
                name: {
                    "median": statistics.median(samples),
                    "min": min(samples),
                    "max": max(samples),
                }
                for name, samples in self._samples[metric.name].items()
            }
            for metric in METRICS
            if metric.name in self._samples
        }

    def write(self, path: Path) -> None:
        """Write the summary as JSON, with what it was measured on under `_about`."""
        units = {metric.name: metric.unit for metric in METRICS}
        text = json.dumps(
            {**self.summary(), "_about": {**self.about, "units": units}}, indent=1, ensure_ascii=False
        )
        path.write_text(text + "\n", encoding="utf-8")


def percentile(samples: list[float], percent: int) -> float:
    """Return that percentile; of few samples the 99th is their highest."""
    return (
        statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]
        if len(samples) > 1
        else samples[0]
    )


def readable(value: float) -> str:
    """Return *value* as people read it: no more digits than the measurement carries."""
    if value >= 1000:
        return f"{round(value, -2 if value >= 10_000 else -1):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"
