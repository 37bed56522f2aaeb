"""Whatever bytes arrive, the reader returns what they say or refuses them; it never fails (PROMISES S-IN 20)."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any, Literal
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from routes.api import cursors, reading
from services.errors import GalleyError, Invalid, Malformed
from services.idempotency import parse_key

storable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | storable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(storable, inner, max_size=4),
    max_leaves=20,
)
pieces = st.sampled_from(
    [
        b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"\\u0000", b"\\ud800", b"\\udc00", b"1", b"9" * 20, b"9" * 4301, b"e999", b"-", b".5",
        b"NaN", b"Infinity", b"true", b"null", b"\x00", b"\xff", b"\xef\xbb\xbf", b" ", b'"a"', b'"a":', b"[" * 40, b"]" * 40,
    ]
)  # fmt: skip


@given(values)
def test_what_is_json_is_read_as_it_was_meant(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert reading.parse_json(text.encode()) == value


@given(st.binary(max_size=60) | st.lists(pieces, max_size=12).map(b"".join))
def test_anything_else_is_refused_and_what_is_read_can_be_stored(raw: bytes) -> None:
    with contextlib.suppress(GalleyError):
        stored = orjson.dumps(reading.parse_json(raw))
        assert orjson.loads(stored) == reading.parse_json(raw)


@given(st.integers(-2, 2), st.lists(st.booleans(), min_size=40, max_size=40))
def test_depth_is_counted_exactly(more: int, lists: list[bool]) -> None:
    """Whatever the brackets are, and however many stand side by side."""
    depth = reading.MAX_DEPTH + more
    text = '"[[[["'
    for level, is_list in zip(range(depth, 0, -1), lists, strict=False):
        beside = [] if level == depth else ["{}", "[]"]
        inside = [text, *beside]
        named = [f'"{place}":{value}' for place, value in enumerate(inside)]
        text = "[" + ",".join(inside) + "]" if is_list else "{" + ",".join(named) + "}"
    if more <= 0:
        reading.parse_json(text.encode())
    else:
        with pytest.raises(Malformed, match="nested deeper"):
            reading.parse_json(text.encode())


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    colour: int


class _Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(max_length=5, pattern=r"^[a-z]+$")
    priority: int = Field(ge=0, le=9)
    tags: list[str] = Field(max_length=2)
    kind: Literal["a", "b"] = "a"
    inner: _Inner | None = None
    inners: list[_Inner] = Field(default_factory=list)
    open: dict[str, int] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("changes", "pointer", "message"),
    [
        ({"priority": 10}, "/priority", "should be less than or equal to 9, not 10"),
        ({"priority": 1.5}, "/priority", "should be a valid integer, not 1.5"),
        ({"priority": True}, "/priority", "should be a valid integer, not true"),
        ({"priority": None}, "/priority", "should be a valid integer, not null"),
        ({"priority": {"a": 1}}, "/priority", "should be a valid integer, not an object"),
        ({"name": ["x"]}, "/name", "should be a valid string, not a list"),
        ({"name": "A b"}, "/name", 'has a form that is not accepted: "A b" does not match ^[a-z]+$'),
        ({"name": "abcdef"}, "/name", "should have at most 5 characters, not 6"),
        ({"tags": ["a", "b", "c"]}, "/tags", "should have at most 2 items, not 3"),
        ({"tags": ["a", 7]}, "/tags/1", "should be a valid string, not 7"),
        ({"kind": "c" * 80}, "/kind", "should be 'a' or 'b', not \"" + "c" * 58 + "…"),
        ({"a/b~c": 1}, "/a~1b~0c", "is not known here"),
        ({"priorty": 1}, "/priorty", "is not known here; did you mean priority?"),
        ({"inner": {"shape": "x", "colour": 1}}, "/inner/shape", "is not known here"),
        ({"inner": {"color": 1, "colour": 1}}, "/inner/color", "is not known here; did you mean colour?"),
        (
            {"inners": [{"colour": 1}, {"colors": 1, "colour": 1}]},
            "/inners/1/colors",
            "is not known here; did you mean colour?",
        ),
        ({"open": {"a": 1}, "x" * 70: 1}, "/" + "x" * 70, "is not known here"),
    ],
)
def test_a_fault_says_where_it_is_and_what_was_given(
    changes: dict[str, Any], pointer: str, message: str
) -> None:
    sent = {"name": "abc", "priority": 2, "tags": []} | changes

    with pytest.raises(Invalid) as raised:
        reading.validate_body(TypeAdapter(_Wanted), json.dumps(sent).encode())

    assert [(fault.pointer, fault.message) for fault in raised.value.faults] == [(pointer, message)]
    assert str(raised.value) == f"{pointer} {message}"


def test_a_name_is_refused_also_where_no_schema_describes_what_was_expected() -> None:
    class Odd(BaseModel):
        model_config = ConfigDict(extra="forbid")

        call: Callable[[], int] | None = None

    with pytest.raises(Invalid, match=r"^/cal is not known here$"):
        reading.validate_body(TypeAdapter(Odd), b'{"cal": 1}')


def test_several_faults_are_counted_and_a_name_given_twice_is_named() -> None:
    with pytest.raises(Invalid, match=r"^the request breaks 3 rules$"):
        reading.validate_body(TypeAdapter(_Wanted), b"{}")
    with pytest.raises(Malformed, match='the name "b" is given twice in one object'):
        reading.parse_json(b'{"a": 1, "b": 1, "c": {"b": 3}, "b": 2}')


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
def test_a_made_up_cursor_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        cursors.decode(b"k" * 32, UUID(int=1), "tasks.list", text)


@given(st.lists(storable | st.integers(-(2**53), 2**53), max_size=4))
def test_a_cursor_gives_back_what_was_put_in(parts: list[Any]) -> None:
    cursor = cursors.encode(b"k" * 32, UUID(int=1), "tasks.list", tuple(parts))

    assert cursors.decode(b"k" * 32, UUID(int=1), "tasks.list", cursor) == parts
    assert cursor.isascii()
    assert "=" not in cursor


@given(st.text(max_size=300))
def test_a_key_is_printable_ascii_or_refused(header: str) -> None:
    with contextlib.suppress(Malformed):
        key = parse_key(header)
        assert 1 <= len(key) <= 255
        assert all(" " <= character <= "~" for character in key)


@given(st.floats(allow_nan=False))
def test_numbers_stay_finite(number: float) -> None:
    raw = repr(number).replace("inf", "1e999").encode()

    with contextlib.suppress(Malformed):
        assert math.isfinite(reading.parse_json(raw))
