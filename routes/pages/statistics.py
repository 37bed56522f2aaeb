"""Statistics: how many runs ended and how long they waited and took, by queue and type."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from routes.pages import frame, live
from services import installation, statistics

routes = web.RouteTableDef()

_WINDOW = "24h"
_FRAGMENTS = {"statistics-whole": "statistics/_whole.html", "statistics-kinds": "statistics/_kinds.html"}
_LIVE_SECONDS = 3.0
_REST = 20  # a watcher's stream costs a twentieth of a core at most, however many kinds of tasks there are


@routes.get("/desk/statistics", name="desk.statistics")
async def show(request: web.Request) -> web.Response:
    """The page."""
    async with frame.open_desk(request) as desk:
        values = await _read(desk)
    return desk.page("statistics/statistics.html", **values)


@routes.get("/desk/statistics/live", name="desk.statistics_live", allow_head=False)
async def watch(request: web.Request) -> web.StreamResponse:
    """The same numbers, again and again."""
    return await live.watch(request, _read, _FRAGMENTS, poll_seconds=_LIVE_SECONDS, rest=_REST)


async def _read(desk: frame.Desk) -> dict[str, Any]:
    chosen = frame.choice(desk.request, "window", statistics.WINDOWS) or _WINDOW
    window = statistics.WINDOWS[chosen]
    sees_all = await installation.operates(desk.db) and desk.principal.may("operator")
    return {
        "report": await statistics.report(desk.db, window, installation=sees_all),
        "sees_all": sees_all,
        "window": chosen,
        "windows": tuple(statistics.WINDOWS),
        "form": "%H:%M" if chosen == "1h" else "%H:00" if chosen == "24h" else "%-d %b %H:00",
    }
