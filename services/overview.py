"""What the overview shows: numbers over everything a tenant does, derived from the tables of the other nouns."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import asyncpg

from services import tasks
from sql import SQL, Connection

HOURS = 24
# Counting a day with half a million tasks takes 0.6 s. What took long is kept for REST times as long, so that however many people
# watch, counting costs one twentieth of a core; what is quick is counted each time. Derived numbers only, each replica its own.
REST = 20
MOST_TENANTS = 1000
_kept: dict[UUID, tuple[float, list[asyncpg.Record]]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """How many tasks ended in the hour that began *at*; `failed` has the timed out ones too, cancelled ones count nowhere."""

    at: datetime
    succeeded: int
    failed: int

    @property
    def total(self) -> int:
        """Succeeded and failed together."""
        return self.succeeded + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The tenant's last HOURS hours and what is live now. `cost_usd` is None where no price is known."""

    live: dict[str, int]
    hours: tuple[Hour, ...]
    failed_by_type: tuple[tuple[str, int], ...]
    calls: int
    tokens: int
    cost_usd: Decimal | None

    @property
    def succeeded(self) -> int:
        """Tasks that succeeded in these hours."""
        return sum(hour.succeeded for hour in self.hours)

    @property
    def failed(self) -> int:
        """Tasks that failed or timed out in these hours."""
        return sum(hour.failed for hour in self.hours)


async def get(db: Connection, tenant_id: UUID) -> Numbers:
    """Return the numbers of now."""
    finished = await _finished(db, tenant_id)
    spending = await db.fetchrow(SQL["overview.spending"], tenant_id, HOURS)
    now: datetime = await db.fetchval(SQL["overview.now"])
    assert spending is not None
    succeeded: Counter[datetime] = Counter()
    failed: Counter[datetime] = Counter()
    types: Counter[str] = Counter()
    for row in finished:
        if row["state"] == "succeeded":
            succeeded[row["hour"]] += row["tasks"]
        elif row["state"] != "cancelled":
            failed[row["hour"]] += row["tasks"]
            types[row["type"]] += row["tasks"]
    latest = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [latest - timedelta(hours=back) for back in reversed(range(HOURS + 1))]
    return Numbers(
        live=await tasks.count_live(db, tenant_id),
        hours=tuple(Hour(at=at, succeeded=succeeded[at], failed=failed[at]) for at in hours),
        failed_by_type=tuple(types.most_common()),
        calls=spending["calls"],
        tokens=spending["tokens"],
        cost_usd=spending["cost_usd"],
    )


async def _finished(db: Connection, tenant_id: UUID) -> list[asyncpg.Record]:
    """Return the rows of finished_by_hour, counted now or not long ago."""
    until, rows = _kept.get(tenant_id, (0.0, []))
    started = time.monotonic()
    if started < until:
        return rows
    rows = await db.fetch(SQL["overview.finished_by_hour"], tenant_id, HOURS)
    took = time.monotonic() - started
    if len(_kept) >= MOST_TENANTS:
        _kept.clear()
    _kept[tenant_id] = (started + took + REST * took if took > 0.05 else 0.0, rows)
    return rows
