"""Finds out who calls, once per request, and refuses requests that another site made a browser send.

An API key in `Authorization: Bearer` comes first, then the session's cookie. A wrong key is refused at once; a wrong cookie is no
cookie, so that people whose session has ended meet the sign-in. At most one round trip to the database per request, shared by those
that come at the same time; none for requests without either.
"""

from __future__ import annotations

import asyncio
import hmac
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from routes import keys
from services import access
from services.errors import Forbidden, Unauthenticated
from services.rate_limits import RateLimit

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN = frozenset({"static", "livez", "readyz", "metrics"})  # names of routes that nobody signs in for
FORM_SECONDS = 60.0
# Wrong passwords: ten from one address for one account, then one every 30 s; fifty from one address, then one every 5 s.
# Never by account alone: whoever guesses must not lock its owner out.
PER_ACCOUNT, PER_ADDRESS = (10, 30.0), (50, 5.0)
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def install(app: web.Application) -> None:
    """Give *app* what the sign-in counts wrong passwords with; in this process only."""
    app[keys.SIGN_IN_LIMITS] = (
        RateLimit(burst=PER_ACCOUNT[0], seconds=PER_ACCOUNT[1]),
        RateLimit(burst=PER_ADDRESS[0], seconds=PER_ADDRESS[1]),
    )


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Put the caller, if there is one, on the request; then ask whether the request was meant."""
    if request.match_info.http_exception is not None or request.match_info.route.name in OPEN:
        return await handler(request)
    authorization = request.headers.get(hdrs.AUTHORIZATION)
    if authorization is not None:
        await _by_key(request, authorization)
        return await handler(request)
    token = request.cookies.get(keys.session_cookie(request))
    if token:
        await _by_session(request, token)
    if request.method not in SAFE:
        await _refuse_forgery(request)
    return await handler(request)


async def _by_key(request: web.Request, authorization: str) -> None:
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated("send the key as `Authorization: Bearer …`")
    principal = await request.app[keys.DATABASE].look_up(access.authenticate_keys, key.strip())
    if principal is None:
        raise Unauthenticated("this key is unknown, has expired or was revoked")
    request[keys.PRINCIPAL] = principal


async def _by_session(request: web.Request, token: str) -> None:
    async with request.app[keys.DATABASE].lookup() as db:
        session = await access.find_session(db, token)
    if session is not None:
        request[keys.PRINCIPAL] = session.principal
        request[keys.SESSION_ID] = session.id
        request[keys.CSRF_TOKEN] = session.csrf_token


async def _refuse_forgery(request: web.Request) -> None:
    """Raises: Forbidden when another site is behind an unsafe request, or it lacks the token of its session."""
    came_from = request.headers.get("Sec-Fetch-Site")
    if came_from is not None and came_from not in {"same-origin", "none"}:
        raise _forged()
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and urlsplit(origin).netloc.lower() != request.host.lower():
        raise _forged()
    expected = keys.csrf_token(request)
    if not expected:
        return  # no session to misuse: the sign-in form, or a caller who will be told to sign in
    if came_from == "same-origin" and request.path.startswith("/api/"):
        return  # a script of our own pages: other sites cannot make a browser say so
    given = request.headers.get("X-CSRF-Token") or await _token_in_form(request)
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise _forged()


async def _token_in_form(request: web.Request) -> str:
    if request.content_type not in _FORMS:
        return ""
    try:
        async with asyncio.timeout(FORM_SECONDS):
            value = (await request.post()).get("csrf_token", "")  # kept: the handler reads the same form
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    return value if isinstance(value, str) else ""


def _forged() -> Forbidden:
    return Forbidden(
        "this form came from elsewhere or is out of date: open the page again and repeat", slug="csrf"
    )
