"""Executors: how each one does, what it runs, and letting it run empty."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from routes import keys
from routes.pages import frame, live, subjects
from services import executors, installation
from services.executors import Executor

routes = web.RouteTableDef()

_LIVE_SECONDS = 2.0
_FRAGMENTS = {"executors-board": "executors/_board.html"}
_SHOWN = 10  # tasks of each executor


@routes.get("/desk/executors", name="desk.executors")
async def list_(request: web.Request) -> web.Response:
    """The page."""
    async with frame.open_desk(request) as desk:
        values = await _read(desk)
    return desk.page("executors/list.html", **values)


@routes.get("/desk/executors/live", name="desk.executors_live", allow_head=False)
async def watch(request: web.Request) -> web.StreamResponse:
    """The same, again and again."""
    return await live.watch(request, _read, _FRAGMENTS, poll_seconds=_LIVE_SECONDS)


@routes.post("/desk/executors/{executor_id}/drain", name="desk.executor_drain")
async def drain(request: web.Request) -> web.Response:
    """Let it claim nothing more."""
    await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        await executors.drain(desk.db, frame.part(request, "executor_id"), actor=desk.principal.actor)
    return frame.go(request, "desk.executors", done="drained")


@routes.post("/desk/executors/{executor_id}/undrain", name="desk.executor_undrain")
async def undrain(request: web.Request) -> web.Response:
    """Let it claim again."""
    await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        await executors.undrain(desk.db, frame.part(request, "executor_id"), actor=desk.principal.actor)
    request.app[keys.WAKE]("")
    return frame.go(request, "desk.executors", done="undrained")


async def _read(desk: frame.Desk) -> dict[str, Any]:
    sees_all = desk.principal.may("operator") and await installation.operates(desk.db)
    found = await executors.list_executors(desk.db, installation=sees_all)
    running = await executors.list_running(desk.db, desk.tenant_id)
    shown = [task for tasks in running.values() for task in tasks[:_SHOWN]]
    serving = {one.id for one in found if one.state == "serving"}

    def others_serving(one: Executor) -> int:
        return len(serving - {one.id})

    return {
        "executors": found,
        "running": running,
        "subjects": await subjects.read(desk.db, desk.tenant_id, shown),
        "shown": _SHOWN,
        "others_serving": others_serving,
        "sees_all": sees_all,
        "may_change": sees_all,
    }
