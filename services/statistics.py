"""How runs ended and how long they took, summed up from the rows that the engine adds as runs end: one per minute, queue, type, outcome."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

FAILED = ("failed", "timed_out")
RETRIED = ("retry_scheduled", "rescued")
MEASURED = ("succeeded", "failed", "retry_scheduled", "snoozed")  # of these, waiting and running were timed


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
