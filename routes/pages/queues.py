"""The queues board, and one queue with its limits: pause, resume, limit, create, delete."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from routes import keys
from routes.pages import frame, live
from services import installation, queues
from services.errors import Fault, GalleyError, Invalid

routes = web.RouteTableDef()

_LIVE_SECONDS = 2.0
# Counting a backlog of a hundred thousand takes a while: a watcher's stream rests twenty times as long, so that it costs one core
# a twentieth however many tasks there are.
_REST = 20
_BOARD_FRAGMENTS = {"queues-board": "queues/_board.html"}
_FRAGMENTS = {"queue-now": "queues/_now.html", "queue-hour": "queues/_hour.html"}
_WHOLE = ("max_running", "max_running_per_tenant", "burst")
_EMPTY = {"name": "", "reason": "", "until": "", "tenant": "", "tenant_max": ""}


@routes.get("/desk/queues", name="desk.queues")
async def list_(request: web.Request) -> web.Response:
    """The board."""
    async with frame.open_desk(request) as desk:
        values = await _read_board(desk)
    return desk.page("queues/list.html", **values, form=_EMPTY, faults_found=[])


@routes.get("/desk/queues-live", name="desk.queues_live", allow_head=False)
async def watch_board(request: web.Request) -> web.StreamResponse:
    """The board, again and again."""
    return await live.watch(request, _read_board, _BOARD_FRAGMENTS, poll_seconds=_LIVE_SECONDS, rest=_REST)


@routes.post("/desk/queues")
async def create(request: web.Request) -> web.Response:
    """Make a queue; with a fault the board comes back with what was typed."""
    form = await frame.fields(request)
    name = form.get("name", "").strip()
    async with frame.open_desk(request, "operator") as desk:
        try:
            await queues.create(desk.db, name, {}, actor=desk.principal.actor)
        except Invalid as exc:
            values = await _read_board(desk)
            typed = _EMPTY | {"name": name}
            return desk.page(
                "queues/list.html", status=422, **values, form=typed, faults_found=frame.told(exc)
            )
    return frame.go(request, "desk.queue", queue=name, done="queue-created")


@routes.get("/desk/queues/{queue}", name="desk.queue")
async def show(request: web.Request) -> web.Response:
    """One queue."""
    async with frame.open_desk(request) as desk:
        return await _page(desk)


@routes.get("/desk/queues/{queue}/live", name="desk.queue_live", allow_head=False)
async def watch(request: web.Request) -> web.StreamResponse:
    """What moves on the queue's page."""
    return await live.watch(
        request, _read, _FRAGMENTS, poll_seconds=_LIVE_SECONDS, rest=_REST, may_be_missing=True
    )


@routes.post("/desk/queues/{queue}/limits", name="desk.queue_limits")
async def set_limits(request: web.Request) -> web.Response:
    """Set all limits as the form has them."""
    form = await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        try:
            await queues.change(desk.db, _name(request), _read_limits(form), actor=desk.principal.actor)
        except Invalid as exc:
            return await _page(desk, exc, {**form, "fair": "fair" in form})
    return _changed(request, "limits-set")


@routes.post("/desk/queues/{queue}/pause", name="desk.queue_pause")
async def pause(request: web.Request) -> web.Response:
    """Let nothing more start."""
    form = await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        try:
            await queues.pause(
                desk.db,
                _name(request),
                actor=desk.principal.actor,
                reason=form.get("reason", "").strip()[:500] or None,
                until=frame.read_moment(form.get("until", ""), "until"),
            )
        except Invalid as exc:
            return await _page(desk, exc, form, opened="pause")
    return frame.go(request, "desk.queue", queue=_name(request), done="paused")


@routes.post("/desk/queues/{queue}/resume", name="desk.queue_resume")
async def resume(request: web.Request) -> web.Response:
    """Let tasks start again."""
    await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        await queues.resume(desk.db, _name(request))
    return _changed(request, "resumed")


