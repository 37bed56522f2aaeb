"""What the pages of the desk have in common: the caller, one transaction, reading addresses and forms, telling what was wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from routes import keys
from routes.api import reading
from services import alerts, reviews
from services.access import Principal
from services.errors import Fault, GalleyError, Invalid, Malformed, NotFound
from services.task_context import Connection

PAGE_SIZE = 50

# What a page says after a change, by the word that the redirect carries: nobody can put a text of theirs on the page.
NOTICES = {
    "cancelled": "The task is cancelled.",
    "asked": "The article is asked for. This page shows how it goes.",
    "requeued": "This is the new task.",
    "released": "It will run again.",
    "hurried": "It is due now and starts with the next free slot.",
    "approved": "Approved: it is on the site.",
    "changes-requested": "Changes are requested. The next draft has to take up your points.",
    "rejected": "Rejected.",
    "saved": "Saved as a new version.",
    "restored": "The older words are the latest version now.",
    "submitted": "A review is open for this version.",
    "withdrawn": "It is off the site. Its address stays reserved for it.",
    "published": "It is on the site.",
    "unchanged": "Nothing was changed, so there is no new version.",
    "added": "The document was added and is being indexed.",
    "known": "The collection has this very text already: here it is.",
    "queue-created": "The queue is there. Tasks may name it.",
    "queue-deleted": "The queue is deleted.",
    "limits-set": "Set. The next claim goes by it.",
    "paused": "The queue is paused.",
    "resumed": "The queue moves again.",
    "drained": "It claims nothing more and ends what it runs.",
    "undrained": "It claims again, within one heartbeat.",
    "discarded": "Discarded. It counts as handled.",
    "noted": "The note is kept.",
    "bulk-stopped": "Stopped. What was done by then stays done.",
    "schedule-created": "The schedule is there and ticks from now on.",
    "schedule-saved": "Saved.",
    "schedule-paused": "It does not tick while it is paused.",
    "schedule-resumed": "It ticks again, from now on.",
    "schedule-run": "This is the task; the schedule's ticks stay as they are.",
    "schedule-deleted": "The schedule is deleted. What became of its ticks stays readable here.",
    "alert-acknowledged": "Acknowledged. The alert closes by itself once all is well.",
    "rule-saved": "Saved. The next look goes by it.",
    "rule-created": "The rule is there.",
    "rule-deleted": "The rule is deleted.",
    "deleted": "The document and everything made from it are deleted.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """One page for one caller. `db` may be used inside `open_desk` only; `page` works afterwards as well."""

    request: web.Request
    principal: Principal
    db: Connection
    pending_reviews: int
    new_alerts: int  # for operators

    @property
    def tenant_id(self) -> UUID:
        """The caller's tenant, named in every query."""
        return self.principal.tenant_id

    async def open_alerts(self) -> list[alerts.Alert]:
        """Return what alerts/_banner.html shows: to operators what is open, to others nothing."""
        return await alerts.list_open(self.db, self.tenant_id) if self.principal.may("operator") else []

    def page(self, template: str, /, *, status: int = 200, **values: object) -> web.Response:
        """Return *template* in the frame of the desk."""
        framed = {**self.frame(), **values}
        response = keys.page(self.request, template, status=status, **framed)
        response.headers["Cache-Control"] = "no-store"
        return response

    def frame(self) -> dict[str, object]:
        """What base.html needs."""
        return {
            "tenant": self.principal.tenant,
            "pending_reviews": self.pending_reviews,
            "new_alerts": self.new_alerts,
            "notice": NOTICES.get(self.request.query.get("done", "")),
        }


@asynccontextmanager
async def open_desk(request: web.Request, role: str = "viewer") -> AsyncIterator[Desk]:
    """Open the caller's transaction for one page. Raises: Unauthenticated, Forbidden."""
    principal = keys.principal(request, role)
    async with request.app[keys.DATABASE].tenant(principal.tenant_id, principal.actor) as db:
        pending = await reviews.count_pending(db, principal.tenant_id)
        news = await alerts.count_new(db, principal.tenant_id) if principal.may("operator") else 0
        yield Desk(request=request, principal=principal, db=db, pending_reviews=pending, new_alerts=news)


