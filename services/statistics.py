"""How runs ended and how long they took, summed up from the rows that the engine adds as runs end: one per minute, queue, type, outcome.

Lengths are counted by ranges that are 19 % wide (app.length_range), so a percentile is right within its range: nothing is sampled, and
nothing is lost by adding rows up.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from services.installation import guarded
from sql import SQL, Connection

FAILED = ("failed", "timed_out")
RETRIED = ("retry_scheduled", "rescued")
MEASURED = ("succeeded", "failed", "retry_scheduled", "snoozed")  # of these, waiting and running were timed
PER_DOUBLING = 4  # ranges, as app.length_range has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A length of time that ends now, and the steps in which it is drawn; the step under way comes on top."""

    length: timedelta
    step: timedelta

    @property
    def by_hours(self) -> bool:
        """Whether the rows per hour are fine enough."""
        return self.step >= timedelta(hours=1)


WINDOWS: Mapping[str, Window] = {
    "1h": Window(length=timedelta(hours=1), step=timedelta(minutes=1)),
    "24h": Window(length=timedelta(hours=24), step=timedelta(hours=1)),
    "7d": Window(length=timedelta(days=7), step=timedelta(hours=6)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`retried` and `snoozed` count runs, the others tasks. Waits are from due to started; None where nothing was timed."""

    succeeded: int
    failed: int
    cancelled: int
    retried: int
    snoozed: int
    mean_wait: timedelta | None
    longest_wait: timedelta | None
    mean_run: timedelta | None
    longest_run: timedelta | None

    @property
    def ended(self) -> int:
        """Tasks that succeeded or failed."""
        return self.succeeded + self.failed

    @property
    def runs(self) -> int:
        """Runs that ended, whatever became of their tasks; those that a cancel ended are left out."""
        return self.ended + self.retried + self.snoozed


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Half of all took at most `p50`, 95 of 100 at most `p95`, 99 at most `p99`; each within the range that it lies in."""

    p50: timedelta
    p95: timedelta
    p99: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """How many tasks ended in the step that began *at*; `failed` has the timed out ones too, cancelled ones count nowhere."""

    at: datetime
    succeeded: int
    failed: int

    @property
    def total(self) -> int:
        """Succeeded and failed together."""
        return self.succeeded + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What became of the runs of one type in one queue, or of all (None). Percentiles are None where nothing was timed."""

    queue: str | None
    type: str | None
    summary: Summary
    wait: Percentiles | None
    run: Percentiles | None
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A window's lines, the one with most runs first, and all of them in one."""

    since: datetime
    step: timedelta
    whole: Line
    lines: tuple[Line, ...]


async def report(
    db: Connection,
    window: Window,
    *,
    installation: bool,
    queue: str | None = None,
    type: str | None = None,  # noqa: A002 - the column is called so
) -> Report:
    """Return what became of the runs in *window* of the transaction's tenant, or of all tenants; of one queue or type if one is named.

    Raises: Forbidden where a tenant asks for all that does not operate the installation.
    """
    latest: datetime = await db.fetchval(SQL["statistics.step_under_way"], window.step)
    since = latest - window.length
    which = (installation, since, window.by_hours)
    with guarded():
        rows = await db.fetch(SQL["statistics.points"], *which, window.step, queue, type)
        spreads = await db.fetch(SQL["statistics.spreads"], *which, queue, type)
    moments = [since + window.step * place for place in range(window.length // window.step + 1)]
    kinds: defaultdict[tuple[str, str], tuple[list[asyncpg.Record], list[asyncpg.Record]]]
    kinds = defaultdict(lambda: ([], []))
    for row in rows:
        kinds[row["queue"], row["type"]][0].append(row)
    for row in spreads:
        kinds[row["queue"], row["type"]][1].append(row)
    lines = [_line(*kind, *found, moments) for kind, found in sorted(kinds.items())]
    return Report(
        since=since,
        step=window.step,
        whole=_line(queue, type, rows, spreads, moments),
        lines=tuple(sorted(lines, key=lambda line: -line.summary.runs)),
    )


def summarize(rows: Iterable[asyncpg.Record]) -> Summary:
    """Add up rows with outcome, tasks, waited_ms, waited_max_ms, ran_ms and ran_max_ms."""
    found = list(rows)
    timed = [row for row in found if row["outcome"] in MEASURED]
    runs = sum(row["tasks"] for row in timed)

    def count(*outcomes: str) -> int:
        return sum(row["tasks"] for row in found if row["outcome"] in outcomes)

    def mean(column: str) -> timedelta | None:
        return timedelta(milliseconds=sum(int(row[column]) for row in timed) / runs) if runs else None

    def longest(column: str) -> timedelta | None:
        return timedelta(milliseconds=max(int(row[column]) for row in timed)) if runs else None

    return Summary(
        succeeded=count("succeeded"),
        failed=count(*FAILED),
        cancelled=count("cancelled"),
        retried=count(*RETRIED),
        snoozed=count("snoozed"),
        mean_wait=mean("waited_ms"),
        longest_wait=longest("waited_max_ms"),
        mean_run=mean("ran_ms"),
        longest_run=longest("ran_max_ms"),
    )


def percentile(runs: Counter[int], share: float) -> timedelta:
    """Return what *share* of the runs took at most, out of how many lie in each range: at least one. Within a range they are taken to lie evenly."""
    rank = share * runs.total()
    for place in sorted(runs):
        if rank <= runs[place]:
            within = rank / runs[place]
            return timedelta(milliseconds=2 ** ((place - 1 + within) / PER_DOUBLING) if place else within)
        rank -= runs[place]
    raise ValueError("nothing was timed")


def _line(
    queue: str | None,
    type: str | None,  # noqa: A002 - the column is called so
    rows: list[asyncpg.Record],
    spreads: list[asyncpg.Record],
    moments: list[datetime],
) -> Line:
    succeeded: Counter[datetime] = Counter()
    failed: Counter[datetime] = Counter()
    for row in rows:
        if row["outcome"] == "succeeded":
            succeeded[row["at"]] += row["tasks"]
        elif row["outcome"] in FAILED:
            failed[row["at"]] += row["tasks"]
    waits: Counter[int] = Counter()
    lengths: Counter[int] = Counter()
    for row in spreads:
        (waits if row["waited"] else lengths)[row["range"]] += row["runs"]
    return Line(
        queue=queue,
        type=type,
        summary=summarize(rows),
        wait=_percentiles(waits, max((row["waited_max_ms"] for row in rows), default=0)),
        run=_percentiles(lengths, max((row["ran_max_ms"] for row in rows), default=0)),
        points=tuple(Point(at=at, succeeded=succeeded[at], failed=failed[at]) for at in moments),
    )


def _percentiles(runs: Counter[int], longest_ms: int) -> Percentiles | None:
    """Return them, none above the longest of any outcome, which is kept in whole milliseconds: the last range goes on beyond it."""
    if not runs:
        return None
    most = timedelta(milliseconds=longest_ms + 1)
    p50, p95, p99 = (min(percentile(runs, share), most) for share in (0.5, 0.95, 0.99))
    return Percentiles(p50=p50, p95=p95, p99=p99)
