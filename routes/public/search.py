"""Full-text search over what is published."""

from __future__ import annotations

from aiohttp import web

from routes.public import site
from services import publications

routes = web.RouteTableDef()


@routes.get("/search", name="site.search")
async def show(request: web.Request) -> web.Response:
    """The form, and with a query its posts, best first."""
    query = request.query.get("q", "").replace("\x00", "").strip()[:200]
    page = request.query.get("page", "1")
    number = int(page) if page.isascii() and page.isdigit() and 0 < int(page[:6]) < 1000 else 1
    hits: list[publications.Hit] = []
    total = 0
    async with site.open_site(request) as here:
        if query:
            hits, total = await publications.search(
                here.db, query, limit=site.PAGE_SIZE, offset=(number - 1) * site.PAGE_SIZE
            )
    path = request.rel_url.with_query(None)
    more = number * site.PAGE_SIZE < min(total, publications.SEARCH_DEPTH)
    return here.page(
        "public/search.html",
        q=query,
        hits=hits,
        total=total,
        newest=str(path.with_query(q=query)) if number > 1 else None,
        older=str(path.with_query(q=query, page=number + 1)) if more else None,
    )
