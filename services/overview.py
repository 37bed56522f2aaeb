"""What the overview shows: numbers over everything a tenant does, out of the numbers per minute that the engine keeps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from services import queues, statistics
from services.queues import Count
from services.statistics import Point, Summary
from services.task_states import FINAL
from sql import SQL, Connection

HOURS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What is live now, and the last HOURS full hours with the one under way. `cost_usd` is None where no price is known."""

    live: dict[str, Count]
    hours: tuple[Point, ...]
    day: Summary
    failed_by_type: tuple[tuple[str, int], ...]
    calls: int
    tokens: int
    cost_usd: Decimal | None

    @property
    def succeeded(self) -> int:
        """Tasks that succeeded in these hours."""
        return self.day.succeeded

    @property
    def failed(self) -> int:
        """Tasks that failed or timed out in these hours."""
        return self.day.failed


async def get(db: Connection, tenant_id: UUID) -> Numbers:
    """Return the numbers of now."""
    rows = await db.fetch(SQL["overview.ended_by_hour"], tenant_id, HOURS)
    spending = await db.fetchrow(SQL["overview.spending"], tenant_id, HOURS)
    now: datetime = await db.fetchval(SQL["overview.now"])
    assert spending is not None
    succeeded: Counter[datetime] = Counter()
    failed: Counter[datetime] = Counter()
    types: Counter[str] = Counter()
    for row in rows:
        if row["outcome"] == "succeeded":
            succeeded[row["hour"]] += row["tasks"]
        elif row["outcome"] in statistics.FAILED:
            failed[row["hour"]] += row["tasks"]
            types[row["type"]] += row["tasks"]
    latest = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [latest - timedelta(hours=back) for back in reversed(range(HOURS + 1))]
    return Numbers(
        live=await queues.count_live(db, cap=queues.GLANCE),
        hours=tuple(Point(at=at, succeeded=succeeded[at], failed=failed[at]) for at in hours),
        day=statistics.summarize(rows),
        failed_by_type=tuple(types.most_common()),
        calls=spending["calls"],
        tokens=spending["tokens"],
        cost_usd=spending["cost_usd"],
    )


async def count_ended(db: Connection, tenant_id: UUID) -> dict[str, int]:
    """Return how many tasks ended in each final state within the last HOURS full hours and the one under way."""
    rows = await db.fetch(SQL["overview.ended_by_hour"], tenant_id, HOURS)
    counted = Counter(dict.fromkeys(FINAL, 0))
    for row in rows:
        if row["outcome"] in counted:
            counted[row["outcome"]] += row["tasks"]
    return dict(counted)
