"""The overview: what needs a person, what moves, what went wrong."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from routes.pages import frame, live, subjects
from services import overview, reviews, tasks

routes = web.RouteTableDef()

_FRAGMENTS = {
    "alerts-banner": "alerts/_banner.html",
    "overview-numbers": "overview/_numbers.html",
    "overview-waiting": "overview/_waiting.html",
    "overview-throughput": "overview/_throughput.html",
    "overview-recent": "overview/_recent.html",
}
_LIVE_SECONDS = 3.0  # numbers over many rows: often enough to watch, seldom enough to leave a tab open


@routes.get("/desk", name="desk")
async def show(request: web.Request) -> web.Response:
    """The page."""
    async with frame.open_desk(request) as desk:
        values = await _read(desk)
    return desk.page("overview/overview.html", **values)


@routes.get("/desk/live", name="desk.live", allow_head=False)
async def watch(request: web.Request) -> web.StreamResponse:
    """The same numbers, again and again."""
    return await live.watch(request, _read, _FRAGMENTS, poll_seconds=_LIVE_SECONDS)


async def _read(desk: frame.Desk) -> dict[str, Any]:
    recent = await tasks.list_tasks(desk.db, desk.tenant_id, limit=10)
    return {
        "open_alerts": await desk.open_alerts(),
        "numbers": await overview.get(desk.db, desk.tenant_id),
        "waiting": await reviews.list_reviews(desk.db, desk.tenant_id, state="pending", limit=6),
        "recent": recent,
        "subjects": await subjects.read(desk.db, desk.tenant_id, recent),
    }
