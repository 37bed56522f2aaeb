"""Strict reading of what callers send: JSON bodies, query strings, path values (PROMISES S-IN).

A body is read in this order, and the first failure answers: media type (415), size (413), UTF-8 and JSON grammar without NaN,
without names given twice (400 malformed-json), depth and size of numbers (400 json-limits), text that PostgreSQL cannot store
and numbers beyond 64 bits (422), the model (422).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from aiohttp import StreamReader, hdrs, web
from pydantic import TypeAdapter, ValidationError

from services import faults
from services.errors import Fault, Invalid, Malformed, NotFound, TooLarge, UnsupportedMedia

MAX_DEPTH = 32  # far below what PostgreSQL stores (10,000), which Python could not read back
MAX_BYTES = 1024 * 1024
MAX_PARAMETERS = 200
BODY_SECONDS = 15.0  # the whole body must have arrived by then
_CHUNK = 65536

_SUSPECT_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")  # NUL or half of a surrogate pair
# Every digit as a nought, so that long numbers are found by looking for a text: ten times faster than by a pattern.
_NOUGHTS = bytes.maketrans(b"123456789E", b"000000000e")
_SUSPECT_NUMBER = b"0" * 19
_MAYBE_INFINITE = (b"e000", b"e+000", b"0" * 200)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SQUARE = bytes.maketrans(b"{}", b"[]")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_POSITIVE = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


async def read_bytes(request: web.Request, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the body. Raises: TooLarge, UnsupportedMedia (an unknown encoding), HTTPRequestTimeout (it came too slowly)."""
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower()
    if encoding not in {"identity", "gzip", "deflate"}:
        raise UnsupportedMedia(
            "the body is compressed in a way that is not known here: send gzip, deflate or none"
        )
    if (request.content_length or 0) > max_bytes:
        raise TooLarge(f"the body is longer than {max_bytes} bytes", slug="body-too-large")

    try:
        body = await _gather(request.content, most=max_bytes)
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the body did not arrive in time") from None
    except (web.PayloadAccessError, web.RequestPayloadError):
        raise Malformed("the body broke off or does not match its encoding") from None
    if len(body) > max_bytes:
        raise TooLarge(f"the body is longer than {max_bytes} bytes", slug="body-too-large")
    return body


async def _gather(content: StreamReader, *, most: int) -> bytes:
    """Return what comes, until it is more than *most*. Raises: TimeoutError, and what the stream raises when it breaks off."""
    if content.is_eof():  # it came with the head, as most do
        return content.read_nowait()
    parts, size = [], 0
    async with asyncio.timeout(BODY_SECONDS):
        async for part in content.iter_chunked(_CHUNK):
            parts.append(part)
            size += len(part)
            if size > most:
                break
    return b"".join(parts)


def require_json(request: web.Request) -> None:
    """Raises: UnsupportedMedia unless the body is announced as JSON in UTF-8."""
    if hdrs.CONTENT_TYPE not in request.headers or request.content_type != "application/json":
        raise UnsupportedMedia("send the body as `Content-Type: application/json`")
    if (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}:
        raise UnsupportedMedia("only UTF-8 is read here")


async def form_digest(request: web.Request) -> bytes:
    """Return a hash of a form's fields and files, whatever the boundary between them; the form can be read again after it."""
    digest = hashlib.sha256()
    for name, value in (await request.post()).items():
        data = value.file.read() if isinstance(value, web.FileField) else str(value).encode()
        if isinstance(value, web.FileField):
            value.file.seek(0)
        digest.update(name.encode() + b"\x00" + str(len(data)).encode() + b"\x00" + data)
    return digest.digest()


