"""The one place where the parts meet: create_app() puts routes, middleware, engine and hints together."""

from __future__ import annotations

import asyncio
import gc
import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

import routes.api
import routes.pages
import routes.public
from routes import keys
from routes.api import health
from server import bulk, middleware, templating
from server.alarm import ROUND_SECONDS, Alarm
from server.database import Database
from server.executor import Executor
from server.listener import Listener
from server.maintenance import HOUSEKEEPING_SECONDS, RETENTION_SECONDS, SWEEP_SECONDS, Maintenance
from server.metrics import METRICS, Metrics
from server.migrations import read_migrations
from server.scheduler import LONGEST_PAUSE_SECONDS, Scheduler
from server.settings import RELEASE, Settings
from server.supervisor import Supervisor
from server.ticker import SWEEP_SECONDS as TICKS_SWEEP_SECONDS
from server.ticker import TICK_SECONDS, Ticker
from services.embeddings import Embedder
from services.errors import GalleyError
from services.llm import Provider
from services.task_context import Run
from services.tasks import Cancelled
from sql import SQL

MAX_BODY_BYTES = 16 * 1024 * 1024  # an upload; JSON bodies have a smaller limit of their own
READY_SECONDS = 2.0
# What makes work for this process: stopped before its executor drains.
PRODUCERS = (
    "scheduler",
    "rescuer",
    "sweeper",
    "housekeeper",
    "retention",
    "ticker",
    "tick sweeper",
    "alarm",
    "bulk operations",
)
MONTHS_AHEAD = 1  # for which history must have its partitions; three are made
# Python's cycle collector looks at everything alive after each 700 new objects: a quarter of the CPU of an executor at full speed.
# Nearly all that a task leaves behind is freed without it.
COLLECTOR_THRESHOLDS = (20_000, 20, 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a process has opened before its application is made."""

    settings: Settings
    database: Database
    provider: Provider | None
    embedder: Embedder
    base_url: str


class Engine:
    """The background of one process: executor and loops, as far as its role wants them, and the hints between replicas."""

    def __init__(self, parts: Parts, metrics: Metrics) -> None:
        self.supervisor = Supervisor()
        self.executor: Executor | None = None
        self.scheduler: Scheduler | None = None
        self.listener: Listener | None = None
        self.bulk: bulk.BulkOperations | None = None
        self._parts = parts
        self._metrics = metrics

    def start(self) -> None:
        """Start every loop that this process's role asks for."""
        gc.set_threshold(*COLLECTOR_THRESHOLDS)
        settings, database = self._parts.settings, self._parts.database
        if settings.role != "web":
            self.scheduler = Scheduler(database, on_work=self.wake)
            self.executor = Executor(
                database,
                options=settings.executor_options,
                provider=self._parts.provider,
                embedder=self._parts.embedder,
                on_ended=self._count,
                on_scheduled=self.scheduler.poke,
                on_claimed=self._metrics.count_claim,
            )
            self.executor.start(self.supervisor)
            maintenance = Maintenance(
                database,
                rescue_seconds=settings.rescue_seconds,
                on_work=self.wake,
                history_days=settings.history_retention_days,
            )
            self.supervisor.start("scheduler", self.scheduler.keep, interval=LONGEST_PAUSE_SECONDS)
            self.supervisor.start("rescuer", maintenance.keep_rescuing, interval=settings.rescue_seconds)
            self.supervisor.start("sweeper", maintenance.keep_sweeping, interval=SWEEP_SECONDS)
            self.supervisor.start("housekeeper", maintenance.keep_house, interval=HOUSEKEEPING_SECONDS)
            self.supervisor.start("retention", maintenance.keep_history, interval=RETENTION_SECONDS)
            ticker = Ticker(database, on_work=self.wake, history_days=settings.history_retention_days)
            self.supervisor.start("ticker", ticker.keep, interval=TICK_SECONDS)
            self.supervisor.start("alarm", Alarm(database).keep, interval=2 * ROUND_SECONDS)
            self.supervisor.start("tick sweeper", ticker.keep_swept, interval=2 * TICKS_SWEEP_SECONDS)
        self.bulk = bulk.BulkOperations(database, on_work=self.wake, on_cancelled=self.stop_cancelled)
        self.supervisor.start("bulk operations", self.bulk.keep, interval=bulk.BATCH_SECONDS)
        if settings.listen and database.can_listen:
            self.listener = Listener(
                database,
                probe_seconds=settings.listen_probe_seconds,
                on_wake=self._wake_here,
                on_cancelled=self._stop_here,
            )
            self.supervisor.start("listener", self.listener.keep, interval=settings.listen_probe_seconds)

    async def stop(self, hurry: asyncio.Event) -> None:
        """Drain the executor, then stop every loop. *hurry* skips the waiting."""
        if self.executor is not None:
            await self.supervisor.stop(*PRODUCERS)
            await self.executor.drain(hurry=hurry)
        await self.supervisor.stop()

    def carry_out(self) -> None:
        """A bulk operation has begun: look here at once; the other replicas look by themselves."""
        if self.bulk is not None:
            self.bulk.poke()

    def wake(self, queue: str) -> None:
        """A queue got work: look here at once, and tell the other replicas."""
        self._wake_here(queue)
        if self.listener is not None:
            self.listener.tell_work(queue)

    def stop_cancelled(self, cancelled: Sequence[Cancelled]) -> None:
        """Stop the runs of cancelled tasks wherever they are."""
        elsewhere = self._stop_here(cancelled)
        if elsewhere and self.listener is not None:
            self.listener.tell_cancelled(elsewhere)

    def _wake_here(self, queue: str) -> None:
        if self.executor is not None:
            self.executor.wake(queue)
        if self.scheduler is not None:
            self.scheduler.poke()

    def _stop_here(self, cancelled: Sequence[Cancelled]) -> list[Cancelled]:
        if self.executor is None:
            return [one for one in cancelled if one.executor_id is not None]
        return self.executor.stop_cancelled(cancelled)

    def _count(self, run: Run, outcome: str, seconds: float) -> None:
        self._metrics.runs.add(run.type, outcome, seconds)

    async def health(self) -> Mapping[str, str | None]:
        """Return one entry for each thing this process needs: None when proven lately, else what is wrong."""
        checks = {loop.name: loop.fault for loop in self.supervisor.health()}
        try:
            async with asyncio.timeout(READY_SECONDS), self._parts.database.statement() as db:
                applied = await db.fetchval("SELECT max(version) FROM schema_migrations")
                months = await db.fetchval(SQL["retention.months_ahead"])
                proven = self.executor is None or await db.fetchval(
                    SQL["executors.prove_write"], self.executor.lease.executor_id
                )
        except (GalleyError, TimeoutError, OSError) as exc:
            return checks | {"database": str(exc) or "it does not answer"}
        known = read_migrations()[-1].version
        checks["database"] = None if proven else "this executor is not registered"
        checks["partitions"] = (
            None
            if months >= MONTHS_AHEAD
            else f"history has room for {months} months ahead, {MONTHS_AHEAD} is the least"
        )
        checks["schema"] = (
            None if applied >= known else f"the database is at {applied}, this release needs {known}"
        )
        return checks

    async def depths(self) -> list[tuple[str, str, int]]:
        """Return (queue, state, tasks) of all live tasks, and refresh what the metrics say about slots and loops."""
        if self.executor is not None:
            self._metrics.slots_busy.set(self.executor.busy)
            self._metrics.slots_leaked.set(self.executor.leaked)
            self._metrics.loop_lag.set(self.executor.lag)
            self._metrics.stale_results.set(self.executor.stale_results)
        for loop in self.supervisor.health():
            self._metrics.loop_age.labels(loop.name).set(loop.age)
            self._metrics.loop_failures.labels(loop.name).set(loop.failures)
        async with self._parts.database.statement() as db:
            for row in await db.fetch(SQL["alerts.count_all_open"]):
                self._metrics.alerts_open.labels(row["kind"]).set(row["alerts"])
            return [(row["queue"], row["state"], row["tasks"]) for row in await db.fetch(SQL["tasks.depths"])]


ENGINE = web.AppKey("engine", Engine)
HURRY = web.AppKey("hurry", asyncio.Event)


def create_app(parts: Parts) -> web.Application:
    """Return the application of one process; its engine starts and stops with it."""
    settings = parts.settings
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[keys.SITE] = keys.Site(
        environment=settings.environment,
        base_url=parts.base_url,
        secret_key=settings.secret(),
        version=RELEASE,
        public_tenant=settings.public_tenant,
        embedded_model=settings.embedded_model,
        embedded_database=settings.embedded_database,
        model=parts.provider.model if parts.provider else "",
        allowed_origins=settings.allowed_origins,
        secure_cookies=parts.base_url.startswith("https://"),
    )
    app[keys.DATABASE] = parts.database
    app[keys.EMBEDDER] = parts.embedder
    if parts.provider is not None:
        app[keys.LLM] = parts.provider
    metrics = Metrics(release=RELEASE, depths=lambda: engine.depths())  # noqa: PLW0108 - the engine is made below
    engine = Engine(parts, metrics)
    app[METRICS] = metrics
    app[ENGINE] = engine
    app[HURRY] = asyncio.Event()
    app[keys.STOPPING] = asyncio.Event()
    app[keys.WAKE] = engine.wake
    app[keys.CANCELLED] = engine.stop_cancelled
    app[keys.CARRY_OUT] = engine.carry_out
    app[keys.HEALTH] = engine.health
    app[keys.SCRAPE] = metrics.render
    middleware.install(app)
    if settings.role == "executor":
        app.add_routes(health.probes)
    else:
        templating.install(app)
        for package in (routes.api, routes.pages, routes.public):
            _add_routes(app, package.__name__, package.__path__)
    app.on_startup.append(health.prepare_document)
    app.cleanup_ctx.append(_engine)
    return app


def _add_routes(app: web.Application, package: str, path: Iterable[str]) -> None:
    """Add the routes of every module of *package* that has some: a new page or call is a new file and nothing else."""
    for module_info in sorted(pkgutil.iter_modules(path), key=lambda info: info.name):
        module = importlib.import_module(f"{package}.{module_info.name}")
        if isinstance(table := getattr(module, "routes", None), web.RouteTableDef):
            app.add_routes(table)


async def _engine(app: web.Application) -> AsyncIterator[None]:
    app[ENGINE].start()
    yield
    await app[ENGINE].stop(app[HURRY])
