"""What is declared about an operation, and what follows from its handler's signature."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, TypeAdapter

from routes.api.shapes import JSONObject
from services.task_context import Connection

# The handler of an operation for many calls of one caller at once: a value or an error for each.
Together = Callable[[Connection, Sequence[Any]], Awaitable[Sequence[object]]]
_VARIABLE = re.compile(r"\{(\w+)(?::[^}]*)?\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """All that serving and documenting one operation needs."""

    method: str
    path: str
    name: str
    summary: str
    description: str
    role: str | None
    answer: TypeAdapter[Any] | None
    media_type: str
    status: int
    idempotent: bool
    if_match: bool
    also_accepts: dict[str, JSONObject]
    max_bytes: int
    # From here on: read from the handler.
    handler: Callable[..., Awaitable[object]]
    together: Together | None
    tag: str
    path_values: dict[str, type]
    body: TypeAdapter[Any] | None
    body_required: bool
    query: TypeAdapter[Any] | None
    query_lists: frozenset[str]
    transaction: bool
    errors: frozenset[int]

    @property
    def pattern(self) -> str:
        """The path as the router is to match it: an id is never taken for a word that stands in its place."""
        found = self.path
        for name, kind in self.path_values.items():
            if kind is UUID:
                found = found.replace("{" + name + "}", "{" + name + ":[0-9a-fA-F-]{36}}")
        return found


def declare(handler: Callable[..., Awaitable[object]], *, errors: tuple[int, ...], **given: Any) -> Operation:
    """Return the operation of *handler*. Raises: TypeError, at import, for a declaration that cannot be served."""
    wanted = {
        name: found.annotation for name, found in inspect.signature(handler, eval_str=True).parameters.items()
    }
    body, query = wanted.pop("body", None), wanted.pop("query", None)
    transaction = wanted.pop("db", None) is not None
    wanted.pop("call")
    if given["idempotent"] and not transaction:
        raise TypeError(
            f"{given['name']}: an idempotent operation keeps its answer in its own transaction, so it takes `db`"
        )
    if set(wanted) != set(_VARIABLE.findall(given["path"])) or not set(wanted.values()) <= {UUID, int, str}:
        raise TypeError(
            f"{given['name']}: the path and the handler name different variables, or of other types: {wanted}"
        )
    implied = _implied_errors(
        has_input=body is not None or bool(given["also_accepts"]), has_query=query is not None, given=given
    )
    return Operation(
        **given,
        handler=handler,
        tag=given["path"].removeprefix("/api/v1/").split("/")[0],
        path_values=wanted,
        body=None if body is None else TypeAdapter(_without_none(body)),
        body_required=body is not None and _without_none(body) is body,
        query=None if query is None else TypeAdapter(query),
        query_lists=_list_fields(query),
        transaction=transaction,
        errors=frozenset(errors) | implied | ({404} if wanted else set()),
    )


def of(app: web.Application) -> list[Operation]:
    """Return every operation that *app* serves."""
    found = {id(route.handler): getattr(route.handler, "operation", None) for route in app.router.routes()}
    return [entry for entry in found.values() if isinstance(entry, Operation)]


def _implied_errors(*, has_input: bool, has_query: bool, given: dict[str, Any]) -> set[int]:
    found = {400, 429, 503}
    if given["role"] is not None:
        found |= {401, 403}
    if has_input:
        found |= {408, 413, 415, 422}
    if has_query:
        found |= {422}
    if given["idempotent"]:
        found |= {409, 422}
    if given["if_match"]:
        found |= {412, 428}
    return found


def _without_none(annotation: Any) -> Any:
    """Return `Model` for `Model | None`, and everything else as it is."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and type(None) in get_args(annotation) else annotation


def _list_fields(model: type[BaseModel] | None) -> frozenset[str]:
    properties = {} if model is None else TypeAdapter(model).json_schema().get("properties", {})
    return frozenset(name for name, schema in properties.items() if _is_list(schema))


def _is_list(schema: JSONObject) -> bool:
    return schema.get("type") == "array" or any(_is_list(branch) for branch in schema.get("anyOf", []))
