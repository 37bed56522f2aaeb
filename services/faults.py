"""What pydantic found wrong, in our own words: where it is, what it should be, and what was given instead.

Only the caller reads it, and only what they sent comes back to them: single values, shortened, nothing nested.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from pydantic import PydanticUserError, ValidationError
from pydantic_core import ErrorDetails

from services.errors import Fault

JSONSchema = dict[str, Any]

MOST = 50
LONGEST_VALUE = 60
LONGEST_MESSAGE = 300

_WORDS = {
    "missing": "is required",
    "extra_forbidden": "is not known here",
    "json_invalid": "is not JSON",
}
# What is wrong with these says itself how long or how many it was.
_COUNTED = {"too_long": "most", "too_short": "least"}


def of(
    exc: ValidationError, where: str = "", *, schema: Callable[[], JSONSchema] | None = None
) -> tuple[Fault, ...]:
    """Return a fault for each thing found wrong, the first MOST of them; *where* is what their pointers begin with.

    *schema* gives the JSON schema of what was expected: a name that is nearly one of its names is told which.
    """
    found = exc.errors(include_url=False)[:MOST]
    unknown = any(entry["type"] == "extra_forbidden" for entry in found)
    expected: JSONSchema = {}
    if schema is not None and unknown:
        with contextlib.suppress(PydanticUserError):  # a payload may have types that no schema describes
            expected = schema()
    return tuple(Fault(where + pointer(entry["loc"]), _message(entry, expected)) for entry in found)


def pointer(location: tuple[int | str, ...]) -> str:
    """Return *location* as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def shown(value: object) -> str:
    """Return a value as a message can show it: a single one as JSON, shortened, anything nested by its kind."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    try:
        text = orjson.dumps(value, default=str).decode()
    except TypeError:
        return f"a {type(value).__name__}"
    if len(text) > LONGEST_VALUE:
        text = text[: LONGEST_VALUE - 1] + "…"
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _message(entry: ErrorDetails, expected: JSONSchema) -> str:
    kind, given = entry["type"], entry.get("input")
    if kind == "extra_forbidden":
        *place, name = entry["loc"]
        close = difflib.get_close_matches(str(name)[:LONGEST_VALUE], _names(expected, place), n=1)
        return f"{_WORDS[kind]}; did you mean {close[0]}?" if close else _WORDS[kind]
    if kind in _WORDS:
        return _WORDS[kind]
    context: dict[str, Any] = entry.get("ctx", {})
    if kind in _COUNTED:
        word, wanted = _COUNTED[kind], context["min_length" if kind == "too_short" else "max_length"]
        return (
            f"should have at {word} {wanted} item{'' if wanted == 1 else 's'}, not {context['actual_length']}"
        )
    if kind in {"string_too_long", "string_too_short"} and isinstance(given, str):
        return f"{_text(entry)}, not {len(given)}"
    if kind == "string_pattern_mismatch":
        return f"has a form that is not accepted: {shown(given)} does not match {context['pattern']}"
    return f"{_text(entry)}, not {shown(given)}"


def _names(expected: JSONSchema, place: Iterable[int | str]) -> Iterable[str]:
    """Return the names that the object at *place* may have; none where the schema leaves it open."""

    def found(node: JSONSchema) -> JSONSchema:
        if "$ref" in node:
            return found(expected["$defs"][node["$ref"].rpartition("/")[2]])
        return next((found(one) for one in node.get("anyOf", ()) if "$ref" in one), node)

    node = found(expected)
    for part in place:
        inner = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
        node = found(inner if isinstance(inner, dict) else {})
    names: Iterable[str] = node.get("properties", ())
    return names


def _text(entry: ErrorDetails) -> str:
    """Return pydantic's sentence as it reads behind the name of what it is about."""
    text = entry["msg"].removeprefix("Value error, ")
    for opening in ("Input ", "String "):
        text = text.removeprefix(opening)
    return text[:1].lower() + text[1:LONGEST_MESSAGE]
