"""Documents from the moment they are handed in until nothing of them is left."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from server.database import Database
from services import chunking, collections, documents, tasks
from services.documents import NewDocument
from services.embeddings import NO_MODEL
from services.errors import Conflict, Invalid, NotFound, StaleAttempt, TooLarge, Unavailable
from services.task_types import Permanent, ingest_document
from tests import knowledge
from tests.knowledge import ACTOR, RememberingEmbedder, take_in

Admin = Any
TEXT = "# Presses\n\nThe Albion is made of iron.\n\n## Care\n\nOil every bearing in the morning.\n"
TABLES = (
    "documents",
    "chunks",
    "chunk_terms",
    "chunk_embeddings",
    "term_statistics",
    "collection_statistics",
    "embedding_cache",
)


def new(text: str = TEXT, **more: Any) -> NewDocument:
    return NewDocument(**{"collection": "shop", "title": "Presses", "text": text} | more)


async def create(database: Database, tenant: UUID, document: NewDocument) -> tuple[documents.Document, bool]:
    async with database.tenant(tenant, ACTOR) as db:
        return await documents.create(db, tenant, document, actor=ACTOR)


async def counts(admin: Admin) -> dict[str, int]:
    return {table: await admin.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}


async def test_a_new_document_waits_for_its_task(database: Database, tenant: UUID) -> None:
    document, due = await create(database, tenant, new(metadata={"year": 1820}))

    async with database.tenant(tenant, ACTOR) as db:
        assert document.task_id is not None
        task = await tasks.get(db, tenant, document.task_id)
        shelves = await collections.list_all(db, tenant)
    assert due
    assert (document.state, document.collection, document.metadata, document.characters) == (
        "pending", "shop", {"year": 1820}, len(TEXT),
    )  # fmt: skip
    assert (task.type, task.queue, task.state, task.payload, task.created_by) == (
        "ingest_document", "documents", "queued", {"document_id": str(document.id)}, ACTOR,
    )  # fmt: skip
    assert [(shelf.name, shelf.documents, shelf.chunks, shelf.model) for shelf in shelves] == [
        ("shop", 1, 0, "all-MiniLM-L6-v2")
    ]


async def test_its_task_makes_it_searchable(database: Database, admin: Admin, tenant: UUID) -> None:
    document = await take_in(database, admin, tenant, new())

    async with database.tenant(tenant, ACTOR) as db:
        chunks = await documents.list_chunks(db, tenant, document.id)
    assert (document.state, document.error, document.chunk_count) == ("indexed", None, 2)
    assert document.indexed_at is not None
    assert [(one.ordinal, one.headings, one.text) for one in chunks] == [
        (0, [], "The Albion is made of iron."),
        (1, ["Care"], "Oil every bearing in the morning."),
    ]
    assert all(TEXT[one.start_offset : one.end_offset] == one.text for one in chunks)
    assert await counts(admin) == {
        "documents": 1, "chunks": 2, "chunk_terms": 2, "chunk_embeddings": 2, "term_statistics": 9, "collection_statistics": 1, "embedding_cache": 2,
    }  # fmt: skip


async def test_the_result_of_the_task_tells_what_was_computed(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    document, _ = await create(database, tenant, new())

    result = await knowledge.run_ingest(database, admin, tenant, document)

    assert result == {"chunks": 2, "embedded": 2, "reused": 0}


async def test_the_same_text_is_the_same_document_and_nothing_happens(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    first = await take_in(database, admin, tenant, new())

    again, due = await create(database, tenant, new())

    assert (again, due) == (first, False)
    assert await admin.fetchval("SELECT count(*) FROM tasks") == 0


async def test_the_same_text_sent_twice_before_it_is_indexed_has_one_task(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    results = await asyncio.gather(*(create(database, tenant, new()) for _ in range(5)))

    assert sorted(due for _, due in results) == [False] * 4 + [True]
    assert len({document.id for document, _ in results}) == 1
    assert await admin.fetchval("SELECT count(*) FROM tasks") == 1


async def test_the_same_text_in_another_collection_is_another_document_but_not_embedded_again(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    first = await take_in(database, admin, tenant, new())
    embedder = RememberingEmbedder()

    second = await take_in(database, admin, tenant, new(collection="museum"), embedder=embedder)

    assert second.id != first.id
    assert second.chunk_count == 2
    assert embedder.asked == []


async def test_new_metadata_is_kept_without_indexing_again(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    await take_in(database, admin, tenant, new())

    document, due = await create(database, tenant, new(metadata={"shelf": 3}))

    assert (document.metadata, document.state, due) == ({"shelf": 3}, "indexed", False)


async def test_a_new_title_indexes_again_and_replaces_every_chunk(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    await take_in(database, admin, tenant, new())
    before = await counts(admin)

    document = await take_in(database, admin, tenant, new(title="Iron"))

    assert (document.title, document.state) == ("Iron", "indexed")
    after = await counts(admin)
    assert after == before | {"term_statistics": after["term_statistics"]}
    assert await admin.fetchval("SELECT chunks FROM collection_statistics") == 2


async def test_indexing_again_changes_nothing_and_computes_nothing(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    document = await take_in(database, admin, tenant, new())
    before = await counts(admin)
    statistics = await admin.fetch("SELECT key, chunks FROM term_statistics ORDER BY key")
    async with database.tenant(tenant, ACTOR) as db:
        document = await documents.reindex(db, tenant, document.id, actor=ACTOR)

    result = await knowledge.run_ingest(database, admin, tenant, document)

    assert result == {"chunks": 2, "embedded": 0, "reused": 2}
    assert await counts(admin) == before
    assert await admin.fetch("SELECT key, chunks FROM term_statistics ORDER BY key") == statistics


async def test_deleting_a_document_leaves_nothing_of_it(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    document = await take_in(database, admin, tenant, new())

    async with database.tenant(tenant, ACTOR) as db:
        stopped = await documents.delete(db, tenant, document.id, actor=ACTOR)

    assert stopped == []
    assert await counts(admin) == dict.fromkeys(TABLES, 0)
    async with database.tenant(tenant, ACTOR) as db:
        with pytest.raises(NotFound):
            await documents.get(db, tenant, document.id)
        with pytest.raises(NotFound):
            await documents.delete(db, tenant, document.id, actor=ACTOR)


async def test_deleting_leaves_what_others_share(database: Database, admin: Admin, tenant: UUID) -> None:
    first = await take_in(database, admin, tenant, new())
    await take_in(database, admin, tenant, new(collection="museum"))
    alone = await counts(admin)

    async with database.tenant(tenant, ACTOR) as db:
        await documents.delete(db, tenant, first.id, actor=ACTOR)

    after = await counts(admin)
    assert after == {name: count // 2 for name, count in alone.items()} | {"embedding_cache": 2}


async def test_statistics_stay_right_when_rows_go_by_cascade(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    first = await take_in(database, admin, tenant, new())
    await take_in(database, admin, tenant, new(text="# Other\n\nThe Albion is heavy.", title="Other"))

    async with database.tenant(tenant, ACTOR) as db:
        await db.execute("DELETE FROM documents WHERE id = $1", first.id)

    assert await admin.fetchval("SELECT chunks FROM collection_statistics") == 1
    rows = await admin.fetch(
        "SELECT s.key, s.chunks FROM term_statistics s ORDER BY key",
    )
    counted = await admin.fetch(
        "SELECT k AS key, count(*)::int AS chunks FROM chunk_terms, unnest(keys) k GROUP BY k ORDER BY k"
    )
    assert rows == counted
    async with database.tenant(tenant, ACTOR) as db:
        await db.execute("DELETE FROM collections")
    assert (await counts(admin))["term_statistics"] == 0


async def test_deleting_a_document_cancels_its_task_and_its_run_writes_nothing(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    document, _ = await create(database, tenant, new())
    context = await knowledge.start_ingest(database, admin, tenant, document)

    async with database.tenant(tenant, ACTOR) as db:
        stopped = await documents.delete(db, tenant, document.id, actor=ACTOR)

    assert [one.task_id for one in stopped] == [document.task_id]
    with pytest.raises(StaleAttempt):
        await ingest_document.run(context, ingest_document.Payload(document_id=document.id))
    await knowledge.close(context)
    assert await counts(admin) == dict.fromkeys(TABLES, 0)


async def test_a_document_without_text_fails_with_the_reason(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    document, _ = await create(database, tenant, new(text="<p> </p>", mime="text/html"))

    with pytest.raises(Permanent, match="no text"):
        await knowledge.run_ingest(database, admin, tenant, document)

    async with database.tenant(tenant, ACTOR) as db:
        failed = await documents.get(db, tenant, document.id)
        assert (failed.state, failed.error) == ("failed", "the document has no text")
        assert [one.id for one in await documents.list_documents(db, tenant, state="failed")] == [document.id]


async def test_a_document_of_too_many_chunks_fails_with_the_reason(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    headings = "\n\n".join(f"# Part {n}\n\nText." for n in range(1001))
    document, _ = await create(database, tenant, new(text=headings))

    with pytest.raises(Permanent, match="1001 chunks"):
        await knowledge.run_ingest(database, admin, tenant, document)


async def test_a_missing_model_fails_the_document_with_the_reason(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    class Missing(RememberingEmbedder):
        async def embed(self, texts: Any) -> list[list[float]]:
            raise Unavailable("embeddings need the optional package 'onnxruntime'", slug=NO_MODEL)

    document, _ = await create(database, tenant, new())
    with pytest.raises(Permanent):
        await knowledge.run_ingest(database, admin, tenant, document, embedder=Missing())

    async with database.tenant(tenant, ACTOR) as db:
        assert "onnxruntime" in str((await documents.get(db, tenant, document.id)).error)


async def test_what_is_away_for_a_moment_does_not_fail_the_document(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    class Away(RememberingEmbedder):
        async def embed(self, texts: Any) -> list[list[float]]:
            raise Unavailable("the database is not answering")

    document, _ = await create(database, tenant, new())
    context = await knowledge.start_ingest(database, admin, tenant, document, embedder=Away())

    with pytest.raises(Unavailable):
        await ingest_document.run(context, ingest_document.Payload(document_id=document.id))
    await knowledge.close(context)

    async with database.tenant(tenant, ACTOR) as db:
        assert (await documents.get(db, tenant, document.id)).state == "pending"


async def test_a_document_whose_task_was_cancelled_has_failed_and_can_be_sent_again(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    document, _ = await create(database, tenant, new())
    async with database.tenant(tenant, ACTOR) as db:
        assert document.task_id is not None
        await tasks.cancel(db, tenant, document.task_id, actor=ACTOR)

    async with database.tenant(tenant, ACTOR) as db:
        failed = await documents.get(db, tenant, document.id)
    assert (failed.state, failed.error) == ("failed", "its task was cancelled")
    again = await take_in(database, admin, tenant, new())
    assert (again.id, again.state) == (document.id, "indexed")


async def test_a_requeued_task_takes_the_document_over(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    document, _ = await create(database, tenant, new())
    async with database.tenant(tenant, ACTOR) as db:
        assert document.task_id is not None
        await tasks.cancel(db, tenant, document.task_id, actor=ACTOR)
        requeued = await tasks.requeue(db, tenant, document.task_id, actor=ACTOR)
        await documents.begin_ingest(db, tenant, document.id, task_id=requeued.id)
        document = await documents.get(db, tenant, document.id)

    await knowledge.run_ingest(database, admin, tenant, document)

    async with database.tenant(tenant, ACTOR) as db:
        after = await documents.get(db, tenant, document.id)
    assert (after.state, after.task_id) == ("indexed", requeued.id)


async def test_a_vector_that_left_the_cache_in_between_stops_the_swap(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    document = await take_in(database, admin, tenant, new())
    chunks = chunking.cut("Not embedded.", "text/markdown", "Other")

    async with database.tenant(tenant, ACTOR) as db:
        complete = await documents.replace_chunks(db, tenant, document.id, chunks, model="all-MiniLM-L6-v2")

    assert not complete


async def test_a_document_of_another_tenant_does_not_exist(
    database: Database, admin: Admin, tenant: UUID, other_tenant: UUID
) -> None:
    theirs = await take_in(database, admin, other_tenant, new())

    async with database.tenant(tenant, ACTOR) as db:
        for wrong in (theirs.id, uuid4()):
            with pytest.raises(NotFound):
                await documents.get(db, tenant, wrong)
            with pytest.raises(NotFound):
                await documents.delete(db, tenant, wrong, actor=ACTOR)
        assert await documents.list_documents(db, tenant) == []
        assert await collections.list_all(db, tenant) == []
        # Even a query that forgets its tenant sees nothing.
        assert [await db.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES] == [0] * len(TABLES)


async def test_lists_come_newest_first_page_by_page(database: Database, tenant: UUID) -> None:
    made = [
        (await create(database, tenant, new(text=f"Text {n}.", title=f"Title {n}", collection="ab"[n % 2])))[
            0
        ]
        for n in range(5)
    ]

    async with database.tenant(tenant, ACTOR) as db:
        first = await documents.list_documents(db, tenant, limit=3)
        second = await documents.list_documents(db, tenant, limit=3, before=first[-1].id)
        in_a = await documents.list_documents(db, tenant, collection="a")
        named = await documents.list_documents(db, tenant, q="tItLe 3")
        odd = await documents.list_documents(db, tenant, q="%")
    assert [one.id for one in first + second] == [one.id for one in reversed(made)]
    assert [one.title for one in in_a] == ["Title 4", "Title 2", "Title 0"]
    assert [one.title for one in named] == ["Title 3"]
    assert odd == []


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"title": " "}, "/title"),
        ({"title": "x" * 301}, "/title"),
        ({"title": "a\x00b"}, "/title"),
        ({"text": " \n"}, "/text"),
        ({"text": "a\x00b"}, "/text"),
        ({"mime": "application/pdf"}, "/mime"),
        ({"language": "klingon"}, "/language"),
        ({"metadata": {"note": "x" * 20_000}}, "/metadata"),
        ({"collection": "Not a name"}, "/collection"),
        ({"collection": ""}, "/collection"),
    ],
)
async def test_a_bad_document_is_refused_with_the_place(
    database: Database, tenant: UUID, change: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(Invalid) as caught:
        await create(database, tenant, new(**change))

    assert [fault.pointer for fault in caught.value.faults] == [pointer]


async def test_a_text_beyond_the_limit_is_too_large(database: Database, tenant: UUID) -> None:
    with pytest.raises(TooLarge, match="500001 characters"):
        await create(database, tenant, new(text="x" * 500_001))


async def test_text_of_any_kind_can_be_taken_in(database: Database, admin: Admin, tenant: UUID) -> None:
    hostile = (
        "'; DROP TABLE documents; --\n\n漢字 \U0001f5a8 \u202e rtl\n\n$1 %s {} \\ \" <script>alert(1)</script>\n\n"
        + "w" * 3000
    )

    document = await take_in(database, admin, tenant, new(text=hostile, mime="text/plain", title="%_\\'\""))

    async with database.tenant(tenant, ACTOR) as db:
        chunks = await documents.list_chunks(db, tenant, document.id)
    assert document.state == "indexed"
    assert all(hostile[one.start_offset : one.end_offset] == one.text for one in chunks)


async def test_a_document_deleted_under_a_second_sender_is_a_conflict_or_a_new_one(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    document = await take_in(database, admin, tenant, new())

    async def delete() -> None:
        async with database.tenant(tenant, ACTOR) as db:
            await documents.delete(db, tenant, document.id, actor=ACTOR)

    async def send() -> str:
        try:
            return (await create(database, tenant, new()))[0].state
        except Conflict:
            return "conflict"

    _, outcome = await asyncio.gather(delete(), send())

    assert outcome in {"indexed", "pending", "conflict"}
