"""Schedules: tasks made by the clock. Here they are made, changed, paused and run by hand; services/ticks.py decides their ticks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from services import tasks, ticks, timings
from services.errors import Conflict, Fault, Invalid, NotFound, PreconditionFailed
from services.faults import shown
from services.tasks import NewTask, Task
from services.ticks import Tick
from services.timings import Timing
from sql import SQL, Connection, savepoint

MISSED = ("skip", "once", "all")
OVERLAP = ("allow", "skip")
LONGEST_NAME, LONGEST_KEY = 100, 200
PREVIEWED = 5
_JUST_BEFORE = timedelta(microseconds=1)
_RANGES = {
    "priority": (0, 9),
    "timeout_seconds": (1, 604_800),
    "total_timeout_seconds": (1, 604_800),
    "max_attempts": (1, 100),
    "concurrency_limit": (1, 1000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """What a caller asks for: `cron` or `interval_seconds`. Of what is enqueued, None means the default of the task type or queue."""

    name: str
    type: str
    payload: dict[str, Any]
    cron: str | None = None
    time_zone: str = "UTC"
    interval_seconds: int | None = None
    missed: str = "once"
    overlap: str = "allow"
    queue: str | None = None
    priority: int = 2
    timeout_seconds: int | None = None
    total_timeout_seconds: int | None = None
    max_attempts: int | None = None
    concurrency_key: str | None = None
    concurrency_limit: int | None = None

    def task(self) -> NewTask:
        """Return what a tick enqueues."""
        return NewTask(
            type=self.type,
            payload=self.payload,
            queue=self.queue,
            priority=self.priority,
            timeout_seconds=self.timeout_seconds,
            total_timeout_seconds=self.total_timeout_seconds,
            max_attempts=self.max_attempts,
            concurrency_key=self.concurrency_key,
            concurrency_limit=self.concurrency_limit,
        )


_NAMES = tuple(field.name for field in fields(NewSchedule))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(NewSchedule):
    """A schedule. `next_tick_at` is None while it is paused without an end, when it was deleted, or will never tick again."""

    id: UUID
    anchor_at: datetime
    next_tick_at: datetime | None
    last_tick: Tick | None
    paused: bool
    paused_at: datetime | None
    paused_by: str | None
    resume_at: datetime | None
    version: int
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str
    deleted_at: datetime | None
    deleted_by: str | None

    @property
    def timing(self) -> Timing:
        """When it ticks."""
        return Timing(
            cron=self.cron,
            time_zone=self.time_zone,
            interval_seconds=self.interval_seconds,
            anchor_at=self.anchor_at,
        )

    @property
    def explanation(self) -> str:
        """When it ticks, in words."""
        return self.timing.explain()

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Schedule:
        """Build a schedule from its row with its latest tick."""
        return cls(
            **{name: row[name] for name in _NAMES},
            id=row["id"],
            anchor_at=row["anchor_at"],
            next_tick_at=row["next_tick_at"],
            last_tick=Tick.from_row(row) if row["tick_at"] else None,
            paused=row["paused"],
            paused_at=row["paused_at"] if row["paused"] else None,
            paused_by=row["paused_by"] if row["paused"] else None,
            resume_at=row["resume_at"] if row["paused"] else None,
            version=row["version"],
            created_at=row["created_at"],
            created_by=row["created_by"],
            updated_at=row["updated_at"],
            updated_by=row["updated_by"],
            deleted_at=row["deleted_at"],
            deleted_by=row["deleted_by"],
        )


async def create(db: Connection, tenant_id: UUID, new: NewSchedule, *, actor: str) -> Schedule:
    """Create a schedule; it ticks for the first time after now. Raises: Invalid naming each fault, Conflict (name taken)."""
    now: datetime = await db.fetchval(SQL["schedules.now"])
    timing = await _check(db, new, now)
    schedule_id = await db.fetchval(
        SQL["schedules.insert"], tenant_id, actor, *_columns(new, timing), timing.next(now)
    )
    if schedule_id is None:
        raise _taken(new.name)
    return await get(db, tenant_id, schedule_id)


async def get(db: Connection, tenant_id: UUID, schedule_id: UUID) -> Schedule:
    """Return a schedule, a deleted one too. Raises: NotFound."""
    row = await db.fetchrow(SQL["schedules.get"], tenant_id, schedule_id)
    if row is None:
        raise NotFound(f"there is no schedule {schedule_id}")
    return Schedule.from_row(row)


async def find(db: Connection, tenant_id: UUID, text: str) -> UUID:
    """Return the id of the schedule with this name, or this id. Raises: NotFound."""
    found: UUID | None = await db.fetchval(SQL["schedules.find"], tenant_id, text)
    if found is None:
        raise NotFound(f"there is no schedule {text}")
    return found


async def list_schedules(
    db: Connection,
    tenant_id: UUID,
    *,
    after: str | None = None,
    limit: int = 50,
    type: str | None = None,  # noqa: A002 - the column is called so
) -> list[Schedule]:
    """Return schedules by name, those after the name *after*."""
    rows = await db.fetch(SQL["schedules.list"], tenant_id, after, limit, type)
    return [Schedule.from_row(row) for row in rows]


async def preview(
    db: Connection, *, cron: str | None, time_zone: str, interval_seconds: int | None
) -> tuple[Timing, list[datetime]]:
    """Return how a schedule made now would tick, and its first ticks. Raises: Invalid naming each fault."""
    now: datetime = await db.fetchval(SQL["schedules.now"])
    timing = timings.check(cron, time_zone, interval_seconds, anchor_at=now)
    return timing, timing.first(now, PREVIEWED)


def list_next(schedule: Schedule) -> list[datetime]:
    """Return the next ticks of a schedule as things stand; none while it is paused without an end, or cannot be read any more."""
    if schedule.next_tick_at is None:
        return []
    try:
        return schedule.timing.first(schedule.next_tick_at - _JUST_BEFORE, PREVIEWED)
    except timings.UNREADABLE:
        return []


async def change(
    db: Connection, tenant_id: UUID, schedule_id: UUID, changes: dict[str, Any], *, version: int, actor: str
) -> Schedule:
    """Change what a schedule says, if it still says what *version* did. `cron` and `interval_seconds` take each other's place.

    Another timing counts from now on; otherwise the next tick stays. Raises: NotFound, PreconditionFailed, Conflict, Invalid.
    """
    row = await _lock(db, tenant_id, schedule_id)
    if row["version"] != version:
        raise PreconditionFailed("the schedule has been changed since: read it again before you change it")
    for one, other in (("cron", "interval_seconds"), ("interval_seconds", "cron")):
        if changes.get(one) is not None and other not in changes:
            changes = changes | {other: None}
    new = NewSchedule(**({name: row[name] for name in _NAMES} | changes))
    timing = await _check(db, new, row["now"])
    next_tick_at = _next(row, timing)
    before = Timing.from_row(row)
    if (timing.cron, timing.time_zone, timing.interval_seconds) == (
        before.cron,
        before.time_zone,
        before.interval_seconds,
    ):
        timing, next_tick_at = before, row["next_tick_at"]
    try:
        async with savepoint(db):
            await db.execute(
                SQL["schedules.change"], tenant_id, schedule_id, actor, *_columns(new, timing), next_tick_at
            )
    except asyncpg.UniqueViolationError:
        raise _taken(new.name) from None
    return await get(db, tenant_id, schedule_id)


async def pause(
    db: Connection, tenant_id: UUID, schedule_id: UUID, *, actor: str, resume_at: datetime | None = None
) -> Schedule:
    """Let it tick no more until *resume_at*, or until it is resumed; a second pause takes the place of the first.

    Raises: NotFound, Conflict when it was deleted, Invalid when that time has passed.
    """
    row = await _lock(db, tenant_id, schedule_id)
    if resume_at is not None and resume_at <= row["now"]:
        raise Invalid("resume_at has passed", faults=(Fault("/resume_at", "must be in the future"),))
    next_tick_at = (
        None if resume_at is None else Timing.from_row(row).next(_floor(row, resume_at - _JUST_BEFORE))
    )
    await db.execute(SQL["schedules.pause"], tenant_id, schedule_id, actor, resume_at, next_tick_at)
    return await get(db, tenant_id, schedule_id)


async def resume(db: Connection, tenant_id: UUID, schedule_id: UUID) -> Schedule:
    """Let it tick again, from now on; one that is not paused stays as it is. Raises: NotFound, Conflict when it was deleted."""
    row = await _lock(db, tenant_id, schedule_id)
    if row["paused"]:
        next_tick_at = Timing.from_row(row).next(_floor(row, row["now"]))
        await db.execute(SQL["schedules.resume"], tenant_id, schedule_id, next_tick_at)
    return await get(db, tenant_id, schedule_id)


async def run_now(
    db: Connection, tenant_id: UUID, schedule_id: UUID, *, actor: str, request_id: str | None = None
) -> Task:
    """Create its task now, paused or not; its ticks stay as they are. Raises: NotFound, Conflict (deleted), Invalid as `enqueue`."""
    row = await _lock(db, tenant_id, schedule_id)
    task = await tasks.enqueue(db, tenant_id, ticks.new_task(row), actor=actor, request_id=request_id)
    await db.execute(SQL["schedules.insert_run"], tenant_id, schedule_id, actor, task.id)
    return task


async def delete(db: Connection, tenant_id: UUID, schedule_id: UUID, *, actor: str) -> None:
    """Delete a schedule; its tasks go on, and its ticks stay readable. Deleting twice is fine. Raises: NotFound."""
    if await db.fetchval(SQL["schedules.delete"], tenant_id, schedule_id, actor) is None:
        await get(db, tenant_id, schedule_id)


async def _lock(db: Connection, tenant_id: UUID, schedule_id: UUID) -> asyncpg.Record:
    row = await db.fetchrow(SQL["schedules.lock"], tenant_id, schedule_id)
    if row is None:
        raise NotFound(f"there is no schedule {schedule_id}")
    if row["deleted_at"] is not None:
        raise Conflict(f"schedule {row['name']!r} was deleted", slug="schedule-deleted")
    return row


def _next(row: asyncpg.Record, timing: Timing) -> datetime | None:
    """Return the next tick of a schedule that gets *timing*, as far as a pause lets it tick."""
    if not row["paused"]:
        return timing.next(_floor(row, row["now"]))
    return None if row["resume_at"] is None else timing.next(_floor(row, row["resume_at"] - _JUST_BEFORE))


def _floor(row: asyncpg.Record, moment: datetime) -> datetime:
    """Return the moment after which to tick: *moment*, but never before what was decided, should the clock have gone back."""
    decided: datetime | None = row["decided_until"]
    return max(moment, decided) if decided else moment


async def _check(db: Connection, new: NewSchedule, now: datetime) -> Timing:
    """Return its timing. Raises: Invalid with every fault of what is wanted."""
    known = await tasks.list_queues(db)
    faults = _own_faults(new)
    if new.queue is not None and new.queue not in known:
        faults.append(Fault("/queue", f"must be one of {', '.join(known)}, not {shown(new.queue)}"))
    timing = None
    try:
        timing = timings.check(new.cron, new.time_zone, new.interval_seconds, anchor_at=now)
    except Invalid as exc:
        faults.extend(exc.faults)
    try:
        tasks.check(new.task())
    except Invalid as exc:
        faults.extend(exc.faults)
    if faults or timing is None:
        message = faults[0].message if len(faults) == 1 else f"{len(faults)} faults in the schedule"
        raise Invalid(message, faults=tuple(faults))
    return timing


def _own_faults(new: NewSchedule) -> list[Fault]:
    faults = []
    if not new.name.strip() or len(new.name) > LONGEST_NAME:
        faults.append(Fault("/name", f"must have 1 to {LONGEST_NAME} characters"))
    if len(new.concurrency_key or "") > LONGEST_KEY:
        faults.append(Fault("/concurrency_key", f"must have at most {LONGEST_KEY} characters"))
    if "\x00" in new.name or "\x00" in (new.concurrency_key or ""):
        faults.append(Fault("/name" if "\x00" in new.name else "/concurrency_key", "must not hold NUL"))
    for name, allowed in (("missed", MISSED), ("overlap", OVERLAP)):
        if getattr(new, name) not in allowed:
            faults.append(Fault(f"/{name}", f"must be one of {', '.join(allowed)}"))
    for name, (least, most) in _RANGES.items():
        value = getattr(new, name)
        if value is not None and not least <= value <= most:
            faults.append(Fault(f"/{name}", f"must be from {least} to {most}"))
    return faults


def _columns(new: NewSchedule, timing: Timing) -> list[Any]:
    """Return the columns that insert and change share, in their order."""
    told = asdict(new) | {"cron": timing.cron, "anchor_at": timing.anchor_at}
    return [told[name] for name in _COLUMNS]


_COLUMNS = (
    "name", "cron", "time_zone", "interval_seconds", "anchor_at", "missed", "overlap", "type", "payload", "queue", "priority",
    "timeout_seconds", "total_timeout_seconds", "max_attempts", "concurrency_key", "concurrency_limit",
)  # fmt: skip


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a schedule named {name!r} already", slug="name-taken")
