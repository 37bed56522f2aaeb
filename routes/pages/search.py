"""Search the documents, and see why each passage was found."""

from __future__ import annotations

import time
from typing import cast

from aiohttp import web

from routes import keys
from routes.pages import frame
from services import collections, search
from services.errors import GalleyError

routes = web.RouteTableDef()


@routes.get("/desk/search", name="desk.search")
async def show(request: web.Request) -> web.Response:
    """The form, and with a query its passages. The query's vector is made before the transaction is opened."""
    keys.principal(request)
    query = request.query.get("q", "").strip()
    mode = cast("search.Mode", frame.choice(request, "mode", search.WEIGHTS) or "hybrid")
    collection = request.query.get("collection") or None
    started = time.monotonic()
    embedding, degraded = None, None
    if query:
        asked = query[: search.MAX_QUERY]
        embedding, degraded = await search.vector_of(request.app[keys.EMBEDDER], asked, mode)
    hits: list[search.Hit] = []
    faults: list[str] = []
    async with frame.open_desk(request) as desk:
        shelves = await collections.list_all(desk.db, desk.tenant_id)
        if query:
            try:
                hits = await search.search(
                    desk.db,
                    tenant_id=desk.tenant_id,
                    query=query,
                    embedding=embedding,
                    collections=[collection] if collection else None,
                    mode=mode,
                )
            except GalleyError as exc:
                faults = frame.told(exc)
    return desk.page(
        "search/search.html",
        status=422 if faults else 200,
        form={"q": query, "collection": collection, "mode": mode},
        collections=[shelf.name for shelf in shelves],
        hits=hits,
        faults_found=faults,
        degraded=degraded,
        took=time.monotonic() - started,
    )
