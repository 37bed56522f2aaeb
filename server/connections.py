"""Connections that cannot be held open by saying nothing, and a parser whose refusals repeat nothing of what was sent.

aiohttp waits for the rest of a request's head for ever and quotes the line that it could not read. The handler here closes a
connection whose head is not whole in time, and answers what cannot be parsed with fixed words.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import uuid4

import orjson
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod
from aiohttp.web_protocol import RequestHandler

from server.middleware import SECURITY_HEADERS

HEAD_SECONDS = 10.0  # from a connection's or a request's first byte to the end of its head
IDLE_SECONDS = 30.0  # between two requests on one connection

_ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"  # the parser refuses other methods before it reads where they go
_READABLE_LINE = re.compile(r"b'[A-Z]{2,30} /")
_TOO_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\nServer: galley\r\nConnection: close\r\nContent-Length: 0\r\n"
    b"X-Content-Type-Options: nosniff\r\n\r\n"
)


class GuardedHandler(RequestHandler):
    """One connection, closed when a request's head takes too long to arrive."""

    __slots__ = ("_head_timer",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop waiting."""
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Look whether a head is under way after what has arrived."""
        super().data_received(data)
        if self._messages or self._current_request is not None:
            self._head_arrived()
        elif self._head_timer is None:
            self._expect_head()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached a handler, in fixed words, and close the connection."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        if status >= 500:
            self.log_exception("request failed outside every handler", exc_info=exc)
            return _fixed_answer(status, "internal-error", "Something went wrong")
        if isinstance(exc, BadHttpMethod) and _READABLE_LINE.search(str(exc)):
            return _fixed_answer(405, "method-not-allowed", "Method Not Allowed", {"Allow": _ALLOWED})
        return _fixed_answer(status, "malformed", "The request cannot be read")

    def _expect_head(self) -> None:
        self._head_timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._too_late)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_late(self) -> None:
        self._head_timer = None
        if self._messages or self._request_in_progress:
            return  # the head arrived between two looks
        if self.transport is not None:
            self.transport.write(_TOO_LATE)
            self.transport.close()


def _fixed_answer(
    status: int, slug: str, title: str, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    request_id = uuid4().hex
    body = {"type": f"/problems/{slug}", "title": title, "status": status, "request_id": request_id}
    own = {"Server": "galley", "Cache-Control": "no-store", "X-Request-ID": request_id}
    response = web.Response(
        body=orjson.dumps(body),
        status=status,
        headers={**SECURITY_HEADERS, **own, **(headers or {})},
        content_type="application/problem+json",
    )
    response.force_close()
    return response


class GuardedServer(web.Server):
    """Makes a guarded handler for each connection."""

    def __call__(self) -> RequestHandler:
        """Return the handler of one new connection."""
        return GuardedHandler(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application behind guarded connections; handlers run to their end when a client goes away (RULINGS 10)."""

    def __init__(self, app: web.Application, **options: Any) -> None:
        super().__init__(
            app,
            **{"access_log": None, "keepalive_timeout": IDLE_SECONDS, "handler_cancellation": False}
            | options,
        )

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return GuardedServer(
            plain.request_handler,
            request_factory=plain.request_factory,
            handler_cancellation=plain.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **plain._kwargs,  # noqa: SLF001 – the only way to another handler class than aiohttp's own
        )
