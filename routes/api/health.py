"""For machines that watch this process, and for people who read the API: health, metrics, the OpenAPI document, the docs page."""

from __future__ import annotations

import orjson
from aiohttp import web

from routes import keys
from routes.api import openapi, operations

routes = web.RouteTableDef()

_DESCRIPTION = """\
Create tasks, watch them, decide on what they wrote, and search. Send `Authorization: Bearer <api key>`; a key is made with
`python main.py key create --tenant NAME --role ROLE`.

Times are RFC 3339 with their zone, ids are version-7 UUIDs, unknown fields are refused. Lists are
`{"items": [...], "next_cursor": ...}`, newest first unless said otherwise; send `next_cursor` back as `cursor`. Errors are RFC 9457
problems; `type` names the problem for programs, `request_id` finds it in the logs. Send an `Idempotency-Key` with whatever creates
something, and repeat the call as often as you need.
"""
_DOCUMENT: web.AppKey[bytes] = web.AppKey("openapi_document", bytes)


@routes.get("/livez", name="livez")
async def livez(request: web.Request) -> web.Response:
    """Answer as long as the event loop turns."""
    return web.json_response({"state": "alive"}, headers={"Cache-Control": "no-store"})


@routes.get("/readyz", name="readyz")
async def readyz(request: web.Request) -> web.Response:
    """Answer 200 when everything this process needs has proven itself lately, else 503 and what has not."""
    checks = dict(await request.app[keys.HEALTH]())
    ready = all(wrong is None for wrong in checks.values())
    body = {
        "state": "ready" if ready else "not ready",
        "checks": {name: wrong or "ok" for name, wrong in sorted(checks.items())},
    }
    headers = {"Cache-Control": "no-store"} | ({} if ready else {"Retry-After": "2"})
    return web.json_response(body, status=200 if ready else 503, headers=headers)


@routes.get("/metrics", name="metrics")
async def metrics(request: web.Request) -> web.Response:
    """Answer with this process's metrics in the Prometheus text format."""
    body = await request.app[keys.SCRAPE]()
    headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8", "Cache-Control": "no-store"}
    return web.Response(body=body, headers=headers)


@routes.get("/api/v1/openapi.json", name="openapi")
async def document(request: web.Request) -> web.Response:
    """Answer with the OpenAPI document of every operation that this application serves."""
    return web.Response(
        body=request.app[_DOCUMENT], content_type="application/json", headers={"Cache-Control": "no-cache"}
    )


@routes.get("/docs", name="docs")
async def docs(request: web.Request) -> web.Response:
    """Show the OpenAPI document so that it can be read and tried."""
    return keys.page(request, "docs/docs.html")


# All that a process serves which only runs tasks.
probes = [web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)]


async def prepare_document(app: web.Application) -> None:
    """Build the document once, when all routes are known; for `on_startup`."""
    app[_DOCUMENT] = orjson.dumps(
        openapi.document(
            operations.of(app), title="Galley", version=app[keys.SITE].version, description=_DESCRIPTION
        )
    )
