"""Signing in and out."""

from __future__ import annotations

import logging
import math
import re

from aiohttp import web

from routes import keys
from services import access, passwords
from services.access import Principal
from services.errors import RateLimited
from services.rate_limits import RateLimit

log = logging.getLogger(__name__)
routes = web.RouteTableDef()

# A path of ours: browsers read //host, /\host and paths with control characters as another site.
_LOCAL = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*", re.ASCII)
_MOST_CHARACTERS = 2000


@routes.get("/login", name="login")
async def form(request: web.Request) -> web.Response:
    """Show the sign-in, or go on for those who have."""
    if keys.find_principal(request) is not None:
        raise web.HTTPSeeOther(_next(request, request.query.get("next")))
    return _show(request, email="", target=request.query.get("next", ""))


@routes.post("/login")
async def sign_in(request: web.Request) -> web.StreamResponse:
    """Check the password and open a session. A wrong one and an unknown address cost the same time and read the same."""
    fields = await request.post()
    email, password = str(fields.get("email", "")).strip(), str(fields.get("password", ""))
    target = str(fields.get("next", ""))
    _slow_down(request, email)
    async with request.app[keys.DATABASE].lookup() as db:
        found = await access.find_login(db, email) if 0 < len(email) <= 254 and "\x00" not in email else None
    if not await passwords.matches(found[1] if found else None, password) or found is None:
        for limit, key in _counters(request, email):
            limit.hit(key)
        log.warning("sign-in refused", extra={"address": request.remote})
        wrong = "this address and password do not belong together"
        return _show(request, email=email[:254], target=target, error=wrong)
    return await _open(request, found[0], _next(request, target))


@routes.post("/logout", name="logout")
async def sign_out(request: web.Request) -> web.StreamResponse:
    """End the session, here and in the database."""
    response = web.HTTPSeeOther("/login")
    await _close_current(request)
    response.del_cookie(keys.session_cookie(request), path="/", secure=request.app[keys.SITE].secure_cookies)
    raise response


async def _open(request: web.Request, user: Principal, target: str) -> web.StreamResponse:
    await _close_current(request)
    async with request.app[keys.DATABASE].tenant(user.tenant_id, user.actor) as db:
        token = await access.open_session(db, user)
    log.info("signed in", extra={"actor": user.actor})
    response = web.HTTPSeeOther(target)
    response.set_cookie(
        keys.session_cookie(request),
        token,
        max_age=int(access.SESSION_LIFE.total_seconds()),
        path="/",
        httponly=True,
        secure=request.app[keys.SITE].secure_cookies,
        samesite="Lax",
    )
    raise response


async def _close_current(request: web.Request) -> None:
    """End the session that the request came with, if it has one."""
    caller = keys.find_principal(request)
    if caller is not None and keys.SESSION_ID in request:
        async with request.app[keys.DATABASE].tenant(caller.tenant_id, caller.actor) as db:
            await access.close_session(db, caller.tenant_id, request[keys.SESSION_ID])


def _show(request: web.Request, *, email: str, target: str, error: str | None = None) -> web.Response:
    return keys.page(
        request,
        "login.html",
        status=401 if error else 200,
        email=email,
        error=error,
        next=target[:_MOST_CHARACTERS],
    )


def _next(request: web.Request, wanted: str | None) -> str:
    """Return where to go after signing in: *wanted* if that is a path of ours, `/` if it is anything else."""
    if not wanted:
        return str(request.app.router["desk"].url_for())
    return wanted if _LOCAL.fullmatch(wanted) and len(wanted) <= _MOST_CHARACTERS else "/"


def _slow_down(request: web.Request, email: str) -> None:
    wait = max(limit.wait(key) for limit, key in _counters(request, email))
    if wait > 0:
        raise RateLimited(f"too many wrong passwords: try again in {math.ceil(wait)} s", retry_after=wait)


def _counters(request: web.Request, email: str) -> list[tuple[RateLimit, str]]:
    per_account, per_address = request.app[keys.SIGN_IN_LIMITS]
    address = request.remote or "?"
    return [(per_account, f"{address} {email[:254].lower()}"), (per_address, address)]
