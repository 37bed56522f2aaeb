"""What a handler gets (`Call`) and what it may return (`Answer`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from aiohttp import hdrs, web

from routes import keys
from routes.api import cursors
from routes.api.shapes import JSONObject, PageQuery
from services.access import Principal
from services.errors import PreconditionFailed, PreconditionNeeded
from services.task_context import Database


@dataclass(frozen=True, slots=True)
class Answer:
    """A handler's value with what belongs into the head of the answer. `etag` stands without quotes."""

    value: object = None
    location: str | None = None
    etag: str | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Call:
    """One call of an operation: who calls, what was asked, and what is to happen once its transaction has committed."""

    __slots__ = ("_after_commit", "_principal", "_scope", "request")

    def __init__(self, request: web.Request, scope: str, principal: Principal | None) -> None:
        self.request = request
        self._principal = principal
        self._scope = scope
        self._after_commit: list[Callable[[], None]] = []

    @property
    def principal(self) -> Principal:
        """The caller; there is one wherever the operation was declared with a role."""
        return self._principal or keys.principal(self.request)

    @property
    def tenant_id(self) -> UUID:
        return self.principal.tenant_id

    @property
    def actor(self) -> str:
        return self.principal.actor

    @property
    def database(self) -> Database:
        return self.request.app[keys.DATABASE]

    def after_commit(self, action: Callable[[], None]) -> None:
        """Do *action* once the transaction has committed; never when it rolled back or the answer is a repeat."""
        self._after_commit.append(action)

    def wake(self, queue: str) -> None:
        """After the commit, hint that *queue* has work."""
        wake = self.request.app[keys.WAKE]
        self.after_commit(lambda: wake(queue))

    def url(self, name: str, **values: object) -> str:
        """Return the path of the operation called *name*."""
        route = self.request.app.router[name]
        return str(route.url_for(**{key: str(value) for key, value in values.items()}))

    def after(self, query: PageQuery) -> list[cursors.Scalar] | None:
        """Return the sort key that the page starts behind (ids and times as text), None for the first. Raises: Malformed."""
        if query.cursor is None:
            return None
        return cursors.decode(self._secret(), self.tenant_id, self._scope, query.cursor)

    def page(
        self, rows: Sequence[Any], query: PageQuery, key: Callable[[Any], tuple[Any, ...]]
    ) -> JSONObject:
        """Return *rows* as a Page: ask the service for `query.limit + 1` of them; *key* gives the sort key of a row."""
        shown, cursor = rows[: query.limit], None
        if len(rows) > query.limit:
            cursor = cursors.encode(self._secret(), self.tenant_id, self._scope, key(shown[-1]))
        return {"items": shown, "next_cursor": cursor}

    def require_match(self, etag: str) -> None:
        """Raises: PreconditionNeeded without If-Match, PreconditionFailed when it does not name *etag* (without quotes)."""
        given = self.request.headers.get(hdrs.IF_MATCH)
        if given is None:
            raise PreconditionNeeded("send If-Match with the ETag of what you saw")
        if given.strip() != "*" and f'"{etag}"' not in [part.strip() for part in given.split(",")]:
            raise PreconditionFailed("it has changed since: read it again before you change it")

    def committed(self) -> None:
        """Do what was to follow the commit. For the kernel."""
        actions, self._after_commit = self._after_commit, []
        for action in actions:
            action()

    def rolled_back(self) -> None:
        """Forget what was to follow the commit. For the kernel."""
        self._after_commit = []

    def _secret(self) -> bytes:
        return self.request.app[keys.SITE].secret_key