def go(
    request: web.Request, route: str, *, done: str = "", fragment: str = "", **parts: object
) -> web.Response:
    """Answer a form by sending the browser to a page, which then says what was *done*."""
    address = request.app.router[route].url_for(**{name: str(value) for name, value in parts.items()})
    address = address.with_query(done=done) if done else address
    address = address.with_fragment(fragment) if fragment else address
    return web.Response(status=303, headers={"Location": str(address), "Cache-Control": "no-store"})


def link(request: web.Request, route: str = "", /, **changes: object) -> str:
    """Return the address of this page, or of that of *route*, with other values in its query; None takes one out."""
    query = {**request.query, **changes}
    kept = {name: str(value) for name, value in query.items() if value is not None and name != "done"}
    page = request.app.router[route].url_for() if route else request.rel_url
    return str(page.with_query(kept))


def older(request: web.Request, rows: list[Any], route: str = "") -> tuple[list[Any], str | None, str | None]:
    """Cut a list read with one row too many: the rows to show, the address of the newest page, that of the next older one."""
    shown = rows[:PAGE_SIZE]
    next_page = link(request, route, before=shown[-1].id) if len(rows) > PAGE_SIZE else None
    return shown, link(request, route, before=None) if "before" in request.query else None, next_page


def part(request: web.Request, name: str) -> UUID:
    """Return the id in the address. Raises: NotFound when it is none."""
    try:
        return UUID(request.match_info[name])
    except ValueError:
        raise NotFound("there is nothing at this address") from None


def before(request: web.Request) -> UUID | None:
    """Return where the page begins: below this id. Raises: Malformed."""
    try:
        return UUID(request.query["before"]) if request.query.get("before") else None
    except ValueError:
        raise Malformed("the address of this page is not complete") from None


def choice(request: web.Request, name: str, allowed: Iterable[str]) -> str | None:
    """Return a filter from the query when it is one of those allowed, else None."""
    value = request.query.get(name)
    return value if value in set(allowed) else None


def number(text: str | None) -> int | None:
    """Return a whole number that was typed or stands in an address; None for anything else."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def read_moment(text: str, name: str) -> datetime | None:
    """Return the date with its time that was typed into field *name*, in UTC; None for an empty field. Raises: Invalid."""
    if not text.strip():
        return None
    try:
        return datetime.fromisoformat(text.strip()).replace(tzinfo=UTC)
    except ValueError:
        raise Invalid("no date", faults=(Fault(f"/{name}", "must be a date with a time"),)) from None


def read_object(text: str, name: str) -> dict[str, Any]:
    """Return the JSON object that was typed into field *name*, read as strictly as the API reads. Raises: Invalid."""
    try:
        value = reading.parse_json(text.encode(errors="surrogatepass"))
    except Invalid as exc:
        found = tuple(Fault(f"/{name}{fault.pointer}", fault.message) for fault in exc.faults)
        raise Invalid(str(exc), faults=found) from None
    except Malformed as exc:
        said = str(exc).removeprefix("the body ").replace("the JSON passes", "passes")
        raise Invalid(f"{name} cannot be read", faults=(Fault(f"/{name}", said),)) from None
    if not isinstance(value, dict):
        raise Invalid(f"{name} is no object", faults=(Fault(f"/{name}", "must be a JSON object"),))
    return value


async def fields(request: web.Request) -> dict[str, str]:
    """Return the texts of a form, line ends as one character; files are left out."""
    form = await request.post()
    return {name: value.replace("\r\n", "\n") for name, value in form.items() if isinstance(value, str)}


def told(error: GalleyError) -> list[str]:
    """Say what was wrong, one sentence per fault."""
    faults = error.faults if isinstance(error, Invalid) else ()
    return [f"{fault.pointer.strip('/').replace('_', ' ')} {fault.message}".strip() for fault in faults] or [
        str(error)
    ]
