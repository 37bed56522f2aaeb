"""The contract of /api/v1/documents, /collections and /search."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientSession, FormData

from routes import keys
from routes.api import collections, documents, search
from routes.api import tasks as task_routes
from server.database import Database
from services import documents as service
from services.embeddings import Embedder
from services.errors import Unavailable
from tests import knowledge
from tests import web as served_web
from tests.knowledge import RememberingEmbedder
from tests.web import Served

Admin = Any
TEXT = "# Presses\n\nThe Albion is made of iron.\n\n## Care\n\nOil every bearing in the morning.\n"
FIELDS = {
    "id", "collection", "title", "mime", "language", "metadata", "state", "error", "task_id", "chunk_count", "characters", "created_by",
    "created_at", "updated_at", "indexed_at",
}  # fmt: skip


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    built = served_web.build(
        database, documents.routes, collections.routes, search.routes, task_routes.routes
    )
    built.app[keys.EMBEDDER] = RememberingEmbedder()
    async with served_web.running(built) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    async with served_web.client(served, await served_web.make_key(database, tenant, name="ci")) as session:
        yield session


async def call(api: ClientSession, method: str, path: str, *, expect: int, **options: Any) -> Any:
    """Return the decoded answer of a call, which must have the status *expect*."""
    async with api.request(method, path, **options) as response:
        text = await response.text()
        assert response.status == expect, text
        return json.loads(text) if text else None


async def send(api: ClientSession, expect: int = 202, **values: Any) -> Any:
    body = {"collection": "shop", "title": "Presses", "text": TEXT} | values
    return await call(api, "POST", "/api/v1/documents", json=body, expect=expect)


async def index(database: Database, admin: Admin, tenant: UUID, document: Any) -> None:
    async with database.tenant(tenant, "test") as db:
        found = await service.get(db, tenant, UUID(document["id"]))
    await knowledge.run_ingest(database, admin, tenant, found)


async def test_a_document_is_accepted_with_its_task(api: ClientSession, served: Served) -> None:
    body = {"collection": "shop", "title": "Presses", "text": TEXT, "metadata": {"year": 1820}}
    async with api.post("/api/v1/documents", json=body) as response:
        answer = await response.json()
        assert response.status == 202
        assert response.headers["Location"] == f"/api/v1/documents/{answer['document']['id']}"

    document = answer["document"]
    assert set(document) == FIELDS
    assert {name: document[name] for name in ("collection", "title", "mime", "language", "metadata", "state", "chunk_count", "created_by")} == {
        "collection": "shop", "title": "Presses", "mime": "text/markdown", "language": "english", "metadata": {"year": 1820}, "state": "pending",
        "chunk_count": 0, "created_by": "key:ci",
    }  # fmt: skip
    assert (answer["task"]["id"], answer["task"]["type"], answer["task"]["state"]) == (
        document["task_id"], "ingest_document", "queued",
    )  # fmt: skip
    assert served.woken == ["documents"]
    assert await call(api, "GET", f"/api/v1/documents/{document['id']}", expect=200) == document


async def test_a_file_is_taken_like_a_text(api: ClientSession) -> None:
    form = FormData(quote_fields=False)
    form.add_field("collection", "shop")
    form.add_field("metadata", '{"year": 1820}')
    form.add_field("file", b"\xef\xbb\xbf<h1>Iron</h1><p>Presses.</p>", filename="iron presses.HTML")

    document = (await call(api, "POST", "/api/v1/documents", data=form, expect=202))["document"]

    assert (document["title"], document["mime"], document["metadata"], document["characters"]) == (
        "iron presses", "text/html", {"year": 1820}, 28,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "status", "pointer"),
    [
        ({"collection": "shop"}, 422, "/file"),
        ({"file": b"text"}, 422, "/collection"),
        ({"collection": "shop", "file": b"\xff\xfe"}, 422, "/file"),
        ({"collection": "shop", "file": b"a\x00b"}, 422, "/text"),
        ({"collection": "shop", "file": b"text", "colour": "red"}, 422, "/colour"),
        ({"collection": b"shop", "file": b"text"}, 422, "/collection"),
        ({"collection": "shop", "file": b"text", "metadata": "{"}, 400, None),
        ({"collection": "shop", "file": b"text", "metadata": "[1]"}, 422, "/metadata"),
    ],
)
async def test_a_bad_form_is_refused_with_the_place(
    api: ClientSession, fields: dict[str, Any], status: int, pointer: str | None
) -> None:
    form = FormData(default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(name, value, filename="f.txt" if isinstance(value, bytes) else None)

    problem = await call(api, "POST", "/api/v1/documents", data=form, expect=status)

    assert [fault["pointer"] for fault in problem.get("errors", [])] == ([pointer] if pointer else [])


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"collection": "Not a name"}, "/collection"),
        ({"title": ""}, "/title"),
        ({"title": "x" * 301}, "/title"),
        ({"text": ""}, "/text"),
        ({"text": "a\x00b"}, "/text"),
        ({"mime": "application/pdf"}, "/mime"),
        ({"language": "klingon"}, "/language"),
        ({"metadata": []}, "/metadata"),
        ({"metadata": {"a\x00": 1}}, ""),
        ({"colour": "red"}, "/colour"),
        ({"title": None}, "/title"),
        ({"title": 7}, "/title"),
    ],
)
async def test_a_bad_document_is_refused_with_the_place(
    api: ClientSession, change: dict[str, Any], pointer: str
) -> None:
    problem = await send(api, expect=422, **change)

    assert problem["type"].endswith("/problems/validation")
    assert [fault["pointer"] for fault in problem["errors"]] in ([pointer], ["/metadata"])


async def test_a_text_beyond_the_limit_is_too_large(api: ClientSession) -> None:
    await send(api, expect=413, text="x" * 500_001)
    body = io.BytesIO(b'{"collection": "shop", "title": "x", "text": "' + b"x" * 9_000_000 + b'"}')
    headers = {"Content-Type": "application/json"}
    await call(api, "POST", "/api/v1/documents", data=body, headers=headers, expect=413)


async def test_the_same_text_again_gives_the_same_document_and_no_work(
    api: ClientSession, served: Served
) -> None:
    first = await send(api)

    again = await send(api)

    assert again == first
    assert served.woken == ["documents"]


async def test_a_repeated_key_gives_the_first_answer(api: ClientSession) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"collection": "shop", "title": "Presses", "text": TEXT}
    first = await call(api, "POST", "/api/v1/documents", json=body, headers=headers, expect=202)

    again = await call(api, "POST", "/api/v1/documents", json=body, headers=headers, expect=202)
    await call(api, "POST", "/api/v1/documents", json=body | {"title": "Other"}, headers=headers, expect=422)

    assert again == first


async def test_chunks_come_in_order_page_by_page(
    api: ClientSession, database: Database, admin: Admin, tenant: UUID
) -> None:
    document = (await send(api))["document"]
    await index(database, admin, tenant, document)
    path = f"/api/v1/documents/{document['id']}/chunks"

    first = await call(api, "GET", f"{path}?limit=1", expect=200)
    second = await call(api, "GET", f"{path}?limit=1&cursor={first['next_cursor']}", expect=200)

    shown = first["items"] + second["items"]
    assert [(one["ordinal"], one["headings"], one["text"]) for one in shown] == [
        (0, [], "The Albion is made of iron."),
        (1, ["Care"], "Oil every bearing in the morning."),
    ]
    assert second["next_cursor"] is None


async def test_documents_are_listed_newest_first_and_filtered(
    api: ClientSession, database: Database, admin: Admin, tenant: UUID
) -> None:
    made = [
        (await send(api, text=f"Text {n}.", title=f"T{n}", collection="ab"[n % 2]))["document"]
        for n in range(3)
    ]
    await index(database, admin, tenant, made[0])

    first = await call(api, "GET", "/api/v1/documents?limit=2", expect=200)
    second = await call(api, "GET", f"/api/v1/documents?limit=2&cursor={first['next_cursor']}", expect=200)
    in_b = await call(api, "GET", "/api/v1/documents?collection=b", expect=200)
    indexed = await call(api, "GET", "/api/v1/documents?state=indexed", expect=200)
    await call(api, "GET", "/api/v1/documents?state=odd", expect=422)
    await call(api, "GET", "/api/v1/documents?cursor=AAAA", expect=400)

    assert [one["title"] for one in first["items"] + second["items"]] == ["T2", "T1", "T0"]
    assert [one["title"] for one in in_b["items"]] == ["T1"]
    assert [one["title"] for one in indexed["items"]] == ["T0"]


async def test_collections_tell_what_they_hold(
    api: ClientSession, database: Database, admin: Admin, tenant: UUID
) -> None:
    await index(database, admin, tenant, (await send(api))["document"])

    (shelf,) = (await call(api, "GET", "/api/v1/collections", expect=200))["items"]

    assert (shelf["name"], shelf["documents"], shelf["chunks"], shelf["model"]) == (
        "shop", 1, 2, "all-MiniLM-L6-v2",
    )  # fmt: skip


async def test_a_document_can_be_indexed_again(
    api: ClientSession, database: Database, admin: Admin, tenant: UUID, served: Served
) -> None:
    document = (await send(api))["document"]
    await index(database, admin, tenant, document)

    answer = await call(api, "POST", f"/api/v1/documents/{document['id']}/reindex", expect=202)

    assert answer["document"]["state"] == "pending"
    assert answer["task"]["id"] != document["task_id"]
    assert served.woken == ["documents", "documents"]


async def test_a_deleted_document_is_gone_and_its_run_is_stopped(api: ClientSession, served: Served) -> None:
    document = (await send(api))["document"]

    await call(api, "DELETE", f"/api/v1/documents/{document['id']}", expect=204)

    await call(api, "GET", f"/api/v1/documents/{document['id']}", expect=404)
    await call(api, "DELETE", f"/api/v1/documents/{document['id']}", expect=404)
    task = await call(api, "GET", f"/api/v1/tasks/{document['task_id']}", expect=200)
    assert (task["state"], task["reason"]) == ("cancelled", "its document was deleted")
    assert [str(one.task_id) for one in served.cancelled] == [document["task_id"]]


async def test_what_belongs_to_another_tenant_does_not_exist(
    api: ClientSession, served: Served, database: Database, other_tenant: UUID
) -> None:
    key = await served_web.make_key(database, other_tenant)
    async with served_web.client(served, key) as theirs:
        document = (await send(theirs))["document"]

    for method, tail in (("GET", ""), ("GET", "/chunks"), ("POST", "/reindex"), ("DELETE", "")):
        for wrong in (document["id"], uuid4()):
            await call(api, method, f"/api/v1/documents/{wrong}{tail}", expect=404)
    assert (await call(api, "GET", "/api/v1/documents", expect=200))["items"] == []
    assert (await call(api, "GET", "/api/v1/collections", expect=200))["items"] == []


async def test_roles_are_held(served: Served, database: Database, tenant: UUID) -> None:
    async with served_web.client(served) as nobody:
        await send(nobody, expect=401)
        await call(nobody, "POST", "/api/v1/search", json={"query": "x"}, expect=401)
    viewer = await served_web.make_key(database, tenant, role="viewer", name="viewer")
    async with served_web.client(served, viewer) as session:
        await send(session, expect=403)
        await call(session, "DELETE", f"/api/v1/documents/{uuid4()}", expect=403)
        await call(session, "POST", "/api/v1/search", json={"query": "x"}, expect=200)


async def test_search_finds_and_tells_why(
    api: ClientSession, database: Database, admin: Admin, tenant: UUID
) -> None:
    document = (await send(api, metadata={"year": 1820}))["document"]
    await index(database, admin, tenant, document)

    answer = await call(
        api, "POST", "/api/v1/search", json={"query": "what is the Albion made of?", "k": 1}, expect=200
    )

    (hit,) = answer["hits"]
    assert (answer["mode"], answer["degraded"]) == ("hybrid", None)
    assert set(hit) == {
        "chunk_id", "document_id", "document_title", "collection", "heading", "ordinal", "text", "metadata", "score", "reasons",
    }  # fmt: skip
    assert (hit["document_id"], hit["text"], hit["metadata"], hit["collection"]) == (
        document["id"], "The Albion is made of iron.", {"year": 1820}, "shop",
    )  # fmt: skip
    assert hit["reasons"]["vector"]["rank"] == 1
    assert hit["reasons"]["keyword"]["terms"] == ["albion", "made"]


async def test_search_narrows_by_collection_and_metadata(
    api: ClientSession, database: Database, admin: Admin, tenant: UUID
) -> None:
    for collection, year in (("a", 1), ("b", 2)):
        document = (await send(api, collection=collection, metadata={"year": year}))["document"]
        await index(database, admin, tenant, document)

    async def found(**more: Any) -> set[str]:
        body = {"query": "albion", "mode": "keyword"} | more
        answer = await call(api, "POST", "/api/v1/search", json=body, expect=200)
        return {hit["collection"] for hit in answer["hits"]}

    assert await found() == {"a", "b"}
    assert await found(collections=["a"]) == {"a"}
    assert await found(filters={"year": 2}) == {"b"}
    assert await found(collections=["a"], filters={"year": 2}) == set()


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"query": ""}, "/query"),
        ({"query": "  "}, "/query"),
        ({"query": "x" * 1001}, "/query"),
        ({"query": "a\x00b"}, "/query"),
        ({"k": 0}, "/k"),
        ({"k": 51}, "/k"),
        ({"k": True}, "/k"),
        ({"mode": "magic"}, "/mode"),
        ({"collections": []}, "/collections"),
        ({"collections": ["nowhere"]}, "/collections/0"),
        ({"filters": []}, "/filters"),
        ({"order": "id;--"}, "/order"),
    ],
)
async def test_a_bad_question_is_refused_with_the_place(
    api: ClientSession, change: dict[str, Any], pointer: str
) -> None:
    problem = await call(api, "POST", "/api/v1/search", json={"query": "ink"} | change, expect=422)

    assert [fault["pointer"] for fault in problem["errors"]] == [pointer]


@pytest.mark.parametrize("query", ["a & | (", "'\"((&|!<->:*\\", "the", "%_\\", '-x OR "y'])
async def test_marks_in_a_question_are_harmless(api: ClientSession, query: str) -> None:
    assert await call(api, "POST", "/api/v1/search", json={"query": query}, expect=200) == {
        "hits": [], "mode": "hybrid", "degraded": None,
    }  # fmt: skip


async def test_without_a_model_search_goes_by_words_and_says_so(
    api: ClientSession, served: Served, database: Database, admin: Admin, tenant: UUID
) -> None:
    class Missing(Embedder):
        async def embed(self, texts: Any) -> list[list[float]]:
            raise Unavailable("embeddings need the optional package 'onnxruntime'")

    await index(database, admin, tenant, (await send(api))["document"])
    embedder = served.app[keys.EMBEDDER]
    embedder.embed = Missing().embed  # type: ignore[method-assign]

    answer = await call(api, "POST", "/api/v1/search", json={"query": "albion"}, expect=200)
    await call(api, "POST", "/api/v1/search", json={"query": "albion", "mode": "vector"}, expect=503)

    assert [hit["text"] for hit in answer["hits"]] == ["The Albion is made of iron."]
    assert "onnxruntime" in answer["degraded"]
