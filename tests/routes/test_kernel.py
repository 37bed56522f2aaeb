"""The kernel refuses whatever is not strictly what was asked for, says where, and never fails with a 5xx (PROMISES S-IN)."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientSession, web
from pydantic import Field

from routes.api.kernel import (
    Answer,
    Body,
    Call,
    Instant,
    Int,
    JSONObject,
    Page,
    PageQuery,
    Text,
    View,
    operation,
)  # fmt: skip
from server.database import Database
from tests import web as served_web

routes = web.RouteTableDef()
JSON = {"Content-Type": "application/json"}


@dataclass
class Row:
    id: UUID
    name: str
    hidden: str = "never shown"


class Thing(View):
    id: UUID
    name: str


class NewThing(Body):
    name: Text = Field(default="a", max_length=8000)
    count: Int = Field(default=1, ge=0, le=9)
    at: Instant | None = None
    link: UUID | None = None
    ratio: float = 0.5
    flag: bool = False
    extra: JSONObject = Field(default_factory=dict)


class Wanted(PageQuery):
    state: Literal["good", "bad"] | None = None
    tags: list[str] = Field(default_factory=list)


@operation(
    routes,
    "POST",
    "/api/v1/things",
    name="things.create",
    summary="Make",
    role="author",
    answer=Thing,
    status=201,
)
async def create(call: Call, body: NewThing) -> Answer:
    row = Row(body.link or uuid4(), body.name)
    return Answer(row, location=call.url("things.get", thing_id=row.id), etag="one")


@operation(
    routes, "GET", "/api/v1/things", name="things.list", summary="List", role="viewer", answer=Page[Thing]
)
async def list_things(call: Call, query: Wanted) -> JSONObject:
    after = call.after(query)
    first = int(UUID(str(after[0]))) + 1 if after else 0
    rows = [Row(UUID(int=number), str(number)) for number in range(first, 5)][: query.limit + 1]
    return call.page(rows, query, lambda row: (row.id,))


@operation(
    routes,
    "GET",
    "/api/v1/other-things",
    name="other.list",
    summary="List",
    role="viewer",
    answer=Page[Thing],
)
async def list_others(call: Call, query: Wanted) -> JSONObject:
    call.after(query)
    return {"items": [], "next_cursor": None}


@operation(
    routes, "GET", "/api/v1/things/{thing_id}", name="things.get", summary="Get", role="viewer", answer=Thing
)
async def get(call: Call, thing_id: UUID) -> Answer:
    return Answer(Row(thing_id, "x"), etag="one")


@operation(
    routes,
    "PUT",
    "/api/v1/things/{thing_id}",
    name="things.edit",
    summary="Edit",
    role="author",
    answer=Thing,
    if_match=True,
)
async def edit(call: Call, thing_id: UUID, body: NewThing) -> Row:
    call.require_match("one")
    return Row(thing_id, body.name)


@operation(
    routes,
    "GET",
    "/api/v1/things/{thing_id}/versions/{number}",
    name="things.version",
    summary="Get",
    role="viewer",
    answer=Thing,
)
async def version(call: Call, thing_id: UUID, number: int) -> Row:
    return Row(thing_id, str(number))


@operation(
    routes,
    "POST",
    "/api/v1/things/{thing_id}/poke",
    name="things.poke",
    summary="Poke",
    role="author",
    status=202,
)
async def poke(call: Call, thing_id: UUID, body: NewThing | None) -> None:
    return None


@pytest.fixture
async def api(database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    key = await served_web.make_key(database, tenant)
    async with (
        served_web.running(served_web.build(database, routes)) as served,
        served_web.client(served, key) as session,
    ):
        yield session


async def problem(response: object) -> tuple[int, str, list[str]]:
    """Return (status, slug, pointers) of a problem, having checked its shape."""
    assert response.content_type == "application/problem+json"
    body = await response.json()
    assert body["status"] == response.status
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert set(body) <= {"type", "title", "status", "detail", "request_id", "errors"}
    assert all(set(entry) == {"pointer", "message"} for entry in body.get("errors", []))
    return (
        response.status,
        body["type"].removeprefix("/problems/"),
        [entry["pointer"] for entry in body.get("errors", [])],
    )


DEEP = b'{"extra":' + b'{"a":' * 31 + b"1" + b"}" * 32
TOO_DEEP = b'{"extra":' + b'{"a":' * 32 + b"1" + b"}" * 33
REFUSED_BODIES = [
    ("1 cut off", b"{", 400, "malformed-json", []),
    ("1 empty", b"", 400, "malformed-json", []),
    ("2 not UTF-8", b'{"name":"\xff"}', 400, "malformed-json", []),
    ("2 overlong", b'{"name":"\xc0\xaf"}', 400, "malformed-json", []),
    ("2 UTF-8 surrogate", b'{"name":"\xed\xa0\x80"}', 400, "malformed-json", []),
    ("3 arrays", b"[" * 100_000, 400, "json-limits", []),
    ("3 objects", b'{"a":' * 100_000, 400, "json-limits", []),
    ("3 one level too deep", TOO_DEEP, 400, "json-limits", []),
    ("4 digits", b'{"count":' + b"9" * 5000 + b"}", 400, "json-limits", []),
    ("5 NaN", b'{"ratio":NaN}', 400, "malformed-json", []),
    ("5 Infinity", b'{"ratio":Infinity}', 400, "malformed-json", []),
    ("5 -Infinity", b'{"ratio":-Infinity}', 400, "malformed-json", []),
    ("5 1e400", b'{"ratio":1e400}', 400, "malformed-json", []),
    ("5 many digits with exponent", b'{"ratio":' + b"9" * 299 + b"e99}", 400, "malformed-json", []),
    ("6 lone surrogate", b'{"name":"\\ud800"}', 422, "validation", ["/name"]),
    ("6 lone surrogate in a name", b'{"extra":{"\\udfff":1}}', 422, "validation", ["/extra"]),
    ("6 lone surrogate deep inside", b'{"extra":{"a":[0,"x\\ud800y"]}}', 422, "validation", ["/extra/a/1"]),
    ("11 NUL", b'{"name":"a\\u0000b"}', 422, "validation", ["/name"]),
    ("11 NUL in a name", b'{"extra":{"a/b":{"\\u0000":1}}}', 422, "validation", ["/extra/a~1b"]),
    ("11 raw NUL", b'{"name":"a\x00b"}', 400, "malformed-json", []),
    ("12 given twice", b'{"name":"a","name":"b"}', 400, "malformed-json", []),
    ("12 given twice inside", b'{"extra":{"a":1,"a":1}}', 400, "malformed-json", []),
    ("13 true for a number", b'{"count":true}', 422, "validation", ["/count"]),
    ("13 text for a number", b'{"count":"1"}', 422, "validation", ["/count"]),
    ("13 number for text", b'{"name":1}', 422, "validation", ["/name"]),
    ("13 number for a flag", b'{"flag":1}', 422, "validation", ["/flag"]),
    ("13 fraction", b'{"count":1.5}', 422, "validation", ["/count"]),
    ("14 2^63", b'{"count":9223372036854775808}', 422, "validation", ["/count"]),
    ("14 2^63 in free JSON", b'{"extra":{"n":9223372036854775808}}', 422, "validation", ["/extra/n"]),
    ("14 2^31", b'{"count":2147483648}', 422, "validation", ["/count"]),
    ("14 -1", b'{"count":-1}', 422, "validation", ["/count"]),
    ("15 year", b'{"at":"99999999-01-01T00:00:00Z"}', 422, "validation", ["/at"]),
    ("15 zero", b'{"at":"0000-00-00T00:00:00Z"}', 422, "validation", ["/at"]),
    ("15 zone", b'{"at":"2026-01-01T00:00:00+99:99"}', 422, "validation", ["/at"]),
    ("15 no zone", b'{"at":"2026-01-01T00:00:00"}', 422, "validation", ["/at"]),
    ("15 a number", b'{"at":0}', 422, "validation", ["/at"]),
    ("15 a number as text", b'{"at":"1700000000"}', 422, "validation", ["/at"]),
    ("15 day", b'{"at":"2026-02-30T00:00:00Z"}', 422, "validation", ["/at"]),
    ("15 before year 1 of UTC", b'{"at":"0001-01-01T00:00:00+14:00"}', 422, "validation", ["/at"]),
    ("15 after year 9999 of UTC", b'{"at":"9999-12-31T23:59:59-00:01"}', 422, "validation", ["/at"]),
    ("16 BOM", b"\xef\xbb\xbf{}", 400, "malformed-json", []),
    ("16 UTF-16", '{"name":"a"}'.encode("utf-16"), 400, "malformed-json", []),
    ("21 array", b"[]", 422, "validation", [""]),
    ("21 null", b"null", 422, "validation", [""]),
    ("21 text", b'"a"', 422, "validation", [""]),
    ("22 too long", b'{"name":"' + b"q" * 9000 + b'"}', 422, "validation", ["/name"]),
    ("67 unknown fields", b'{"tenant_id":1,"state":"x"}', 422, "validation", ["/tenant_id", "/state"]),
    ("an id that is none", b'{"link":"123"}', 422, "validation", ["/link"]),
]  # fmt: skip


async def test_a_bad_body_is_refused_with_its_place(api: ClientSession) -> None:
    wrong = []
    for name, body, *expected in REFUSED_BODIES:
        async with api.post("/api/v1/things", data=body, headers=JSON) as response:
            found = await problem(response)
            text = await response.text()
        if found != tuple(expected) or "pydantic" in text or "Traceback" in text:
            wrong.append((name, found, text))
        async with api.post("/api/v1/things", data=b"{}", headers=JSON) as response:
            assert response.status == 201, f"after {name}"

    assert wrong == []


ACCEPTED_BODIES = [
    ("a whole number written as one", b'{"count":5.0}'),
    ("a whole number in a fraction's place", b'{"ratio":1}'),
    ("a pair of surrogates", b'{"name":"\\ud83d\\ude00"}'),
    ("exactly as deep as allowed", DEEP),
    ("brackets inside text are no depth", json.dumps({"name": "[{" * 100}).encode()),
    ("a long but finite number", b'{"ratio":' + b"1" * 300 + b".5}"),
    ("digits inside text are no number", json.dumps({"name": "9" * 5000}).encode()),
    ("the largest number", b'{"extra":{"n":9223372036854775807}}'),
    ("a time with an offset", b'{"at":"2026-01-01t10:00:00.123456+05:30"}'),
    ("the last time of all", b'{"at":"9999-12-31T23:59:59Z"}'),
    ("white space around it", b' \n{"name":"a"}\r\n\t'),
]


async def test_an_unusual_but_right_body_is_accepted(api: ClientSession) -> None:
    for name, body in ACCEPTED_BODIES:
        async with api.post("/api/v1/things", data=body, headers=JSON) as response:
            assert response.status == 201, (name, await response.text())


async def test_only_json_in_utf8_is_read(api: ClientSession) -> None:
    for content_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=bogus",
        "application/json; charset=utf-7",
        "application/json; charset=utf-16",
        "multipart/form-data; boundary=x",
        "application/problem+json",
    ):
        async with api.post("/api/v1/things", data=b"{}", headers={"Content-Type": content_type}) as response:
            assert await problem(response) == (415, "unsupported-media-type", []), content_type


async def test_a_body_without_a_content_type_is_refused(api: ClientSession) -> None:
    async with api.post("/api/v1/things", data=b"{}", skip_auto_headers=["Content-Type"]) as response:
        assert (await problem(response))[0] == 415


async def test_a_body_one_byte_too_long_is_refused_and_the_connection_closed(api: ClientSession) -> None:
    body = b'{"name":"a"}'.ljust(1024 * 1024)
    async with api.post("/api/v1/things", data=body, headers=JSON) as response:
        assert response.status == 201
    async with api.post("/api/v1/things", data=io.BytesIO(body + b" "), headers=JSON) as response:
        assert await problem(response) == (413, "body-too-large", [])
        assert response.headers["Connection"] == "close"


async def test_a_chunked_body_without_length_is_cut_at_the_limit(api: ClientSession) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    async with api.post("/api/v1/things", data=endless(), headers=JSON) as response:
        assert await problem(response) == (413, "body-too-large", [])


async def test_a_small_body_that_inflates_is_cut_at_the_limit(api: ClientSession) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    async with api.post("/api/v1/things", data=bomb, headers=JSON | {"Content-Encoding": "gzip"}) as response:
        assert await problem(response) == (413, "body-too-large", [])


async def test_an_honestly_compressed_body_is_read(api: ClientSession) -> None:
    packed = gzip.compress(b'{"name":"packed"}')
    async with api.post(
        "/api/v1/things", data=packed, headers=JSON | {"Content-Encoding": "gzip"}
    ) as response:
        assert (await response.json())["name"] == "packed"


async def test_an_unknown_encoding_is_refused(api: ClientSession) -> None:
    async with api.post(
        "/api/v1/things", data=b"{}", headers=JSON | {"Content-Encoding": "snappy"}
    ) as response:
        assert (await problem(response))[0] == 415


REFUSED_QUERIES = [
    ("limit=0", "/limit"), ("limit=201", "/limit"), ("limit=1000000", "/limit"), ("limit=-1", "/limit"),
    ("limit=9223372036854775808", "/limit"), ("limit=5.0", "/limit"), ("limit=1_0", "/limit"), ("limit=%20 5", "/limit"),
    ("limit=%D9%A1", "/limit"), ("limit=1&limit=2", "/limit"), ("offset=1000000000000", "/offset"), ("limit=", "/limit"),
    ("sort=(select pg_sleep(5))", "/sort"), ("state=%00", "/state"), ("state=elsewhere", "/state"), ("state=%ff", "/state"),
]  # fmt: skip


async def test_a_bad_query_is_refused_with_its_place(api: ClientSession) -> None:
    for query, pointer in REFUSED_QUERIES:
        async with api.get(f"/api/v1/things?{query}") as response:
            assert await problem(response) == (422, "validation", [pointer]), query


async def test_more_than_two_hundred_parameters_are_refused(api: ClientSession) -> None:
    async with api.get("/api/v1/things?" + "&".join(f"tags={n}" for n in range(201))) as response:
        assert (await problem(response))[0] == 400
    async with api.get("/api/v1/things?" + "&".join(f"tags={n}" for n in range(200))) as response:
        assert response.status == 200


async def test_an_id_of_another_form_is_not_found(api: ClientSession) -> None:
    for value in (
        "1" * 5000,
        "%D9%A1",
        "no-id",
        "00000000-0000-0000-0000-00000000000g",
        "{}",
        "..%2f..%2fetc",
        "%00",
    ):
        async with api.get(f"/api/v1/things/{value}") as response:
            assert await problem(response) == (404, "not-found", []), value


async def test_a_number_in_the_path_counts_from_one(api: ClientSession) -> None:
    for number in ("0", "-1", "01", "%D9%A1", "1e3", "9999999999", "1.0"):
        async with api.get(f"/api/v1/things/{uuid4()}/versions/{number}") as response:
            assert (await problem(response))[0] == 404, number


async def test_an_answer_shows_only_what_its_model_names(api: ClientSession) -> None:
    thing_id = uuid4()

    async with api.get(f"/api/v1/things/{thing_id}") as response:
        assert await response.json() == {"id": str(thing_id), "name": "x"}
        assert response.headers["ETag"] == '"one"'
    async with api.get(f"/api/v1/things/{thing_id}", headers={"If-None-Match": '"one"'}) as response:
        assert response.status == 304


async def test_what_was_created_says_where_it_is(api: ClientSession) -> None:
    async with api.post("/api/v1/things", json={}) as response:
        assert response.headers["Location"] == f"/api/v1/things/{(await response.json())['id']}"


async def test_a_body_may_be_left_out_where_it_is_optional(api: ClientSession) -> None:
    async with api.post(f"/api/v1/things/{uuid4()}/poke") as response:
        assert (response.status, await response.read()) == (202, b"")
    async with api.post(f"/api/v1/things/{uuid4()}/poke", json={"count": 3}) as response:
        assert response.status == 202
    async with api.post(f"/api/v1/things/{uuid4()}/poke", data=b"null", headers=JSON) as response:
        assert (await problem(response))[0] == 422
    async with api.post(f"/api/v1/things/{uuid4()}/poke", data=b"{}") as response:
        assert (await problem(response))[0] == 415


async def test_an_edit_names_the_version_it_means(api: ClientSession) -> None:
    path = f"/api/v1/things/{uuid4()}"
    async with api.put(path, json={}) as response:
        assert await problem(response) == (428, "precondition-required", [])
    async with api.put(path, json={}, headers={"If-Match": '"two"'}) as response:
        assert await problem(response) == (412, "precondition-failed", [])
    async with api.put(path, json={}, headers={"If-Match": 'W/"one"'}) as response:
        assert (await problem(response))[0] == 412
    async with api.put(path, json={}, headers={"If-Match": '"two", "one"'}) as response:
        assert response.status == 200
    async with api.put(path, json={}, headers={"If-Match": "*"}) as response:
        assert response.status == 200


async def test_pages_follow_each_other_without_gap_or_repeat(api: ClientSession) -> None:
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        async with api.get(
            "/api/v1/things", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        ) as response:
            body = await response.json()
        seen += [item["name"] for item in body["items"]]
        cursor = body["next_cursor"]

    assert seen == ["0", "1", "2", "3", "4"]


async def test_a_cursor_works_only_unchanged_in_its_own_list_and_tenant(
    api: ClientSession, database: Database, other_tenant: UUID
) -> None:
    async with api.get("/api/v1/things?limit=2") as response:
        cursor = (await response.json())["next_cursor"]
    other_key = await served_web.make_key(database, other_tenant)
    other = {"Authorization": f"Bearer {other_key}"}

    changed = ("A" if cursor[0] != "A" else "B") + cursor[1:]
    attempts = [
        ("/api/v1/things", changed, {}), ("/api/v1/things", cursor[:-4], {}), ("/api/v1/things", "x", {}), ("/api/v1/things", "é", {}),
        ("/api/v1/things", "", {}), ("/api/v1/other-things", cursor, {}), ("/api/v1/things", cursor, other),
    ]  # fmt: skip
    for path, text, headers in attempts:
        async with api.get(path, params={"cursor": text}, headers=headers) as response:
            assert await problem(response) == (400, "invalid-cursor", [])


async def test_a_slow_body_is_given_up(api: ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routes.api.reading.BODY_SECONDS", 0.2)

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    async with api.post("/api/v1/things", data=slow(), headers=JSON) as response:
        assert await problem(response) == (408, "request-timeout", [])
