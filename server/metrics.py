"""What this process measures of itself, in the Prometheus text format. Counters are fed by the loops, depths read at scrape time."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import accumulate

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

# (queue, state) → how many live tasks.
Depths = Callable[[], Awaitable[Iterable[tuple[str, str, int]]]]
SCRAPE_SECONDS = 2.0
MEASURED = 20  # start delays of one claim

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW = (0.01, 0.05, 0.25, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class Runs(Collector):
    """Runs ended and how long they took. The client's own counters lock for every run, a tenth of an executor's time at full speed."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, str], int] = {}  # by type and outcome
        self._lengths: dict[str, list[int]] = {}  # by type: how many in each bucket
        self._seconds: dict[str, float] = {}

    def add(self, type_name: str, outcome: str, seconds: float) -> None:
        """Count the end of a run."""
        self._ended[type_name, outcome] = self._ended.get((type_name, outcome), 0) + 1
        lengths = self._lengths.get(type_name)
        if lengths is None:
            lengths = self._lengths[type_name] = [0] * (len(_SLOW) + 1)
        lengths[bisect_left(_SLOW, seconds)] += 1
        self._seconds[type_name] = self._seconds.get(type_name, 0.0) + seconds

    def collect(self) -> Iterable[Metric]:
        """Return both as Prometheus reads them."""
        ended = CounterMetricFamily(
            "galley_tasks_finished", "Runs ended, by what became of the task.", labels=["type", "outcome"]
        )
        for labels, runs in self._ended.items():
            ended.add_metric(labels, runs)
        took = HistogramMetricFamily("galley_task_run_seconds", "Length of a run.", labels=["type"])
        bounds = [*(str(float(bound)) for bound in _SLOW), "+Inf"]
        for type_name, lengths in self._lengths.items():
            buckets = list(zip(bounds, accumulate(lengths), strict=True))
            took.add_metric([type_name], buckets, self._seconds[type_name])
        return [ended, took]


class Metrics:
    """The metrics of one process, in a registry of their own so that several applications in one process do not mix."""

    def __init__(self, *, release: str, depths: Depths | None = None) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._depths = depths
        Gauge("galley_build_info", "The release at work.", ["release"], registry=self.registry).labels(
            release
        ).set(1)
        self.requests = Histogram(
            "galley_http_request_seconds",
            "Time from a request's head to its answer, by route template.",
            ["method", "route", "status"],
            buckets=_FAST,
            registry=self.registry,
        )
        self.runs = Runs()
        self.registry.register(self.runs)
        self.claimed = Counter(
            "galley_tasks_claimed", "Tasks claimed by this process.", ["queue"], registry=self.registry
        )
        self.start_delay = Histogram(
            "galley_task_start_delay_seconds",
            "From when a task was due to its claim, by the database's clock; of a claim of many, 20 are measured.",
            ["queue"],
            buckets=(*_FAST, *(bucket for bucket in _SLOW if bucket > _FAST[-1])),
            registry=self.registry,
        )
        self._measure_engine()
        self._measure_queues()

    def count_claim(self, queue: str, waits: Sequence[float]) -> None:
        """Count the tasks of one claim, which had been due for *waits* seconds. Of many, MEASURED are measured: one costs a µs."""
        self.claimed.labels(queue).inc(len(waits))
        delay = self.start_delay.labels(queue)
        for seconds in waits[:: -(-len(waits) // MEASURED) or 1]:
            delay.observe(seconds)

    async def render(self) -> bytes:
        """Return everything in the text format; answers within two seconds even when the database does not."""
        await self._read_depths()
        return generate_latest(self.registry)

    def _measure_engine(self) -> None:
        self.slots_busy = Gauge(
            "galley_executor_slots_busy", "Runs under way in this process.", registry=self.registry
        )
        self.slots_leaked = Gauge(
            "galley_executor_slots_leaked",
            "Slots held by code that does not end although it was stopped.",
            registry=self.registry,
        )
        self.loop_lag = Gauge(
            "galley_event_loop_lag_seconds",
            "How late this process's event loop was at worst between two heartbeats.",
            registry=self.registry,
        )
        self.stale_results = Gauge(
            "galley_stale_results",
            "Writes and results since the start, of runs that no longer owned their task; all were refused.",
            registry=self.registry,
        )
        self.loop_age = Gauge(
            "galley_loop_age_seconds",
            "Since a background loop last proved itself.",
            ["loop"],
            registry=self.registry,
        )
        self.loop_failures = Gauge(
            "galley_loop_failures",
            "How often in a row a background loop has failed.",
            ["loop"],
            registry=self.registry,
        )

    def _measure_queues(self) -> None:
        self._depth = Gauge(
            "galley_queue_tasks", "Live tasks by queue and state.", ["queue", "state"], registry=self.registry
        )
        self._depth_known = Gauge(
            "galley_queue_tasks_known", "1 when the depths were read for this scrape, 0 when the database did not answer.",
            registry=self.registry,
        )  # fmt: skip

        self.alerts_open = Gauge(
            "galley_alerts_open", "Open alerts of all tenants, by kind.", ["kind"], registry=self.registry
        )

    async def _read_depths(self) -> None:
        if self._depths is None:
            return
        try:
            async with asyncio.timeout(SCRAPE_SECONDS):
                found = list(await self._depths())
        except Exception:  # noqa: BLE001 – a scrape must answer whatever ails the database; the gauge says so
            self._depth.clear()
            self._depth_known.set(0)
            return
        self._depth.clear()
        for queue, state, count in found:
            self._depth.labels(queue, state).set(count)
        self._depth_known.set(1)


METRICS = web.AppKey("metrics", Metrics)
