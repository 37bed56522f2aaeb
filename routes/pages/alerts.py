"""Alerts: what is the matter, what was, and the rules that say when somebody is told."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from routes.pages import frame, live
from services import alerts, task_types, tasks
from services.alerts import NewRule, Rule, Setting
from services.errors import Fault, GalleyError, Invalid

routes = web.RouteTableDef()

_LIVE_SECONDS = 3.0
_FRAGMENTS = {"alerts-open": "alerts/_open.html"}
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
_EMPTY = {
    "kind": "dead_letters",
    "queue": "",
    "type": "",
    "threshold": "",
    "unit": "min",
    "window": "15",
    "minimum": "20",
}


@routes.get("/desk/alerts", name="desk.alerts")
async def list_(request: web.Request) -> web.Response:
    """What is open, what was, and the rules."""
    async with frame.open_desk(request) as desk:
        return await _page(desk)


@routes.get("/desk/alerts/live", name="desk.alerts_live", allow_head=False)
async def watch(request: web.Request) -> web.StreamResponse:
    """What is open, again and again."""
    return await live.watch(request, _read_open, _FRAGMENTS, poll_seconds=_LIVE_SECONDS)


@routes.post("/desk/alerts/{alert_id}/acknowledge", name="desk.alert_acknowledge")
async def acknowledge(request: web.Request) -> web.Response:
    """Somebody sees to it."""
    await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        await alerts.acknowledge(
            desk.db, desk.tenant_id, frame.part(request, "alert_id"), actor=desk.principal.actor
        )
    return frame.go(request, "desk.alerts", done="alert-acknowledged")


@routes.post("/desk/alerts/rules", name="desk.alert_rules")
async def create_rule(request: web.Request) -> web.Response:
    """Watch a queue or a type by a rule of its own."""
    form = _EMPTY | await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        try:
            new = NewRule(
                kind=form["kind"],
                queue=form["queue"] or None,
                type=form["type"] or None,
                **_read_measure(form["kind"], form),
            )
            await alerts.create_rule(desk.db, desk.tenant_id, new, actor=desk.principal.actor)
        except GalleyError as exc:
            return await _page(desk, fault=exc, form=form)
    return frame.go(request, "desk.alerts", done="rule-created", fragment="rules")


@routes.get("/desk/alerts/rules/{rule_id}", name="desk.alert_rule")
async def show_rule(request: web.Request) -> web.Response:
    """One rule, to be changed."""
    async with frame.open_desk(request, "operator") as desk:
        rule = await alerts.get_rule(desk.db, desk.tenant_id, frame.part(request, "rule_id"))
    return desk.page("alerts/rule.html", rule=rule, form=_written(rule), units=_UNITS, faults_found=[])


@routes.post("/desk/alerts/rules/{rule_id}")
async def change_rule(request: web.Request) -> web.Response:
    """Change it, unless somebody has since the form was shown."""
    form = _EMPTY | {"muted_until": "", "version": ""} | await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        rule = await alerts.get_rule(desk.db, desk.tenant_id, frame.part(request, "rule_id"))
        try:
            setting = Setting(
                **_read_measure(rule.kind, form),
                enabled="enabled" in form,
                muted_until=frame.read_moment(form["muted_until"], "muted_until"),
            )
            await alerts.change_rule(
                desk.db,
                desk.tenant_id,
                rule.id,
                setting,
                version=frame.number(form["version"]) or 0,
                actor=desk.principal.actor,
            )
        except GalleyError as exc:
            told, again = frame.told(exc), {**form, "enabled": "enabled" in form}
            return desk.page(
                "alerts/rule.html", status=422, rule=rule, form=again, units=_UNITS, faults_found=told
            )
    return frame.go(request, "desk.alerts", done="rule-saved", fragment="rules")


@routes.post("/desk/alerts/rules/{rule_id}/delete", name="desk.alert_rule_delete")
async def delete_rule(request: web.Request) -> web.Response:
    """Delete a rule about a queue or a type."""
    await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        await alerts.delete_rule(desk.db, desk.tenant_id, frame.part(request, "rule_id"))
    return frame.go(request, "desk.alerts", done="rule-deleted", fragment="rules")


async def _read_open(desk: frame.Desk) -> dict[str, Any]:
    return {
        "open_alerts": await alerts.list_alerts(desk.db, desk.tenant_id, is_open=True, limit=200),
        "evaluated_at": await alerts.find_evaluated_at(desk.db),
    }


async def _page(
    desk: frame.Desk, *, fault: GalleyError | None = None, form: dict[str, str] | None = None
) -> web.Response:
    rows = await alerts.list_alerts(
        desk.db,
        desk.tenant_id,
        is_open=False,
        before=frame.before(desk.request),
        limit=frame.PAGE_SIZE + 1,
    )
    closed, newest, older = frame.older(desk.request, rows)
    return desk.page(
        "alerts/list.html",
        status=422 if fault else 200,
        **await _read_open(desk),
        closed=closed,
        newest=newest,
        older=older,
        rules=await alerts.list_rules(desk.db, desk.tenant_id),
        form=form or _EMPTY,
        faults_found=frame.told(fault) if fault else [],
        units=_UNITS,
        types=sorted(task_types.load_all()),
        queues=await tasks.list_queues(desk.db),
    )


def _written(rule: Rule) -> dict[str, Any]:
    """Return a rule as its form shows it."""
    threshold, unit = rule.threshold, "min"
    if rule.kind in alerts.AGES:
        unit = next(name for name in ("d", "h", "min", "s") if threshold % _UNITS[name] == 0 or name == "s")
        threshold /= _UNITS[unit]
    elif rule.kind == "failure_rate":
        threshold *= 100
    return {
        "threshold": f"{threshold:.12g}",
        "unit": unit,
        "window": f"{(rule.window_seconds or 900) / 60:.12g}",
        "minimum": str(rule.minimum or 20),
        "enabled": rule.enabled,
        "version": rule.version,
        "muted_until": rule.muted_until.strftime("%Y-%m-%dT%H:%M") if rule.muted and rule.muted_until else "",
    }


def _read_measure(kind: str, form: dict[str, str]) -> dict[str, Any]:
    """Return threshold, window and minimum as a rule of *kind* takes them. Raises: Invalid with every fault."""
    faults: list[Fault] = []

    def positive(name: str) -> float:
        try:
            value = float(form[name].strip())
        except ValueError:
            value = 0.0
        if not 0 < value < 1e9:
            faults.append(Fault(f"/{name}", "must be a number above 0"))
        return value

    threshold = positive("threshold")
    measure: dict[str, Any] = {}
    if kind in alerts.AGES:
        threshold *= _UNITS.get(form["unit"], 60)
    elif kind == "failure_rate":
        threshold /= 100
        measure = {"window_seconds": round(positive("window") * 60), "minimum": round(positive("minimum"))}
    if faults:
        raise Invalid(faults[0].message, faults=tuple(faults))
    return {"threshold": threshold, **measure}
