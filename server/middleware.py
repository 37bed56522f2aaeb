"""What surrounds every handler: request id, timing, errors to answers, cross-origin calls, headers that protect.

The table from error to HTTP status is here and nowhere else.
"""

from __future__ import annotations

import html
import logging
import math
import re
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import jinja2
import orjson
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from routes import keys
from server import auth, logs
from server.metrics import METRICS
from services import errors as kinds
from services.errors import Fault, GalleyError, Invalid, Unauthenticated, Unavailable

log = logging.getLogger(__name__)

STATUS: dict[type[GalleyError], int] = {
    kinds.Malformed: 400,
    kinds.Unauthenticated: 401,
    kinds.Forbidden: 403,
    kinds.NotFound: 404,
    kinds.Conflict: 409,
    kinds.StaleAttempt: 409,
    kinds.PreconditionFailed: 412,
    kinds.TooLarge: 413,
    kinds.UnsupportedMedia: 415,
    kinds.Invalid: 422,
    kinds.PreconditionNeeded: 428,
    kinds.RateLimited: 429,
    kinds.Unavailable: 503,
}

# What aiohttp itself refuses: slug and words, so that nothing of the request is echoed.
_REFUSALS: dict[int, tuple[str, str]] = {
    400: ("malformed", "the request cannot be read"),
    404: ("not-found", "there is nothing here, or nothing that you may see"),
    405: ("method-not-allowed", "this address answers other methods: see Allow"),
    408: ("request-timeout", "the request did not arrive in time"),
    413: ("body-too-large", "the body is longer than this address accepts"),
    415: ("unsupported-media-type", "this kind of body is not accepted here"),
}

_DATABASE_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the backend said goodbye while the connection lay idle in the pool
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,  # disk full, too many connections, out of memory
    asyncpg.ReadOnlySQLTransactionError,
    ConnectionError,
    TimeoutError,
)
_DATABASE_BUSY = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.QueryCanceledError,
)
_UNSTORABLE = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HSTS = "max-age=31536000; includeSubDomains"
_EXPOSED = "Location, ETag, Retry-After, X-Request-ID, Idempotency-Replayed"
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PROGRAMS = ("/api/", "/livez", "/readyz", "/metrics")


def install(app: web.Application) -> None:
    """Surround every handler of *app*, outermost first, and every answer with the headers."""
    app.middlewares.extend([identify, answer_errors, share_across_origins, auth.authenticate])
    app.on_response_prepare.append(add_headers)
    auth.install(app)


