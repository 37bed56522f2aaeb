"""What this process measures of itself, in the Prometheus text format. Counters are fed by the loops, depths read at scrape time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

# (queue, state) → how many live tasks.
Depths = Callable[[], Awaitable[Iterable[tuple[str, str, int]]]]
SCRAPE_SECONDS = 2.0
MEASURED = 20  # start delays of one claim

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW = (0.01, 0.05, 0.25, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


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
        self.finished = Counter(
            "galley_tasks_finished",
            "Runs ended, by what became of the task.",
            ["type", "outcome"],
            registry=self.registry,
        )
        self.run_seconds = Histogram(
            "galley_task_run_seconds", "Length of a run.", ["type"], buckets=_SLOW, registry=self.registry
        )
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
        self._of_runs: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._measure_engine()
        self._measure_queues()

    def count_claim(self, queue: str, waits: Sequence[float]) -> None:
        """Count the tasks of one claim, which had been due for *waits* seconds. Of many, MEASURED are measured: one costs a µs."""
        self.claimed.labels(queue).inc(len(waits))
        delay = self.start_delay.labels(queue)
        for seconds in waits[:: -(-len(waits) // MEASURED) or 1]:
            delay.observe(seconds)

    def count_run(self, type_name: str, outcome: str, seconds: float) -> None:
        """Count the end of a run. Finding the labels anew for each cost an executor at full speed 6 % of its time."""
        found = self._of_runs.get((type_name, outcome))
        if found is None:
            found = self.finished.labels(type_name, outcome), self.run_seconds.labels(type_name)
            self._of_runs[type_name, outcome] = found
        ended, length = found
        ended.inc()
        length.observe(seconds)

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
