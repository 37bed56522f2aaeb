"""Everything a handler may take from the application or from its request, typed.

Routes never import the server: it fills these keys in `server/app.py` and the request keys in its middleware.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from aiohttp import web

from services.access import Principal
from services.errors import Unauthenticated
from services.rate_limits import RateLimit

if TYPE_CHECKING:
    from services.embeddings import Embedder
    from services.llm import Provider
    from services.task_context import Database
    from services.tasks import Cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What routes need to know about this installation, as plain values."""

    environment: str  # "development" or "production"
    base_url: str  # http://127.0.0.1:8000, without a slash at the end
    secret_key: bytes  # signs cursors
    version: str
    public_tenant: str = ""  # the tenant of the public site when the Host names none
    embedded_model: bool = False  # pages say that a small demonstration model is at work
    embedded_database: bool = False
    model: str = ""
    allowed_origins: tuple[str, ...] = ()  # other origins whose scripts may call the API
    secure_cookies: bool = False  # True under TLS: the cookie is then `__Host-sid`


class Renderer(Protocol):
    """Turns a template and its values into HTML; knows the request for what every page shows (who, where, csrf)."""

    def render(self, request: web.Request, template: str, /, **values: object) -> str: ...


SITE = web.AppKey("site", Site)
DATABASE: web.AppKey[Database] = web.AppKey("database")
TEMPLATES: web.AppKey[Renderer] = web.AppKey("templates")
EMBEDDER: web.AppKey[Embedder] = web.AppKey("embedder")
LLM: web.AppKey[Provider] = web.AppKey("llm")

# A hint that the queue of this name has work; call it after the commit. Nothing depends on it but speed.
WAKE: web.AppKey[Callable[[str], None]] = web.AppKey("wake")

# Stops the runs of cancelled tasks: those in this process, and a hint for the others. Call it after the commit.
CANCELLED: web.AppKey[Callable[[Sequence[Cancelled]], None]] = web.AppKey("cancelled")

# A hint that a bulk operation has begun; call it after the commit. Nothing depends on it but speed.
CARRY_OUT: web.AppKey[Callable[[], None]] = web.AppKey("carry_out")

# Set when the process begins to stop: streams end, and their clients connect to whoever serves next.
STOPPING: web.AppKey[asyncio.Event] = web.AppKey("stopping")

# Slows down whoever guesses passwords: per address of the caller, and per account from one address.
SIGN_IN_LIMITS: web.AppKey[tuple[RateLimit, RateLimit]] = web.AppKey("sign_in_limits")

# One named check each: None when well, else a sentence on what is wrong.
HEALTH: web.AppKey[Callable[[], Awaitable[Mapping[str, str | None]]]] = web.AppKey("health")

# The metrics of this process in the Prometheus text format.
SCRAPE: web.AppKey[Callable[[], Awaitable[bytes]]] = web.AppKey("scrape")

PRINCIPAL = web.RequestKey("principal", Principal)
SESSION_ID = web.RequestKey("session_id", UUID)
CSRF_TOKEN = web.RequestKey("csrf_token", str)
REQUEST_ID = web.RequestKey("request_id", str)


def find_principal(request: web.Request) -> Principal | None:
    """Return who is calling, or None."""
    return request[PRINCIPAL] if PRINCIPAL in request else None  # noqa: SIM401 – `get` is untyped


def principal(request: web.Request, role: str = "viewer") -> Principal:
    """Return who is calling, of at least *role*. Raises: Unauthenticated (pages then show the sign-in), Forbidden."""
    caller = find_principal(request)
    if caller is None:
        raise Unauthenticated("sign in, or send an API key as `Authorization: Bearer …`")
    caller.require(role)
    return caller


def csrf_token(request: web.Request) -> str:
    """Return the token that every form on a page sends back as `csrf_token`; empty for a visitor without a session."""
    return request[CSRF_TOKEN] if CSRF_TOKEN in request else ""  # noqa: SIM401 – `get` is untyped


def session_cookie(request: web.Request) -> str:
    """Return the name of the session's cookie; under TLS the prefix makes browsers refuse it from anywhere but here."""
    return "__Host-sid" if request.app[SITE].secure_cookies else "sid"


def request_id(request: web.Request) -> str:
    """Return the id of this request, as it stands in the logs and in `X-Request-ID`."""
    return request[REQUEST_ID] if REQUEST_ID in request else ""  # noqa: SIM401 – `get` is untyped


def page(request: web.Request, template: str, /, *, status: int = 200, **values: object) -> web.Response:
    """Return *template* with *values* as an HTML answer."""
    text = request.app[TEMPLATES].render(request, template, status=status, **values)
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")
