"""What an error answer's `type` leads to."""

from __future__ import annotations

from aiohttp import web

from routes import keys
from services.errors import NotFound
from services.problems import PROBLEMS

routes = web.RouteTableDef()


@routes.get("/problems/{slug}", name="problem")
async def show(request: web.Request) -> web.Response:
    """Say what a problem means and what helps."""
    slug = request.match_info["slug"]
    if slug not in PROBLEMS:
        raise NotFound(f"there is no problem called {slug!r}")
    return keys.page(request, "problems/problem.html", slug=slug, problem=PROBLEMS[slug])
