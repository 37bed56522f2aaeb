"""How API handlers are written: one declaration per operation serves it, checks it and documents it.

    @operation(routes, "POST", "/api/v1/tasks", name="tasks.create", role="author", answer=TaskView, status=201,
               idempotent=True, summary="Create a task")
    async def create(call: Call, db: Connection, body: NewTask) -> Answer:
        task = await tasks.enqueue(db, tenant_id=call.tenant_id, type=body.type, …, actor=call.actor)
        call.wake(task.queue)
        return Answer(task, location=call.url("tasks.get", task_id=task.id))

What the handler's parameters are called decides what it gets: `call` always; `db` an open transaction of the caller's tenant,
committed before the answer is sent (leave it out, and open your own with `call.database.tenant(call.tenant_id, call.actor)`,
where a model is asked in between); `body` and `query` checked against their annotation; any other name is a variable of the
path (UUID, int or str). What it returns is read into `answer` by attribute, so a service's row can be returned as it is; a
finished `web.StreamResponse` goes out untouched.

One request goes: caller and role → path → query → body → transaction (idempotency key, handler, answer kept) → commit →
`after_commit` → answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson
from aiohttp import hdrs, web
from pydantic import TypeAdapter

from routes import keys
from routes.api import operations, reading
from routes.api.calls import Answer, Call
from routes.api.operations import Operation
from routes.api.shapes import Body, Instant, Int, JSONObject, Page, PageQuery, Query, QueryInt, Text, View
from services import idempotency
from services.errors import GalleyError
from services.idempotency import Kept, Slot
from services.task_context import Connection

__all__ = [
    "Answer",
    "Body",
    "Call",
    "Instant",
    "Int",
    "JSONObject",
    "Page",
    "PageQuery",
    "Query",
    "QueryInt",
    "Text",
    "View",
    "operation",
]

IDEMPOTENCY_KEY = "Idempotency-Key"
Handler = TypeVar("Handler", bound=Callable[..., Awaitable[object]])


def operation(
    routes: web.RouteTableDef,
    method: str,
    path: str,
    *,
    name: str,
    summary: str,
    role: str | None,
    answer: Any = None,
    status: int = 200,
    description: str = "",
    errors: tuple[int, ...] = (),
    idempotent: bool = False,
    together: operations.Together | None = None,
    if_match: bool = False,
    also_accepts: dict[str, JSONObject] | None = None,
    media_type: str = "application/json",
    max_bytes: int = reading.MAX_BYTES,
) -> Callable[[Handler], Handler]:
    """Declare an operation and add it to *routes*.

    name: unique, `<noun>.<verb>`; also the name of the route. role: the least that may call it, None for everyone. answer: a
    model or `Page[Model]`, None for no body. errors: statuses beyond those that follow from the rest. also_accepts: media
    types beside JSON with their schemas; the handler then gets `body=None` and reads `call.request`. together: the handler for calls
    that one caller makes at the same time, `work(db, [(call, body), …])`; they share a transaction, unless they carry a key.
    """

    def declare(handler: Handler) -> Handler:
        declared = operations.declare(
            handler,
            errors=errors,
            method=method,
            path=path,
            name=name,
            summary=summary,
            description=description,
            role=role,
            answer=None if answer is None else TypeAdapter(answer),
            status=status,
            idempotent=idempotent,
            together=together,
            if_match=if_match,
            also_accepts=also_accepts or {},
            media_type=media_type,
            max_bytes=max_bytes,
        )

        _add_route(routes, declared)
        return handler

    return declare


def _add_route(routes: web.RouteTableDef, declared: Operation) -> None:
    async def serve(request: web.Request) -> web.StreamResponse:
        return await _serve(declared, request)

    serve.operation = declared  # type: ignore[attr-defined]
    # A stream has no end for HEAD to announce, and aiohttp would send its text after the head.
    options = {"allow_head": declared.media_type == "application/json"} if declared.method == "GET" else {}
    routes.route(declared.method, declared.pattern, name=declared.name, **options)(serve)


async def _serve(declared: Operation, request: web.Request) -> web.StreamResponse:
    caller = None if declared.role is None else keys.principal(request, declared.role)
    if declared.also_accepts:
        request = request.clone(client_max_size=declared.max_bytes)
    call = Call(request, declared.name, caller)
    values: dict[str, Any] = {
        name: reading.read_path(request.match_info[name], kind) for name, kind in declared.path_values.items()
    }
    if declared.query is not None:
        values["query"] = reading.read_query(request, declared.query, declared.query_lists)
    slot = await _read_body(declared, call, values)
    if declared.together is not None and slot is None:
        response = await _together(declared.together, declared, call, values["body"])
    elif declared.transaction:
        response = await _in_transaction(declared, call, values, slot)
    else:
        response = _respond(declared, request, await declared.handler(call, **values))
    call.committed()
    return response


async def _read_body(declared: Operation, call: Call, values: dict[str, Any]) -> Slot | None:
    """Put the checked body into *values*; return where the answer is to be kept, if the caller sent an Idempotency-Key."""
    request = call.request
    keyed = declared.idempotent and IDEMPOTENCY_KEY in request.headers
    content = b""
    if declared.also_accepts and request.content_type in declared.also_accepts:
        values["body"] = None
        content = await reading.form_digest(request)  # read here, so that no transaction waits for an upload
    elif declared.body is not None and not (
        declared.body_required or declared.also_accepts or request.can_read_body
    ):
        values["body"] = None  # `body: Model | None`, and none was sent
    elif declared.body is not None:
        reading.require_json(request)
        raw = await reading.read_bytes(request, max_bytes=declared.max_bytes)
        tree = reading.parse_json(raw)
        values["body"] = reading.validate_body(declared.body, raw)
        content = orjson.dumps(tree, option=orjson.OPT_SORT_KEYS) if keyed else b""
    if not keyed:
        return None
    return Slot(
        tenant_id=call.tenant_id,
        principal_id=call.principal.id,
        route=f"{declared.method} {declared.path}",
        key=idempotency.parse_key(request.headers[IDEMPOTENCY_KEY]),
        request_hash=hashlib.sha256(request.path_qs.encode() + b"\x00" + content).digest(),
    )


async def _in_transaction(
    declared: Operation, call: Call, values: dict[str, Any], slot: Slot | None
) -> web.StreamResponse:
    async def work(db: Connection) -> web.StreamResponse:
        call.rolled_back()  # what a broken deadlock left from the try before
        return await _answer_once(declared, call, values | {"db": db}, slot)

    return await call.database.run(call.tenant_id, call.actor, work)


async def _together(
    work: operations.Together, declared: Operation, call: Call, body: object
) -> web.StreamResponse:
    """Answer in a transaction that is shared with other calls of the same caller that come at the same time."""
    result = await call.database.run_together(call.tenant_id, call.actor, work, (call, body))
    if isinstance(result, GalleyError):
        raise result
    return _respond(declared, call.request, result)


async def _answer_once(
    declared: Operation, call: Call, values: dict[str, Any], slot: Slot | None
) -> web.StreamResponse:
    """Run the handler, or answer with what was kept under the caller's key. Everything here commits together."""
    if slot is None:
        return _respond(declared, call.request, await declared.handler(call, **values))
    db: Connection = values["db"]
    kept = await idempotency.take(db, slot)
    if kept is not None:
        return web.Response(
            body=kept.body, status=kept.status, headers=kept.headers | {"Idempotency-Replayed": "true"}
        )
    response = _respond(declared, call.request, await declared.handler(call, **values))
    if isinstance(response, web.Response):
        body = response.body if isinstance(response.body, bytes) else b""
        headers = {str(name): response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        await idempotency.keep(db, slot, Kept(status=response.status, headers=headers, body=body))
    return response


_KEPT_HEADERS = (hdrs.CONTENT_TYPE, hdrs.LOCATION, hdrs.ETAG)


def _respond(declared: Operation, request: web.Request, result: object) -> web.StreamResponse:
    if isinstance(result, web.StreamResponse):
        return result
    answer = result if isinstance(result, Answer) else Answer(result)
    headers = dict(answer.headers)
    if answer.location is not None:
        headers[hdrs.LOCATION] = answer.location
    if answer.etag is not None:
        headers[hdrs.ETAG] = f'"{answer.etag}"'
        if request.method in {"GET", "HEAD"} and headers[hdrs.ETAG] in _none_match(request):
            return web.Response(status=304, headers=headers)
    status = answer.status or declared.status
    if declared.answer is None:
        return web.Response(status=status, headers=headers)
    value = declared.answer.validate_python(answer.value, from_attributes=True)
    return web.Response(
        body=declared.answer.dump_json(value),
        status=status,
        headers=headers,
        content_type=declared.media_type,
    )


def _none_match(request: web.Request) -> list[str]:
    given = request.headers.get(hdrs.IF_NONE_MATCH, "")
    return [part.strip().removeprefix("W/") for part in given.split(",")]
