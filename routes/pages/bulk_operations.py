"""Bulk operations: what would be met, the confirmation, how far it is, what there was."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from routes import keys
from routes.pages import dead_letters as dead_letter_pages
from routes.pages import frame, live, subjects
from services import bulk_operations
from services.bulk_operations import ACTIONS, TARGETS, Plan
from services.dead_letters import LONGEST_TEXT
from services.errors import Conflict, GalleyError, Invalid, Malformed
from services.task_states import STATES

routes = web.RouteTableDef()

_FRAGMENTS = {f"operation-{name}": f"bulk_operations/_{name}.html" for name in ("actions", "progress")}
_LISTS = {"tasks": "desk.tasks", "dead_letters": "desk.dead_letters"}


@routes.get("/desk/bulk-operations", name="desk.bulk_operations")
async def list_(request: web.Request) -> web.Response:
    """What was done to many at once, newest first."""
    async with frame.open_desk(request) as desk:
        rows = await bulk_operations.list_operations(
            desk.db, desk.tenant_id, before=frame.before(request), limit=frame.PAGE_SIZE + 1
        )
    shown, newest, older = frame.older(request, rows)
    return desk.page(
        "bulk_operations/list.html",
        operations=[(one, describe(one.filter)) for one in shown],
        newest=newest,
        older=older,
    )


@routes.get("/desk/bulk-operations/new", name="desk.bulk_preview")
async def preview(request: web.Request) -> web.Response:
    """What the ticked ones, or all that match a filter, are; nothing is done yet."""
    action, target = frame.choice(request, "action", ACTIONS), frame.choice(request, "target", TARGETS)
    if action is None or target is None:
        raise Malformed("the address of this page is not complete")
    return await _preview(request, action, target, _read_filter(request, target))


@routes.post("/desk/bulk-operations", name="desk.bulk_start")
async def start(request: web.Request) -> web.Response:
    """Begin what was shown; with a fault it is shown again, as it is now."""
    form = await frame.fields(request)
    secret = request.app[keys.SITE].secret_key
    principal = keys.principal(request, "operator")
    plan = bulk_operations.read_confirmation(
        secret, principal.tenant_id, principal.actor, form.get("confirmation", "")
    )
    try:
        async with frame.open_desk(request, "operator") as desk:
            operation, _ = await bulk_operations.start(
                desk.db,
                desk.tenant_id,
                plan,
                actor=principal.actor,
                reason=form.get("reason", "").strip().replace("\x00", "")[:LONGEST_TEXT] or None,
                changes={"at_once": True} if form.get("when") == "now" and plan.action == "requeue" else {},
                request_id=keys.request_id(request),
            )
    except (Conflict, Invalid) as exc:
        return await _preview(request, plan.action, plan.target, plan.filter, exc)
    request.app[keys.CARRY_OUT]()
    return frame.go(request, "desk.bulk_operation", operation_id=operation.id)


@routes.get("/desk/bulk-operations/{operation_id}", name="desk.bulk_operation")
async def show(request: web.Request) -> web.Response:
    """One, and how far it is."""
    async with frame.open_desk(request) as desk:
        operation = await bulk_operations.get(desk.db, desk.tenant_id, frame.part(request, "operation_id"))
    return desk.page(
        "bulk_operations/operation.html", operation=operation, conditions=describe(operation.filter)
    )


@routes.get("/desk/bulk-operations/{operation_id}/live", name="desk.bulk_operation_live", allow_head=False)
async def watch(request: web.Request) -> web.StreamResponse:
    """The parts of the page that change, until it is over."""
    principal, operation_id = keys.principal(request), frame.part(request, "operation_id")
    database, templates = request.app[keys.DATABASE], request.app[keys.TEMPLATES]

    async def read() -> tuple[live.Fragments, bool]:
        async with database.tenant(principal.tenant_id, principal.actor) as db:
            operation = await bulk_operations.get(db, principal.tenant_id, operation_id)
        fragments = {
            name: templates.render(request, path, operation=operation) for name, path in _FRAGMENTS.items()
        }
        return fragments, operation.state != "running"

    await read()  # answers 404 before the stream begins
    return await live.stream(request, read)


@routes.post("/desk/bulk-operations/{operation_id}/stop", name="desk.bulk_stop")
async def stop(request: web.Request) -> web.Response:
    """Stop it behind the batch that is under way."""
    operation_id = frame.part(request, "operation_id")
    async with frame.open_desk(request, "operator") as desk:
        await bulk_operations.stop(desk.db, desk.tenant_id, operation_id, actor=desk.principal.actor)
    return frame.go(request, "desk.bulk_operation", operation_id=operation_id, done="bulk-stopped")


def describe(wanted: dict[str, Any]) -> list[tuple[str, str | datetime]]:
    """Return a filter as (name, value) for people."""
    told: list[tuple[str, str | datetime]] = []
    for name, value in wanted.items():
        if name == "ids":
            told.append(("ticked", f"{len(value):,}"))
        elif name in {"failed_after", "failed_before"}:
            told.append((name.replace("_", " "), datetime.fromisoformat(value)))
        else:
            told.append(({"q": "text"}.get(name, name.replace("_", " ")), str(value)))
    return told


def _read_filter(request: web.Request, target: str) -> dict[str, Any]:
    """Return what the address asks for: the ticked ones, or the filters of the list it came from."""
    if request.query.get("scope") != "all":
        chosen = request.query.getall("id", [])
        try:
            return {"ids": [str(UUID(one)) for one in dict.fromkeys(chosen)]}
        except ValueError:
            raise Malformed("the address of this page is not complete") from None
    if target == "dead_letters":
        return dead_letter_pages.read_filter(request).to_json()
    values = {
        "state": frame.choice(request, "state", STATES),
        "type": request.query.get("type"),
        "queue": request.query.get("queue"),
        "q": request.query.get("q", "").strip()[:200],
    }
    return {name: value.replace("\x00", "") for name, value in values.items() if value}


async def _preview(
    request: web.Request, action: str, target: str, wanted: dict[str, Any], exc: GalleyError | None = None
) -> web.Response:
    async with frame.open_desk(request, "operator") as desk:
        found = None
        if wanted.get("ids", True):
            found = await bulk_operations.preview(
                desk.db, desk.tenant_id, action=action, target=target, wanted=wanted
            )
        about = await subjects.read(desk.db, desk.tenant_id, found.sample) if found else {}
    status = 200 if exc is None else 409 if isinstance(exc, Conflict) else 422
    return desk.page(
        "bulk_operations/preview.html",
        status=status,
        action=action,
        target=target,
        preview=found,
        subjects=about,
        conditions=describe(wanted),
        chosen="ids" in wanted,
        confirmation=_confirmation(desk, found.plan) if found and found.plan.total else "",
        back=request.app.router[_LISTS[target]].url_for(),
        faults_found=[] if exc is None else frame.told(exc),
    )


def _confirmation(desk: frame.Desk, plan: Plan) -> str:
    secret = desk.request.app[keys.SITE].secret_key
    return bulk_operations.confirm(secret, desk.tenant_id, desk.principal.actor, plan)
