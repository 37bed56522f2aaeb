"""Alerts: when dead letters pile up or grow old, ready tasks wait too long, or too many tasks fail.

A rule says what is watched, and from which value on somebody is told. server/alarm.py has all rules of all tenants evaluated
every few seconds (app.evaluate_alerts); here they are read, changed and acknowledged.

    dead_letters      how many are open
    dead_letter_age   seconds since the oldest open one failed
    ready_age         seconds since the oldest ready task of a queue came due; each queue by itself
    failure_rate      the part of the tasks that ended within the window which failed or timed out, given a minimum of ends
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from services import task_types, tasks
from services.errors import Conflict, Fault, Invalid, NotFound, PreconditionFailed
from sql import SQL, Connection

KINDS = ("dead_letters", "dead_letter_age", "ready_age", "failure_rate")
AGES = ("dead_letter_age", "ready_age")
MOST = {
    "dead_letters": 10_000.0,
    "dead_letter_age": 31_536_000.0,
    "ready_age": 31_536_000.0,
    "failure_rate": 1.0,
}
WINDOW = (60, 86_400)
MINIMUM = (1, 1_000_000)
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What can be said about a rule at any time. `window_seconds` and `minimum` belong to failure_rate, which needs them."""

    threshold: float
    window_seconds: int | None = None
    minimum: int | None = None
    enabled: bool = True
    muted_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRule(Setting):
    """What is to be watched; queue and type None mean everything the tenant does."""

    kind: str
    queue: str | None = None
    type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(NewRule):
    """What is watched."""

    id: UUID
    muted: bool
    version: int
    created_at: datetime
    updated_at: datetime
    updated_by: str

    @property
    def general(self) -> bool:
        """Whether it is one of those that every tenant has."""
        return self.queue is None and self.type is None

    @property
    def text(self) -> str:
        """When somebody is told, in words."""
        about = _about(self.queue, self.type)
        limit = amount(self.kind, self.threshold)
        if self.kind == "dead_letters":
            return f"{limit} or more dead letters{about} are open"
        if self.kind == "dead_letter_age":
            return f"the oldest dead letter{about} is {limit} old"
        if self.kind == "ready_age":
            return f"a ready task in {f'queue {self.queue}' if self.queue else 'any queue'} waits for {limit}"
        assert self.window_seconds is not None
        window = amount("ready_age", self.window_seconds)
        return f"{limit} or more of the tasks{about} that ended in {window} failed, given {self.minimum} ends"

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Rule:
        """Build a rule from its row."""
        return cls(
            id=row["id"],
            kind=row["kind"],
            queue=row["queue"],
            type=row["type"],
            threshold=row["threshold"],
            window_seconds=row["window_seconds"],
            minimum=row["minimum"],
            enabled=row["enabled"],
            muted_until=row["muted_until"],
            muted=bool(row["muted"]),
            version=row["version"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            updated_by=row["updated_by"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What a rule found. `value` is the latest, at `checked_at`; of the kind's measure, like `threshold`."""

    id: UUID
    rule_id: UUID
    kind: str
    queue: str | None
    type: str | None
    threshold: float
    opened_at: datetime
    opened_value: float
    value: float
    worst: float
    checked_at: datetime
    closed_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None

    @property
    def text(self) -> str:
        """What is the matter, in words; of a closed one, how bad it was."""
        about = _about(self.queue, self.type)
        value = self.worst if self.closed_at else self.value
        found = amount(self.kind, value)
        if self.kind == "dead_letters":
            more = " or more" if value >= counted_to(self.threshold) else ""
            return f"{found}{more} dead letters{about} wait for a person"
        if self.kind == "dead_letter_age":
            return f"the oldest dead letter{about} has waited for {found}"
        if self.kind == "ready_age":
            return f"tasks in queue {self.queue} have been ready for {found}"
        return f"{found} of the tasks{about} that end fail"

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Alert:
        """Build an alert from its row."""
        return cls(
            id=row["id"],
            rule_id=row["rule_id"],
            kind=row["kind"],
            queue=row["queue"],
            type=row["type"],
            threshold=row["threshold"],
            opened_at=row["opened_at"],
            opened_value=row["opened_value"],
            value=row["value"],
            worst=row["worst"],
            checked_at=row["checked_at"],
            closed_at=row["closed_at"],
            acknowledged_at=row["acknowledged_at"],
            acknowledged_by=row["acknowledged_by"],
        )


def counted_to(threshold: float) -> float:
    """Return where app.evaluate_alerts ends counting dead letters: ten times what opens the alert says enough."""
    return min(10 * math.ceil(threshold), 100_000)


def amount(kind: str, value: float) -> str:
    """Return a value of *kind* in its unit: 12, 26 h, 61 %."""
    if kind == "failure_rate":
        return f"{100 * value:.3g} %"
    if kind not in AGES:
        return f"{value:,.0f}"
    for unit, length in _UNITS:
        if value >= 2 * length or unit == "s" or (value >= length and value % length == 0):
            return f"{value / length:.0f} {unit}"
    raise AssertionError("seconds fit everything")


async def create_rule(db: Connection, tenant_id: UUID, new: NewRule, *, actor: str) -> Rule:
    """Watch one queue or one type by a rule of its own. Raises: Invalid, Conflict when there is a rule about just this."""
    faults = _faults(new.kind, new)
    queues, types = await tasks.list_queues(db), sorted(task_types.load_all())
    if new.queue is not None and new.queue not in queues:
        faults.append(Fault("/queue", f"must be one of {', '.join(queues)}"))
    if new.type is not None and new.type not in types:
        faults.append(Fault("/type", f"must be one of {', '.join(types)}"))
    if new.type is not None and new.kind == "ready_age":
        faults.append(Fault("/type", "must be left out: how long tasks have been ready is known by queue"))
    _refuse(faults)
    await db.execute(SQL["alerts.ensure_rules"], tenant_id)
    rule_id = await db.fetchval(
        SQL["alerts.insert_rule"], tenant_id, actor, new.kind, new.queue, new.type, new.threshold, new.window_seconds, new.minimum
    )  # fmt: skip
    if rule_id is None:
        raise Conflict("there is a rule about just this already: change that one", slug="rule-taken")
    return await get_rule(db, tenant_id, rule_id)


async def get_rule(db: Connection, tenant_id: UUID, rule_id: UUID) -> Rule:
    """Return a rule. Raises: NotFound."""
    row = await db.fetchrow(SQL["alerts.get_rule"], tenant_id, rule_id)
    if row is None:
        raise NotFound(f"there is no alert rule {rule_id}")
    return Rule.from_row(row)


async def list_rules(db: Connection, tenant_id: UUID) -> list[Rule]:
    """Return all rules of the tenant, by kind, those about everything first."""
    await db.execute(SQL["alerts.ensure_rules"], tenant_id)
    return [Rule.from_row(row) for row in await db.fetch(SQL["alerts.list_rules"], tenant_id)]


async def change_rule(
    db: Connection, tenant_id: UUID, rule_id: UUID, setting: Setting, *, version: int, actor: str
) -> Rule:
    """Say everything about a rule anew, if it is still what *version* was. Raises: NotFound, PreconditionFailed, Invalid."""
    rule = await get_rule(db, tenant_id, rule_id)
    _refuse(_faults(rule.kind, setting))
    changed = await db.fetchval(
        SQL["alerts.change_rule"], tenant_id, rule_id, version, actor, setting.threshold, setting.window_seconds, setting.minimum,
        setting.enabled, setting.muted_until,
    )  # fmt: skip
    if changed is None:
        raise PreconditionFailed("the rule has been changed since: read it again before you change it")
    return await get_rule(db, tenant_id, rule_id)


async def delete_rule(db: Connection, tenant_id: UUID, rule_id: UUID) -> None:
    """Delete a rule about a queue or a type, with its alerts. Raises: NotFound, Conflict for one that every tenant has."""
    if await db.fetchval(SQL["alerts.delete_rule"], tenant_id, rule_id) is None:
        await get_rule(db, tenant_id, rule_id)
        raise Conflict(
            "every tenant has this rule: switch it off instead of deleting it", slug="rule-is-general"
        )


async def list_alerts(
    db: Connection,
    tenant_id: UUID,
    *,
    is_open: bool | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> list[Alert]:
    """Return alerts, newest first, those older than *before*."""
    rows = await db.fetch(SQL["alerts.list"], tenant_id, is_open, before, limit)
    return [Alert.from_row(row) for row in rows]


async def list_open(db: Connection, tenant_id: UUID) -> list[Alert]:
    """Return what somebody should see now: open alerts of rules that are not muted, those nobody has acknowledged first."""
    return [Alert.from_row(row) for row in await db.fetch(SQL["alerts.list_open"], tenant_id)]


async def count_new(db: Connection, tenant_id: UUID) -> int:
    """Return how many of list_open nobody has acknowledged."""
    found: int = await db.fetchval(SQL["alerts.count_new"], tenant_id)
    return found


async def get(db: Connection, tenant_id: UUID, alert_id: UUID) -> Alert:
    """Return an alert. Raises: NotFound."""
    row = await db.fetchrow(SQL["alerts.get"], tenant_id, alert_id)
    if row is None:
        raise NotFound(f"there is no alert {alert_id}")
    return Alert.from_row(row)


async def acknowledge(db: Connection, tenant_id: UUID, alert_id: UUID, *, actor: str) -> Alert:
    """Say that somebody sees to it; who said so first stays. Raises: NotFound."""
    await db.fetchval(SQL["alerts.acknowledge"], tenant_id, alert_id, actor)
    return await get(db, tenant_id, alert_id)


async def find_evaluated_at(db: Connection) -> datetime | None:
    """Return when all rules were last looked at, None before the first time."""
    found: datetime | None = await db.fetchval(SQL["alerts.evaluated_at"])
    return found


def _about(queue: str | None, type: str | None) -> str:  # noqa: A002 - the column is called so
    return (f" in queue {queue}" if queue else "") + (f" of type {type}" if type else "")


def _faults(kind: str, setting: Setting) -> list[Fault]:
    faults = [] if kind in KINDS else [Fault("/kind", f"must be one of {', '.join(KINDS)}")]
    most = MOST.get(kind, 1.0)
    if not 0 < setting.threshold <= most:
        faults.append(Fault("/threshold", f"must be above 0 and at most {most:g}"))
    for name, value, (least, greatest) in (
        ("window_seconds", setting.window_seconds, WINDOW),
        ("minimum", setting.minimum, MINIMUM),
    ):
        if kind == "failure_rate" and (value is None or not least <= value <= greatest):
            faults.append(Fault(f"/{name}", f"must be from {least} to {greatest}"))
        if kind != "failure_rate" and value is not None:
            faults.append(Fault(f"/{name}", "belongs to failure_rate only"))
    return faults


def _refuse(faults: list[Fault]) -> None:
    if faults:
        message = faults[0].message if len(faults) == 1 else f"{len(faults)} faults in the rule"
        raise Invalid(message, faults=tuple(faults))
