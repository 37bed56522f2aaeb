"""Alerts for programs: what is open, what was, and the rules behind it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from aiohttp import web
from pydantic import Field

from routes.api.kernel import (
    Answer,
    Body,
    Call,
    Instant,
    Int,
    JSONObject,
    Page,
    PageQuery,
    View,
    operation,
)
from routes.api.tasks import Name
from services import alerts
from services.alerts import Alert, NewRule, Rule, Setting
from services.task_context import Connection

routes = web.RouteTableDef()

Kind = Literal["dead_letters", "dead_letter_age", "ready_age", "failure_rate"]
Threshold = Annotated[
    float, Field(gt=0, le=31_536_000, description="A number, seconds, or the failed part of all ends.")
]


class RuleSetting(Body):
    """All that can be said about a rule at any time."""

    threshold: Threshold
    window_seconds: Annotated[Int, Field(ge=60, le=86_400)] | None = Field(
        default=None, description="Of failure_rate only."
    )
    minimum: Annotated[Int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Of failure_rate only: fewer ends within the window say nothing."
    )
    enabled: bool = True
    muted_until: Instant | None = Field(
        default=None, description="Until then it opens no alert, and no banner shows it."
    )


class NewRuleBody(Body):
    """One queue or one type to watch by a rule of its own."""

    kind: Kind
    queue: Name | None = None
    type: Name | None = None
    threshold: Threshold
    window_seconds: Annotated[Int, Field(ge=60, le=86_400)] | None = None
    minimum: Annotated[Int, Field(ge=1, le=1_000_000)] | None = None


class RuleView(View):
    """What is watched."""

    id: UUID
    kind: Kind
    queue: str | None = Field(description="Null: all; of ready_age each one by itself.")
    type: str | None
    threshold: float
    window_seconds: int | None
    minimum: int | None
    enabled: bool
    muted: bool
    muted_until: datetime | None
    general: bool = Field(
        description="One of those that every tenant has; it can be switched off, not deleted."
    )
    text: str = Field(description="When somebody is told, in words.")
    version: int
    created_at: datetime
    updated_at: datetime
    updated_by: str


class AlertView(View):
    """What a rule found."""

    id: UUID
    rule_id: UUID
    kind: Kind
    queue: str | None
    type: str | None
    text: str = Field(description="What is the matter, in words.")
    threshold: float
    opened_at: datetime
    opened_value: float
    value: float = Field(description="The latest, at checked_at.")
    worst: float
    checked_at: datetime
    closed_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None


class AlertFilter(PageQuery):
    """Which alerts."""

    state: Literal["open", "closed"] | None = None


@operation(
    routes,
    "GET",
    "/api/v1/alerts",
    name="alerts.list",
    summary="List alerts, newest first",
    role="viewer",
    answer=Page[AlertView],
)
async def list_alerts(call: Call, db: Connection, query: AlertFilter) -> JSONObject:
    after = call.after(query)
    rows = await alerts.list_alerts(
        db,
        call.tenant_id,
        is_open=None if query.state is None else query.state == "open",
        before=UUID(str(after[0])) if after else None,
        limit=query.limit + 1,
    )
    return call.page(rows, query, lambda alert: (alert.id,))


@operation(
    routes,
    "GET",
    "/api/v1/alerts/{alert_id}",
    name="alerts.get",
    summary="Look at an alert",
    role="viewer",
    answer=AlertView,
)
async def get(call: Call, db: Connection, alert_id: UUID) -> Alert:
    return await alerts.get(db, call.tenant_id, alert_id)


@operation(
    routes,
    "POST",
    "/api/v1/alerts/{alert_id}/acknowledge",
    name="alerts.acknowledge",
    summary="Say that somebody sees to an alert",
    description="Who said so first stays. It closes by itself, once its value has been well below the threshold for a minute.",
    role="operator",
    answer=AlertView,
)
async def acknowledge(call: Call, db: Connection, alert_id: UUID) -> Alert:
    return await alerts.acknowledge(db, call.tenant_id, alert_id, actor=call.actor)


@operation(
    routes,
    "GET",
    "/api/v1/alerts/rules",
    name="alerts.list_rules",
    summary="List the rules behind the alerts",
    role="viewer",
    answer=Page[RuleView],
)
async def list_rules(call: Call, db: Connection) -> JSONObject:
    return {"items": await alerts.list_rules(db, call.tenant_id), "next_cursor": None}


@operation(
    routes,
    "POST",
    "/api/v1/alerts/rules",
    name="alerts.create_rule",
    summary="Watch a queue or a type by a rule of its own",
    role="operator",
    answer=RuleView,
    status=201,
    idempotent=True,
    errors=(409,),
)
async def create_rule(call: Call, db: Connection, body: NewRuleBody) -> Answer:
    rule = await alerts.create_rule(db, call.tenant_id, NewRule(**body.model_dump()), actor=call.actor)
    return Answer(rule, etag=_tag(rule), location=call.url("alerts.get_rule", rule_id=rule.id))


@operation(
    routes,
    "GET",
    "/api/v1/alerts/rules/{rule_id}",
    name="alerts.get_rule",
    summary="Look at a rule",
    role="viewer",
    answer=RuleView,
)
async def get_rule(call: Call, db: Connection, rule_id: UUID) -> Answer:
    rule = await alerts.get_rule(db, call.tenant_id, rule_id)
    return Answer(rule, etag=_tag(rule))


@operation(
    routes,
    "PUT",
    "/api/v1/alerts/rules/{rule_id}",
    name="alerts.change_rule",
    summary="Say everything about a rule anew: threshold, window, switched off, muted",
    role="operator",
    answer=RuleView,
    if_match=True,
)
async def change_rule(call: Call, db: Connection, rule_id: UUID, body: RuleSetting) -> Answer:
    seen = await alerts.get_rule(db, call.tenant_id, rule_id)
    call.require_match(_tag(seen))
    setting = Setting(**body.model_dump())
    rule = await alerts.change_rule(
        db, call.tenant_id, rule_id, setting, version=seen.version, actor=call.actor
    )
    return Answer(rule, etag=_tag(rule))


@operation(
    routes,
    "DELETE",
    "/api/v1/alerts/rules/{rule_id}",
    name="alerts.delete_rule",
    summary="Delete a rule about a queue or a type, with its alerts",
    role="operator",
    status=204,
    errors=(409,),
)
async def delete_rule(call: Call, db: Connection, rule_id: UUID) -> None:
    await alerts.delete_rule(db, call.tenant_id, rule_id)


def _tag(rule: Rule) -> str:
    return f"{rule.version}{'m' if rule.muted else ''}"  # a mute ends by itself
