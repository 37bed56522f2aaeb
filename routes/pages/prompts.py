"""Prompts, to read: their versions, labels and how the labels moved."""

from __future__ import annotations

from aiohttp import web

from routes.pages import frame
from services import prompts

routes = web.RouteTableDef()


@routes.get("/desk/prompts", name="desk.prompts")
async def list_(request: web.Request) -> web.Response:
    """The list, by name."""
    after = request.query.get("after") or None
    async with frame.open_desk(request) as desk:
        rows = await prompts.list_prompts(desk.db, desk.tenant_id, after=after, limit=frame.PAGE_SIZE + 1)
    shown = rows[: frame.PAGE_SIZE]
    return desk.page(
        "prompts/list.html",
        prompts=shown,
        newest=frame.link(request, after=None) if after else None,
        older=frame.link(request, after=shown[-1].name) if len(rows) > frame.PAGE_SIZE else None,
    )


@routes.get("/desk/prompts/{name}", name="desk.prompt")
async def show(request: web.Request) -> web.Response:
    """One version of a prompt, the newest when none is named."""
    name = request.match_info["name"]
    number = frame.number(request.query.get("version"))
    async with frame.open_desk(request) as desk:
        version = await prompts.get(desk.db, desk.tenant_id, name, label="latest", version=number)
        versions = await prompts.list_versions(desk.db, desk.tenant_id, name)
        events = await prompts.list_label_events(desk.db, desk.tenant_id, name)
    return desk.page("prompts/prompt.html", version=version, versions=versions, label_events=events)
