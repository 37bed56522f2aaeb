"""The OpenAPI 3.1 document, built from the same declarations that serve the calls."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

if TYPE_CHECKING:
    from routes.api.operations import Operation

JSON = dict[str, Any]
_REFERENCE = "#/components/schemas/{model}"
_PROBLEM_TYPE = "application/problem+json"
_PATH_KINDS: dict[type, JSON] = {
    UUID: {"type": "string", "format": "uuid"},
    int: {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    str: {"type": "string"},
}
_PROBLEM: JSON = {
    "type": "object",
    "description": "What went wrong, as RFC 9457 has it.",
    "required": ["type", "title", "status", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "examples": ["/problems/validation"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "One entry per fault in the input.",
            "items": {
                "type": "object",
                "required": ["pointer", "message"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer to the fault."},
                    "message": {"type": "string"},
                },
            },
        },
    },
}


def document(operations: Iterable[Operation], *, title: str, version: str, description: str) -> JSON:
    """Return the OpenAPI document of *operations*; it holds every schema they name, once."""
    found = sorted(operations, key=lambda operation: (operation.path, operation.method))
    schemas, definitions = TypeAdapter.json_schemas(_inputs(found), ref_template=_REFERENCE)
    paths: dict[str, JSON] = {}
    for operation in found:
        paths.setdefault(_plain(operation.path), {})[operation.method.lower()] = _operation(
            operation, schemas
        )
    components = dict(definitions.get("$defs", {})) | {"Problem": _PROBLEM}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "security": [{"key": []}],
        "tags": [{"name": tag} for tag in sorted({operation.tag for operation in found})],
        "paths": paths,
        "components": {
            "schemas": {name: _in_json_words(components[name]) for name in sorted(components)},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key: `gk_<id>_<secret>`."}
            },
        },
    }


def _inputs(operations: list[Operation]) -> list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]]:
    wanted: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = []
    for operation in operations:
        if operation.body is not None:
            wanted.append((f"{operation.name} body", "validation", operation.body))
        if operation.answer is not None:
            wanted.append((f"{operation.name} answer", "serialization", operation.answer))
    return wanted


def _operation(operation: Operation, schemas: dict[tuple[str, JsonSchemaMode], JSON]) -> JSON:
    entry: JSON = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": _parameters(operation),
        "responses": _responses(operation, schemas),
    }
    if operation.description:
        entry["description"] = operation.description
    content: JSON = {media: {"schema": schema} for media, schema in operation.also_accepts.items()}
    if operation.body is not None:
        content["application/json"] = {"schema": schemas[f"{operation.name} body", "validation"]}
    if content:
        entry["requestBody"] = {
            "required": operation.body_required or bool(operation.also_accepts),
            "content": content,
        }
    if operation.role is None:
        entry["security"] = []
    return entry


def _parameters(operation: Operation) -> list[JSON]:
    found: list[JSON] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_KINDS[kind]}
        for name, kind in operation.path_values.items()
    ]
    if operation.query is not None:
        found.extend(_query_parameters(operation.query))
    if operation.idempotent:
        found.append(_IDEMPOTENCY_KEY)
    if operation.if_match:
        found.append(_IF_MATCH)
    return found


_IDEMPOTENCY_KEY: JSON = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Repeat a call with the same key and body within 24 hours, and you get the first answer again "
    "instead of a second effect.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
_IF_MATCH: JSON = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "description": "The ETag of what you saw.",
    "schema": {"type": "string"},
}


def _query_parameters(adapter: TypeAdapter[Any]) -> list[JSON]:
    schema = adapter.json_schema(ref_template=_REFERENCE)
    required = schema.get("required", [])
    found: list[JSON] = []
    for name, given in schema.get("properties", {}).items():
        field = dict(_in_json_words(given))
        description = field.pop("description", None)
        entry: JSON = {"name": name, "in": "query", "required": name in required, "schema": _not_null(field)}
        found.append(entry | ({"description": description} if description else {}))
    return found


# pydantic leaves its own words where a bound stands on a number that may be null.
_BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def _in_json_words(schema: Any) -> Any:
    """Return *schema* with bounds as JSON Schema names them."""
    if isinstance(schema, list):
        return [_in_json_words(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    bounded = schema.get("type") in ("integer", "number")  # a tuple: a property may be called "type"
    return {
        _BOUNDS.get(name, name) if bounded else name: _in_json_words(value) for name, value in schema.items()
    }


def _not_null(schema: JSON) -> JSON:
    # A query string cannot say null: a parameter that may be left out is simply not required.
    branches = [branch for branch in schema.get("anyOf", []) if branch != {"type": "null"}]
    if len(branches) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name not in {"anyOf", "default"}}
    only: JSON = branches[0]
    return rest | only


def _responses(operation: Operation, schemas: dict[tuple[str, JsonSchemaMode], JSON]) -> JSON:
    good: JSON = {"description": HTTPStatus(operation.status).phrase}
    if operation.answer is not None:
        good["content"] = {
            operation.media_type: {"schema": schemas[f"{operation.name} answer", "serialization"]}
        }
    elif operation.media_type != "application/json":
        good["content"] = {operation.media_type: {"schema": {"type": "string"}}}
    if operation.status == HTTPStatus.CREATED:
        good["headers"] = {
            "Location": {"schema": {"type": "string"}, "description": "Where the new thing is."}
        }
    problem = {"content": {_PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    return {str(operation.status): good} | {
        str(status): {"description": HTTPStatus(status).phrase} | problem
        for status in sorted(operation.errors)
    }


def _plain(path: str) -> str:
    """Return an aiohttp path without the patterns in its variables: `/a/{name:[^/]+}` → `/a/{name}`."""
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)
