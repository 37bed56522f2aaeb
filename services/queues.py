"""Queues: what is in them, how fast they move, what they allow; pause, resume, limit, create, delete.

They belong to the installation. A tenant sees its own tasks in them; `installation=True` asks for everybody's, and that and
every change raise Forbidden unless the transaction's tenant operates the installation: the functions in PostgreSQL look.
Whatever is set is in force with the commit, on every replica: each claim reads the queue's row.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from services import statistics, task_types
from services.errors import Conflict, Fault, Invalid, NotFound, Unavailable
from services.installation import guarded
from services.statistics import Point, Summary
from services.task_states import LIVE
from sql import SQL, Connection, savepoint

CAP = 100_000  # counts are exact up to this; a page never reads more than so many entries of an index for one number
GLANCE = 10_000  # where a number stands among others: counting to here takes 2 ms
MINUTES = 60
MOST = 1_000_000
LEAST_RATE = 0.000001  # one task in eleven days; with much less the claim's arithmetic ends
NAME = re.compile(r"^[a-z][a-z0-9_-]{0,62}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue and its limits; None: unlimited. `paused_at` is None while it is not paused, also when the pause's date has passed."""

    name: str
    created_at: datetime
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    resume_at: datetime | None
    max_running: int | None
    max_running_per_tenant: int | None
    rate_per_second: float | None
    burst: int | None
    fair: bool
    updated_at: datetime | None
    updated_by: str | None

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Queue:
        """Build a queue from a row of queues.list."""
        return cls(
            name=row["name"],
            created_at=row["created_at"],
            paused_at=row["paused_at"],
            paused_by=row["paused_by"],
            pause_reason=row["pause_reason"],
            resume_at=row["resume_at"],
            max_running=row["max_running"],
            max_running_per_tenant=row["max_running_per_tenant"],
            rate_per_second=row["rate_per_second"],
            burst=row["burst"],
            fair=row["fair"],
            updated_at=row["updated_at"],
            updated_by=row["updated_by"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A number of tasks; `more` when there are more than that."""

    tasks: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A queue with what is in it now and what became of it in the last MINUTES minutes, oldest first. `depth` has every live state."""

    queue: Queue
    depth: dict[str, Count]
    oldest_ready_at: datetime | None
    minutes: tuple[Point, ...]
    recent: Summary
    own_limit: int | None  # another number than max_running_per_tenant, for the tenant that asks

    @property
    def is_empty(self) -> bool:
        """Whether nothing live is in it, as far as the caller sees."""
        return not any(count.tasks for count in self.depth.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLimit:
    """How many tasks of one tenant may run in a queue, instead of its max_running_per_tenant."""

    queue: str
    tenant: str
    max_running: int
    updated_at: datetime
    updated_by: str


async def report(
    db: Connection, tenant_id: UUID, *, installation: bool, name: str | None = None
) -> list[Report]:
    """Return what there is to say about each queue, or about the one called *name*, by name. Raises: Forbidden, NotFound."""
    found = [Queue.from_row(row) for row in await db.fetch(SQL["queues.list"], name)]
    if name is not None and not found:
        raise NotFound(f"there is no queue {name}")
    with guarded():
        counts = await db.fetch(SQL["queues.count_live"], installation, CAP)
        oldest = {
            row["queue"]: row["run_at"] for row in await db.fetch(SQL["queues.oldest_ready"], installation)
        }
        runs = await db.fetch(SQL["queues.recent_runs"], installation, MINUTES)
    own = {
        row["queue"]: row["max_running"] for row in await db.fetch(SQL["queues.find_own_limits"], tenant_id)
    }
    now: datetime = await db.fetchval(SQL["queues.minute"])
    return [
        Report(
            queue=queue,
            depth=_depth([row for row in counts if row["queue"] == queue.name]),
            oldest_ready_at=oldest.get(queue.name),
            minutes=_minutes([row for row in runs if row["queue"] == queue.name], now),
            recent=statistics.summarize(row for row in runs if row["queue"] == queue.name),
            own_limit=own.get(queue.name),
        )
        for queue in found
    ]


async def count_live(db: Connection, *, cap: int = CAP) -> dict[str, Count]:
    """Return how many live tasks the transaction's tenant has in each state, over all queues; *cap* is for each of them."""
    return _depth(await db.fetch(SQL["queues.count_live"], False, cap))


async def get(db: Connection, name: str) -> Queue:
    """Return a queue. Raises: NotFound."""
    row = await db.fetchrow(SQL["queues.list"], name)
    if row is None:
        raise NotFound(f"there is no queue {name}")
    return Queue.from_row(row)


async def list_tenant_limits(db: Connection, name: str) -> list[TenantLimit]:
    """Return what single tenants may have running in a queue, by tenant. Raises: Forbidden."""
    with guarded():
        rows = await db.fetch(SQL["queues.list_tenant_limits"])
    return [
        TenantLimit(
            queue=row["queue"],
            tenant=row["tenant"],
            max_running=row["max_running"],
            updated_at=row["updated_at"],
            updated_by=row["updated_by"],
        )
        for row in rows
        if row["queue"] == name
    ]


async def create(db: Connection, name: str, limits: Mapping[str, Any], *, actor: str) -> Queue:
    """Create a queue with *limits* as in `change`. Raises: Forbidden, Invalid, Conflict."""
    if not NAME.fullmatch(name):
        raise _invalid(
            "/name", "must begin with a small letter and go on with small letters, digits, _ and -, 63 in all"
        )
    with guarded():
        created = await db.fetchval(SQL["queues.create"], name, actor)
    if not created:
        raise Conflict(f"there is a queue {name} already", slug="queue-exists")
    return await change(db, name, limits, actor=actor)


async def change(db: Connection, name: str, changes: Mapping[str, Any], *, actor: str) -> Queue:
    """Set those of max_running, max_running_per_tenant, rate_per_second, burst and fair that are given; None takes a limit away.

    A rate without a burst lets one second's worth through at once; so does a burst that is taken away. Raises: Forbidden, NotFound, Invalid.
    """
    complete = _complete(await get(db, name), changes)
    with guarded():
        await db.fetchval(SQL["queues.change"], name, complete, actor)
    return await get(db, name)


async def pause(
    db: Connection, name: str, *, actor: str, reason: str | None = None, until: datetime | None = None
) -> Queue:
    """Let nothing more of a queue start, *until* then or until it is resumed; what runs goes on. Raises: Forbidden, NotFound, Invalid."""
    if until is not None and not await db.fetchval(SQL["queues.lies_ahead"], until):
        raise _invalid("/until", "must lie ahead")
    if reason is not None and not 1 <= len(reason) <= 500:
        raise _invalid("/reason", "must have 1 to 500 characters")
    with guarded():
        found = await db.fetchval(SQL["queues.pause"], name, until, reason, actor)
    if not found:
        raise NotFound(f"there is no queue {name}")
    return await get(db, name)


async def resume(db: Connection, name: str) -> Queue:
    """Let a queue's tasks start again; one that is not paused stays as it is. Raises: Forbidden, NotFound."""
    with guarded():
        found = await db.fetchval(SQL["queues.resume"], name)
    if not found:
        raise NotFound(f"there is no queue {name}")
    return await get(db, name)


async def limit_tenant(
    db: Connection, name: str, tenant: str, max_running: int | None, *, actor: str
) -> Queue:
    """Let one tenant run *max_running* tasks of a queue at once; None: as many as the queue says. Raises: Forbidden, NotFound, Invalid."""
    if max_running is not None:
        _check_whole("max_running", max_running)
    with guarded():
        missing = await db.fetchval(SQL["queues.limit_tenant"], name, tenant, max_running, actor)
    if missing is not None:
        raise NotFound(f"there is no {missing} {name if missing == 'queue' else tenant}")
    return await get(db, name)


async def delete(db: Connection, name: str) -> None:
    """Delete an empty queue. Raises: Forbidden, NotFound, Conflict (it has tasks, or a task type goes there), Unavailable."""
    types = sorted(one.name for one in task_types.load_all().values() if one.queue == name)
    if types:
        raise Conflict(
            f"tasks of type {types[0]} go to queue {name} unless told otherwise", slug="queue-in-use"
        )
    try:
        with guarded():
            async with savepoint(db):
                found = await db.fetchval(SQL["queues.delete"], name)
    except asyncpg.ForeignKeyViolationError as exc:
        raise Conflict(
            f"queue {name} is in use: cancel its tasks or wait until they have ended", slug="queue-in-use"
        ) from exc
    except asyncpg.LockNotAvailableError as exc:
        raise Unavailable(f"queue {name} is being used; try again", slug="queue-busy", retry_after=1) from exc
    if not found:
        raise NotFound(f"there is no queue {name}")


def _depth(rows: list[asyncpg.Record]) -> dict[str, Count]:
    return {
        state: Count(
            tasks=sum(row["tasks"] for row in rows if row["state"] == state),
            more=any(row["more"] for row in rows if row["state"] == state),
        )
        for state in LIVE
    }


def _minutes(rows: list[asyncpg.Record], now: datetime) -> tuple[Point, ...]:
    succeeded: Counter[datetime] = Counter()
    failed: Counter[datetime] = Counter()
    for row in rows:
        if row["outcome"] == "succeeded":
            succeeded[row["minute"]] += row["tasks"]
        elif row["outcome"] in statistics.FAILED:
            failed[row["minute"]] += row["tasks"]
    moments = [now - timedelta(minutes=back) for back in reversed(range(MINUTES))]
    return tuple(Point(at=at, succeeded=succeeded[at], failed=failed[at]) for at in moments)


def _complete(queue: Queue, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return *changes* with the burst that a rate needs. Raises: Invalid."""
    wanted = dict(changes)
    for name in ("max_running", "max_running_per_tenant", "burst"):
        if wanted.get(name) is not None:
            _check_whole(name, wanted[name])
    if "fair" in wanted and not isinstance(wanted["fair"], bool):
        raise _invalid("/fair", "must be true or false")
    rate = wanted.get("rate_per_second", queue.rate_per_second)
    if rate is None:
        if wanted.get("burst") is not None:
            raise _invalid("/burst", "needs a rate_per_second")
        return wanted | {"burst": None}
    if not LEAST_RATE <= rate <= MOST:
        raise _invalid("/rate_per_second", f"must be from {LEAST_RATE:f} to {MOST:,}")
    kept = None if wanted.keys() & {"rate_per_second", "burst"} else queue.burst
    return wanted | {"burst": wanted.get("burst") or kept or max(1, math.ceil(rate))}


def _check_whole(name: str, value: int) -> None:
    if not 1 <= value <= MOST:
        raise _invalid(f"/{name}", f"must be a whole number from 1 to {MOST:,}")


def _invalid(pointer: str, message: str) -> Invalid:
    return Invalid(f"{pointer.lstrip('/')} {message}", faults=(Fault(pointer, message),))
