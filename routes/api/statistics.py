"""Statistics for programs: how many runs ended and how long they waited and took."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from aiohttp import web
from pydantic import Field

from routes.api.kernel import Call, JSONObject, Query, Text, View, operation
from services import installation, statistics
from services.statistics import Line, Percentiles
from services.task_context import Connection

routes = web.RouteTableDef()


class Span(Query):
    """Of which runs, and how far back."""

    window: Literal["1h", "24h", "7d"] = Field(
        default="24h", description="The minute, hour or six hours under way come on top."
    )
    queue: Text | None = Field(default=None, max_length=100)
    type: Text | None = Field(default=None, max_length=100)


class LengthsView(View):
    """Lengths of time in seconds; null where nothing was timed. Percentiles are right within 19 %: they are counted by ranges so wide."""

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    longest: float | None


class PointView(View):
    """What ended in one step."""

    at: datetime
    succeeded: int
    failed: int


class LineView(View):
    """What became of runs. Tasks, except `retried` and `snoozed`, which are runs."""

    succeeded: int
    failed: int
    cancelled: int
    retried: int
    snoozed: int
    wait_seconds: LengthsView = Field(description="From due to started.")
    run_seconds: LengthsView = Field(description="From started to ended, of each run.")
    points: list[PointView] = Field(description="Oldest first; the last one is under way.")


class KindView(LineView):
    """The same for one type in one queue."""

    queue: str
    type: str


class StatisticsView(View):
    """A window."""

    installation: bool = Field(
        description="The numbers are those of all tenants; else they are the caller's own."
    )
    window: str
    since: datetime
    step_seconds: int = Field(description="How long each point is.")
    whole: LineView = Field(description="Everything together.")
    items: list[KindView] = Field(description="By queue and type, the one with most runs first.")


@operation(
    routes, "GET", "/api/v1/statistics", name="statistics.get", summary="Numbers and lengths of runs", role="viewer",
    answer=StatisticsView, description="Operators of a tenant that operates the installation see the numbers of all tenants, everybody else their own.",
)  # fmt: skip
async def get(call: Call, db: Connection, query: Span) -> JSONObject:
    window = statistics.WINDOWS[query.window]
    sees_all = await installation.operates(db) and call.principal.may("operator")
    report = await statistics.report(db, window, installation=sees_all, queue=query.queue, type=query.type)
    return {
        "installation": sees_all,
        "window": query.window,
        "since": report.since,
        "step_seconds": int(report.step.total_seconds()),
        "whole": _view(report.whole),
        "items": [_view(line) | {"queue": line.queue, "type": line.type} for line in report.lines],
    }


def _view(line: Line) -> JSONObject:
    found = line.summary
    counts = {
        name: getattr(found, name) for name in ("succeeded", "failed", "cancelled", "retried", "snoozed")
    }
    return counts | {
        "wait_seconds": _lengths(line.wait) | _seconds(mean=found.mean_wait, longest=found.longest_wait),
        "run_seconds": _lengths(line.run) | _seconds(mean=found.mean_run, longest=found.longest_run),
        "points": list(line.points),
    }


def _lengths(found: Percentiles | None) -> JSONObject:
    if found is None:
        return _seconds(p50=None, p95=None, p99=None)
    return _seconds(p50=found.p50, p95=found.p95, p99=found.p99)


def _seconds(**spans: timedelta | None) -> JSONObject:
    return {name: None if span is None else span.total_seconds() for name, span in spans.items()}