def parse_json(raw: bytes) -> Any:
    """Return the value of *raw*. Raises: Malformed (not strict JSON, or past a limit), Invalid (text that cannot be stored)."""
    try:
        text = raw.decode("utf-8")
        noughts = raw.translate(_NOUGHTS)
        finite = _finite if any(part in noughts for part in _MAYBE_INFINITE) else None
        tree = json.loads(
            text, parse_constant=_refuse_constant, parse_float=finite, object_pairs_hook=_unique
        )
    except RecursionError:
        raise _past_limits(f"nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as exc:
        raise Malformed(
            f"the body is not JSON: {exc.msg.lower()} at byte {exc.pos}", slug="malformed-json"
        ) from None
    except UnicodeDecodeError:
        raise Malformed("the body is not UTF-8", slug="malformed-json") from None
    except ValueError:  # Python refuses to read integers of more than 4,300 digits
        raise _past_limits("a number has too many digits") from None
    _check_tree(raw, noughts, tree)
    return tree


def validate_body(adapter: TypeAdapter[Any], raw: bytes) -> Any:
    """Return *raw* (already through `parse_json`) as the adapter's type. Raises: Invalid with a pointer per fault."""
    try:
        return adapter.validate_json(raw)
    except ValidationError as exc:
        raise invalid(exc, adapter) from None


def read_query(request: web.Request, adapter: TypeAdapter[Any], lists: frozenset[str]) -> Any:
    """Return the query string as the adapter's type; only names in *lists* may be given more than once. Raises: Invalid."""
    query = request.query
    if len(query) > MAX_PARAMETERS:
        raise Malformed(f"more than {MAX_PARAMETERS} parameters")
    values: dict[str, object] = {}
    for name in dict.fromkeys(query):
        given = query.getall(name)
        if any(_unstorable(text) for text in (name, *given)):
            raise _fault((name,), "must not hold NUL or half a surrogate pair")
        if len(given) > 1 and name not in lists:
            raise _fault((name,), "may be given once only")
        values[name] = given if name in lists else given[0]
    try:
        return adapter.validate_python(values)
    except ValidationError as exc:
        raise invalid(exc, adapter) from None


def read_path(text: str, kind: type) -> UUID | int | str:
    """Return a value out of the path as *kind*. What is not even of the right form does not exist. Raises: NotFound."""
    if kind is UUID:
        if not _UUID.fullmatch(text):
            raise NotFound("an id is a UUID")
        return UUID(text)
    if kind is int:
        if not _POSITIVE.fullmatch(text):
            raise NotFound("a number counts from 1")
        return int(text)
    if _unstorable(text):
        raise NotFound("no such name")
    return text


def invalid(exc: ValidationError, adapter: TypeAdapter[Any]) -> Invalid:
    """Return *exc*, raised by *adapter*, as our own error: a JSON pointer and a sentence per fault."""
    found = faults.of(exc, schema=adapter.json_schema)
    if len(found) == 1:
        return Invalid(_told(found[0]), faults=found)
    return Invalid(f"the request breaks {exc.error_count()} rules", faults=found)


def _told(fault: Fault) -> str:
    return f"{fault.pointer or 'the body'} {fault.message}"


def _fault(location: tuple[int | str, ...], message: str) -> Invalid:
    fault = Fault(faults.pointer(location), message)
    return Invalid(_told(fault), faults=(fault,))


def _past_limits(what: str) -> Malformed:
    return Malformed(f"the JSON passes a limit: {what}", slug="json-limits")


def _refuse_constant(name: str) -> float:
    raise Malformed(f"the body is not JSON: {name} is not a JSON value", slug="malformed-json")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Malformed("the body is not JSON: a number is too large to be one", slug="malformed-json")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise Malformed(
            f"the body is not JSON: the name {faults.shown(twice)} is given twice in one object",
            slug="malformed-json",
        )
    return found


def _check_tree(raw: bytes, noughts: bytes, tree: Any) -> None:
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _too_deep(raw):
        raise _past_limits(f"nested deeper than {MAX_DEPTH} levels")
    # Walking the tree in Python is slow, so it is walked only where the bytes leave room for a fault.
    if not (_SUSPECT_ESCAPE.search(raw) or _SUSPECT_NUMBER in noughts):
        return
    found: list[Fault] = []
    for location, value in _walk(tree):
        if isinstance(value, str) and _unstorable(value):
            found.append(Fault(faults.pointer(location), "must not hold NUL or half a surrogate pair"))
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            found.append(Fault(faults.pointer(location), "must fit into 64 bits"))
        elif isinstance(value, dict) and any(_unstorable(name) for name in value):
            found.append(
                Fault(faults.pointer(location), "must not have names with NUL or half a surrogate pair")
            )
    if found:
        raise Invalid("the request holds what cannot be stored", faults=tuple(found[: faults.MOST]))


def _too_deep(raw: bytes) -> bool:
    """Whether *raw*, known to be JSON, is nested deeper than the limit."""
    brackets = _STRING.sub(b"", raw).translate(_SQUARE, delete=_NOT_BRACKETS)
    for _ in range(MAX_DEPTH):  # each round takes the innermost level away
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    return True


def _walk(tree: Any) -> Iterator[tuple[tuple[int | str, ...], Any]]:
    """Yield every value below *tree* with its location, parents first."""
    waiting: list[tuple[tuple[int | str, ...], Any]] = [((), tree)]
    while waiting:
        location, value = waiting.pop()
        yield location, value
        if isinstance(value, dict):
            waiting.extend(
                ((*location, name), child) for name, child in value.items() if not _unstorable(name)
            )
        elif isinstance(value, list):
            waiting.extend(((*location, index), child) for index, child in enumerate(value))


def _unstorable(text: str) -> bool:
    if "\x00" in text:
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