@web.middleware
async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, for its logs, its tasks and its answer; measure it by route template."""
    given = request.headers.get("X-Request-ID", "")
    request_id = given if _SANE_ID.fullmatch(given) else uuid4().hex
    request[keys.REQUEST_ID] = request_id
    token = logs.REQUEST_ID.set(request_id)
    started = time.perf_counter()
    status = 500
    try:
        response = await handler(request)
        status = response.status
        return response
    except web.HTTPException as redirect:
        status = redirect.status
        raise
    finally:
        logs.REQUEST_ID.reset(token)
        _measure(request, status, time.perf_counter() - started)


def _measure(request: web.Request, status: int, seconds: float) -> None:
    metrics = request.app.get(METRICS)
    if metrics is None:
        return
    resource = request.match_info.route.resource
    method = request.method if request.method in _METHODS else "other"
    route = resource.canonical if resource is not None else "unmatched"
    metrics.requests.labels(method, route, str(status)).observe(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What an answer says about something that went wrong."""

    status: int
    slug: str
    title: str
    detail: str
    faults: tuple[Fault, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever went wrong into an answer: problem+json for programs, a page for people."""
    try:
        return await handler(request)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        return _answer(request, _refused(exc))
    except GalleyError as exc:
        if isinstance(exc, Unauthenticated) and not _for_programs(request):
            return _sign_in(request)
        return _answer(request, _known(exc))
    except Exception as exc:
        if request.writer.output_size > 0:
            raise  # the answer has begun: aiohttp closes the connection, so the client sees that it is not whole
        known = _translate(exc)
        if known is not None:
            log.warning("request not served", extra={"reason": type(exc).__name__, "path": request.path})
            return _answer(request, _known(known))
        log.exception("request failed", extra={"method": request.method, "path": request.path})
        return _answer(request, _UNEXPECTED)


_UNEXPECTED = Failure(
    status=500,
    slug="internal-error",
    title="Something went wrong",
    detail="it was recorded under the id of this request",
)


def _translate(exc: Exception) -> GalleyError | None:
    """Return what an error of the database's driver means to a caller; None when it means a fault of ours."""
    if isinstance(exc, _DATABASE_BUSY):
        return Unavailable("the database was busy with something that this needs", slug="busy", retry_after=1)
    if isinstance(exc, asyncpg.ForeignKeyViolationError):
        # For instance a queue that is deleted at the same moment: asked again, the answer says so.
        return Unavailable("something that this refers to has just changed", slug="busy", retry_after=1)
    if isinstance(exc, _DATABASE_AWAY):
        return Unavailable("the database is not answering", retry_after=2)
    if isinstance(exc, _UNSTORABLE):
        return Invalid("the request holds a character that cannot be stored")
    return None


def _known(exc: GalleyError) -> Failure:
    status = next((STATUS[kind] for kind in type(exc).__mro__ if kind in STATUS), 500)
    headers: dict[str, str] = {}
    if exc.retry_after is not None or status == 503:
        headers["Retry-After"] = str(max(1, math.ceil(exc.retry_after or 1)))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="galley"'
    return Failure(
        status=status,
        slug=exc.slug,
        title=exc.title,
        # The same words for a thing that never was and for another tenant's, whatever the service said.
        detail=_REFUSALS[404][1] if status == 404 else str(exc),
        faults=exc.faults if isinstance(exc, Invalid) else (),
        headers=headers,
    )


def _refused(exc: web.HTTPException) -> Failure:
    slug, detail = _REFUSALS.get(exc.status, ("refused", "the request was refused"))
    headers = {name: exc.headers[name] for name in ("Allow", "Retry-After") if name in exc.headers}
    title = HTTPStatus(exc.status).phrase
    return Failure(status=exc.status, slug=slug, title=title, detail=detail, headers=headers)


def _answer(request: web.Request, failure: Failure) -> web.Response:
    response = _problem(request, failure) if _for_programs(request) else _error_page(request, failure)
    response.headers.update(failure.headers)
    if failure.status in {408, 413}:
        response.force_close()  # the rest of the body is not read
    return response


def _problem(request: web.Request, failure: Failure) -> web.Response:
    body: dict[str, object] = {
        "type": f"/problems/{failure.slug}",
        "title": failure.title,
        "status": failure.status,
        "detail": failure.detail,
        "request_id": keys.request_id(request),
    }
    if failure.faults:
        body["errors"] = [{"pointer": fault.pointer, "message": fault.message} for fault in failure.faults]
    return web.Response(
        body=orjson.dumps(body), status=failure.status, content_type="application/problem+json"
    )


def _error_page(request: web.Request, failure: Failure) -> web.Response:
    try:
        return keys.page(
            request,
            "error.html",
            status=failure.status,
            title=failure.title,
            detail=failure.detail,
            faults=failure.faults,
        )
    except (jinja2.TemplateError, KeyError):  # KeyError: no templates, or no route that the template names
        log.exception("error page failed", extra={"status": failure.status})
        title = html.escape(failure.title)
        text = f"<!DOCTYPE html><html lang=en><title>{title}</title><h1>{title}</h1>"
        return web.Response(text=text, status=failure.status, content_type="text/html")


def _sign_in(request: web.Request) -> web.Response:
    back = request.path_qs if request.method in {"GET", "HEAD"} else ""
    target = "/login" + (f"?next={quote(back, safe='/')}" if back and back != "/" else "")
    return web.Response(status=303, headers={hdrs.LOCATION: target})


def _for_programs(request: web.Request) -> bool:
    return request.path.startswith(_PROGRAMS) or keys.TEMPLATES not in request.app  # a process without pages


@web.middleware
async def share_across_origins(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a browser that asks whether a script of another, allowed origin may call the API."""
    if (
        request.method == "OPTIONS"
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        and request.path.startswith("/api/")
        and _allowed_origin(request) is not None
    ):
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
                "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, X-Request-ID",
                "Access-Control-Max-Age": "600",
            },
        )
    return await handler(request)


def _allowed_origin(request: web.Request) -> str | None:
    origin = request.headers.get(hdrs.ORIGIN)
    return origin if origin is not None and origin in request.app[keys.SITE].allowed_origins else None


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Put on every answer, streams and errors too, what browsers and caches must know."""
    headers = response.headers
    site = request.app[keys.SITE]
    headers[hdrs.SERVER] = "galley"
    headers["X-Request-ID"] = keys.request_id(request)
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if site.secure_cookies:
        headers["Strict-Transport-Security"] = _HSTS
    if _private(request, response):
        headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    if site.allowed_origins and request.path.startswith("/api/"):
        headers.add(hdrs.VARY, "Origin")
        origin = _allowed_origin(request)
        if origin is not None:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = _EXPOSED


def _private(request: web.Request, response: web.StreamResponse) -> bool:
    return (
        keys.PRINCIPAL in request
        or response.status >= 400
        or request.path.startswith(("/api/", "/login", "/desk"))
    )
