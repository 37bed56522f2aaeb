"""Fragments of a page sent again whenever they change, for server/static/live.js.

A stream watches its transport, since handlers are not cancelled when the client goes (RULINGS 10), and ends by itself after
STREAM_SECONDS: the browser connects again, and with that who it is gets checked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from routes import keys
from routes.pages import frame

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15
WRITE_SECONDS = 30  # a client that reads nothing for so long is let go
STREAM_SECONDS = 60

Fragments = Mapping[str, str]
Read = Callable[[], Awaitable[tuple[Fragments, bool]]]


async def stream(
    request: web.Request, read: Read, *, poll_seconds: float = POLL_SECONDS
) -> web.StreamResponse:
    """Send what *read* returns, fragments by the id of their element, as far as it differs from what was sent before.

    *read* also says whether nothing more will come; an empty mapping means that nothing changed since it was last asked.
    """
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    sent: dict[str, str] = {}
    started = spoke = time.monotonic()
    try:
        await _write(response, "retry: 2000\n\n")
        while not _gone(request):
            fragments, over = await read()
            changed = {name: html for name, html in fragments.items() if sent.get(name) != html}
            sent.update(changed)
            for name, html in changed.items():
                await _write(response, event("fragment", {"id": name, "html": html}))
            now = time.monotonic()
            if over or now - started >= STREAM_SECONDS:
                await _write(response, event("end", {}) if over else ": until later\n\n")
                break
            if changed:
                spoke = now
            elif now - spoke >= HEARTBEAT_SECONDS:
                spoke = now
                await _write(response, ": still here\n\n")
            if await _stopped(request, poll_seconds):
                break
    except (ConnectionError, TimeoutError):
        _drop(request)
    return response


async def watch(
    request: web.Request,
    values: Callable[[frame.Desk], Awaitable[Mapping[str, Any]]],
    fragments: Mapping[str, str],
    *,
    poll_seconds: float,
    rest: float = 0,
    may_be_missing: bool = False,
    over: Callable[[Mapping[str, Any]], bool] = lambda found: False,
) -> web.StreamResponse:
    """Send the templates *fragments*, by the id of their element, with what *values* reads, again and again until *over*.

    *rest*: as for `sparing`. *may_be_missing*: read once before the stream begins, so that what is not there answers 404.
    """
    keys.principal(request)
    templates = request.app[keys.TEMPLATES]
    last = False

    async def read() -> Fragments:
        nonlocal last
        async with frame.open_desk(request) as desk:
            found = {**desk.frame(), **await values(desk)}
        last = over(found)
        return {name: templates.render(request, path, **found) for name, path in fragments.items()}

    async def read_and_tell() -> tuple[Fragments, bool]:
        return await read(), last

    if may_be_missing:
        await read()
    return await stream(
        request, sparing(read, rest=rest) if rest else read_and_tell, poll_seconds=poll_seconds
    )


def sparing(read: Callable[[], Awaitable[Fragments]], *, rest: float) -> Read:
    """Return *read* for a stream without an end, resting after each time *rest* times as long as it took: a watcher's share of a core is bounded."""
    due = 0.0

    async def read_when_due() -> tuple[Fragments, bool]:
        nonlocal due
        started = time.monotonic()
        if started < due:
            return {}, False
        fragments = await read()
        ended = time.monotonic()
        due = ended + rest * (ended - started)
        return fragments, False

    return read_when_due


def event(name: str, data: object) -> str:
    """Return one event. JSON holds no raw line end, so nothing in *data* can begin a field of its own."""
    return f"event: {name}\ndata: {orjson.dumps(data).decode()}\n\n"


async def _write(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(WRITE_SECONDS):
        await response.write(text.encode())


async def _stopped(request: web.Request, seconds: float) -> bool:
    """Wait *seconds*; True at once when the process begins to stop: the browser will find who serves next."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await request.app[keys.STOPPING].wait()
    return request.app[keys.STOPPING].is_set()


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _drop(request: web.Request) -> None:
    """Close the connection at once: what it still buffers will not be read."""
    if request.transport is not None:
        request.transport.abort()