@routes.post("/desk/queues/{queue}/tenants", name="desk.queue_tenant")
async def limit_tenant(request: web.Request) -> web.Response:
    """Give one tenant another number; without one it is taken away."""
    form = await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        try:
            number = _read_whole(form, "max_running") if "max_running" in form else None
            tenant = form.get("tenant", "").strip()
            await queues.limit_tenant(desk.db, _name(request), tenant, number, actor=desk.principal.actor)
        except GalleyError as exc:
            if not isinstance(exc, Invalid) and exc.slug != "not-found":
                raise
            typed = {"tenant": form.get("tenant", ""), "tenant_max": form.get("max_running", "")}
            return await _page(desk, exc, typed)
    return _changed(request, "limits-set")


@routes.post("/desk/queues/{queue}/delete", name="desk.queue_delete")
async def delete(request: web.Request) -> web.Response:
    """Delete an empty queue."""
    await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        await queues.delete(desk.db, _name(request))
    return frame.go(request, "desk.queues", done="queue-deleted")


def _name(request: web.Request) -> str:
    return request.match_info["queue"]


def _changed(request: web.Request, done: str) -> web.Response:
    request.app[keys.WAKE](_name(request))
    return frame.go(request, "desk.queue", queue=_name(request), done=done)


async def _read_board(desk: frame.Desk) -> dict[str, Any]:
    operates = await installation.operates(desk.db)
    sees_all = operates and desk.principal.may("operator")
    return {
        "reports": await queues.report(desk.db, desk.tenant_id, installation=sees_all),
        "sees_all": sees_all,
        "may_change": sees_all,
        "cap": queues.CAP,
    }


async def _read(desk: frame.Desk) -> dict[str, Any]:
    """Return what the page and its fragments show. Raises: NotFound."""
    operates = await installation.operates(desk.db)
    sees_all = operates and desk.principal.may("operator")
    name = _name(desk.request)
    (one,) = await queues.report(desk.db, desk.tenant_id, installation=sees_all, name=name)
    return {
        "one": one,
        "queue": one.queue,
        "operates": operates,
        "sees_all": sees_all,
        "may_change": sees_all,
    }


async def _page(
    desk: frame.Desk, fault: GalleyError | None = None, typed: Mapping[str, object] | None = None, opened: str = ""
) -> web.Response:  # fmt: skip
    """Return the queue's page, after a fault with what was *typed*."""
    values = await _read(desk)
    queue = values["queue"]
    limits = await queues.list_tenant_limits(desk.db, queue.name) if values["may_change"] else []
    form = _EMPTY | {name: getattr(queue, name) or "" for name in (*_WHOLE, "fair")}
    form |= {"rate_per_second": f"{queue.rate_per_second:.12g}" if queue.rate_per_second else ""}
    form |= {
        "reason": queue.pause_reason or "",
        "until": queue.resume_at.strftime("%Y-%m-%dT%H:%M") if queue.resume_at else "",
    }
    return desk.page(
        "queues/queue.html",
        status=422 if fault else 200,
        **values,
        tenant_limits=limits,
        form=form | dict(typed or {}),
        faults_found=frame.told(fault) if fault else [],
        opened=opened,
    )


def _read_limits(form: Mapping[str, str]) -> dict[str, Any]:
    """Return what the form asks for; an empty field takes its limit away. Raises: Invalid."""
    text = form.get("rate_per_second", "").strip().replace(",", ".")
    try:
        rate = float(text) if text else None
    except ValueError:
        rate = math.nan
    if rate is not None and not math.isfinite(rate):
        raise _invalid("rate_per_second", "must be a number")
    limits = {name: _read_whole(form, name) for name in _WHOLE}
    return limits | {"rate_per_second": rate, "fair": "fair" in form}


def _read_whole(form: Mapping[str, str], name: str) -> int | None:
    text = form.get(name, "").strip()
    if text and frame.number(text) is None:
        raise _invalid(name, "must be a whole number")
    return frame.number(text)


def _invalid(name: str, message: str) -> Invalid:
    return Invalid(f"{name} {message}", faults=(Fault(f"/{name}", message),))
