"""Search: finds what is there, says why, keeps tenants apart, and takes any text for a query."""

from __future__ import annotations

import inspect
import json
import string
from importlib import import_module
from math import log
from typing import Any
from uuid import UUID

import pytest

from server.database import Database
from services import demo_corpus, documents, search
from services.documents import NewDocument
from services.embeddings import Embedder
from services.errors import Invalid, Unavailable
from sql import SQL
from tests.golden import GOLDEN
from tests.knowledge import ACTOR, RememberingEmbedder, ask, take_in

Admin = Any


def note(text: str, **more: Any) -> NewDocument:
    return NewDocument(**{"collection": "notes", "title": "Note", "text": text, "mime": "text/plain"} | more)


async def take_in_all(database: Database, admin: Admin, tenant: UUID, *texts: str, **more: Any) -> None:
    for text in texts:
        await take_in(database, admin, tenant, note(text, **more))


async def test_golden_questions_find_their_passage(database: Database, admin: Admin, tenant: UUID) -> None:
    for new in demo_corpus.read():
        await take_in(database, admin, tenant, new)

    recall = {}
    for mode in ("vector", "keyword", "hybrid"):
        found = 0
        for question, file, words in GOLDEN:
            hits = await ask(database, tenant, question, k=5, mode=mode)
            found += any(hit.metadata["file"] == file and words in hit.text for hit in hits)
        recall[mode] = found / len(GOLDEN)

    assert recall["hybrid"] >= 0.9, recall
    assert recall["hybrid"] >= max(recall["vector"], recall["keyword"]), recall
    assert min(recall.values()) >= 0.8, recall


async def test_a_hit_tells_why_it_was_found(database: Database, admin: Admin, tenant: UUID) -> None:
    await take_in_all(
        database, admin, tenant, "The brayer spreads ink on a slab.", "Chisels are sharpened on a whetstone."
    )

    hits = await ask(database, tenant, "what is a brayer for?", k=2)

    first, second = hits
    assert first.text == "The brayer spreads ink on a slab."
    assert first.reasons["vector"] is not None
    assert first.reasons["vector"]["rank"] == 1
    assert 0 < first.reasons["vector"]["distance"] < 1
    assert first.reasons["keyword"] is not None
    assert first.reasons["keyword"]["terms"] == ["brayer"]
    assert first.score == pytest.approx(2 / 61)
    assert second.reasons["keyword"] is None
    assert second.score == pytest.approx(1 / 62)


async def test_each_mode_asks_only_its_own_arm(database: Database, admin: Admin, tenant: UUID) -> None:
    await take_in_all(database, admin, tenant, "The brayer spreads ink.", "A roller for colour.")

    by_words = await ask(database, tenant, "brayer", mode="keyword")
    by_meaning = await ask(database, tenant, "brayer", mode="vector")

    assert [(hit.text, hit.reasons["vector"]) for hit in by_words] == [("The brayer spreads ink.", None)]
    assert len(by_meaning) == 2
    assert all(hit.reasons["keyword"] is None for hit in by_meaning)


async def test_without_a_vector_the_words_answer_alone(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    await take_in_all(database, admin, tenant, "The brayer spreads ink.", "Something else.")

    class Missing(Embedder):
        async def embed(self, texts: Any) -> list[list[float]]:
            raise Unavailable("no model here")

    assert await search.vector_of(Missing(), "brayer", "hybrid") == (None, "no model here")
    assert await search.vector_of(Missing(), "brayer", "keyword") == (None, None)
    with pytest.raises(Unavailable):
        await search.vector_of(Missing(), "brayer", "vector")
    async with database.tenant(tenant, ACTOR) as db:
        hits = await search.search(db, tenant_id=tenant, query="brayer", embedding=None)
    assert [hit.text for hit in hits] == ["The brayer spreads ink."]


async def test_the_scores_are_bm25(database: Database, admin: Admin, tenant: UUID) -> None:
    """Held against the formula, written out: ln(1 + (N - n + 0.5) / (n + 0.5)) · f · 2.2 / (f + 1.2 · (0.25 + 0.75 · length / 60))."""
    await take_in_all(
        database, admin, tenant, "press press ink", "press paper stone lever platen", "paper alone", title="T"
    )

    hits = await ask(database, tenant, "press ink", mode="keyword")

    # Without the title, which is a stop word, the lengths are 3, 5 and 2.
    def weight(chunks: int, holders: int, occurrences: int, length: int) -> float:
        rarity = log(1 + (chunks - holders + 0.5) / (holders + 0.5))
        return rarity * occurrences * 2.2 / (occurrences + 1.2 * (0.25 + 0.75 * length / 60))

    expected = [weight(3, 2, 2, 3) + weight(3, 1, 1, 3), weight(3, 2, 1, 5)]
    assert [hit.reasons["keyword"]["bm25"] for hit in hits] == pytest.approx(expected, rel=1e-3)  # type: ignore[index]


async def test_the_nearest_chunk_of_another_tenant_is_never_returned_and_k_is_still_filled(
    database: Database, admin: Admin, tenant: UUID, other_tenant: UUID
) -> None:
    secret = "The recipe of the vermilion ink is nine parts cinnabar."
    await take_in_all(database, admin, other_tenant, secret, *(f"{secret} Copy {n}." for n in range(60)))
    await take_in_all(database, admin, tenant, *(f"Ordinary note number {n} about paper." for n in range(7)))

    for mode in ("hybrid", "vector", "keyword"):
        hits = await ask(database, tenant, "recipe of the vermilion ink, or a note on paper", k=5, mode=mode)

        assert len(hits) == 5
        assert not any("vermilion" in hit.text for hit in hits)
        assert all(hit.document_title == "Note" and "Ordinary" in hit.text for hit in hits)


async def test_a_transaction_without_a_tenant_finds_nothing(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    await take_in_all(database, admin, tenant, "The brayer spreads ink.")

    async with database.engine() as db:
        rows = await db.fetch(SQL["search.search"], "brayer", None, None, None, 10, 3, 0.0, 1.0)

    assert rows == []


async def test_another_tenants_collection_cannot_be_named_nor_passed_by_id(
    database: Database, admin: Admin, tenant: UUID, other_tenant: UUID
) -> None:
    theirs = await take_in(
        database, admin, other_tenant, note("The brayer spreads ink.", collection="theirs")
    )

    with pytest.raises(Invalid) as caught:
        await ask(database, tenant, "brayer", collections=["theirs"])
    async with database.tenant(tenant, ACTOR) as db:
        rows = await db.fetch(
            SQL["search.search"], "brayer", None, [theirs.collection_id], None, 10, 3, 0.0, 1.0
        )

    assert [fault.pointer for fault in caught.value.faults] == ["/collections/0"]
    assert rows == []


async def test_the_web_role_cannot_read_chunks_past_row_security(
    database: Database, admin: Admin, tenant: UUID, other_tenant: UUID
) -> None:
    await take_in_all(database, admin, other_tenant, "The brayer spreads ink.")

    async with database.tenant(tenant, ACTOR) as db:
        for table in ("chunks", "chunk_terms", "chunk_embeddings", "embedding_cache", "term_statistics"):
            assert await db.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_collections_and_metadata_narrow_both_arms(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    for number, (collection, year) in enumerate([("old", 1820), ("old", 1886), ("new", 1886)]):
        text = f"Letterpress item {number}."
        await take_in(database, admin, tenant, note(text, collection=collection, metadata={"year": year}))

    async def numbers(**more: Any) -> set[str]:
        return {hit.text[-2] for hit in await ask(database, tenant, "letterpress item", **more)}

    for mode in ("hybrid", "vector", "keyword"):
        assert await numbers(mode=mode) == {"0", "1", "2"}
        assert await numbers(mode=mode, collections=["old"]) == {"0", "1"}
        assert await numbers(mode=mode, collections=["new", "old"]) == {"0", "1", "2"}
        assert await numbers(mode=mode, filters={"year": 1886}) == {"1", "2"}
        assert await numbers(mode=mode, collections=["old"], filters={"year": 1886}) == {"1"}
        assert await numbers(mode=mode, filters={"year": "1886"}) == set()
        assert await numbers(mode=mode, filters={"year'; --": {"$ne": None}}) == set()


async def test_one_document_cannot_fill_the_list(database: Database, admin: Admin, tenant: UUID) -> None:
    long = "\n\n".join(f"# Part {n}\n\nThe brayer spreads ink, part {n}." for n in range(12))
    await take_in(database, admin, tenant, note(long, title="Long", mime="text/markdown"))
    await take_in_all(database, admin, tenant, "A brayer, once.", "Another brayer.")

    titles = [hit.document_title for hit in await ask(database, tenant, "brayer", k=5)]

    assert titles.count("Long") == 3
    assert len(titles) == 5


async def test_a_document_is_found_by_the_words_of_its_own_language(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    await take_in(
        database, admin, tenant, note("Die Ätzungen der Häuser wurden gedruckt.", language="german")
    )
    await take_in(database, admin, tenant, note("Prints of houses were etched.", title="Second"))
    await take_in(
        database, admin, tenant, note("Etching houses, unchanged.", title="Third", language="simple")
    )

    async def found(query: str) -> set[str]:
        return {hit.document_title for hit in await ask(database, tenant, query, mode="keyword")}

    assert await found("ÄTZUNG") == {"Note"}
    assert await found("haus") == {"Note"}
    assert await found("etching") == {"Second", "Third"}
    assert await found("unchang") == set()


@pytest.mark.parametrize(
    "query",
    [
        "a & | (",
        "'\"((&|!<->:*\\",
        '"unclosed phrase -minus or OR AND NOT',
        "'; DROP TABLE documents; --",
        "$1 $$ %s {} %(x)s \\x00 \\' E'\\\\'",
        "the of and",  # stop words only
        "!!! ??? ...",
        "\u202e\u200b\ufeff",
        "漢字 Привет \U0001f5a8",
        "x" * 1000,
        " ".join(["press"] * 160),
        "".join(chr(code) for code in range(1, 128)),
        string.punctuation * 30,
        "a:b:c http://example.org/?q=1&r=2 user@example.org 1.5e300 -0 3/4",
    ],
)
async def test_any_text_is_a_query(database: Database, admin: Admin, tenant: UUID, query: str) -> None:
    await take_in_all(database, admin, tenant, "The brayer spreads ink.")

    for mode in ("hybrid", "vector", "keyword"):
        hits = await ask(database, tenant, query[:1000], mode=mode)

        assert len(hits) <= 1
        assert mode == "keyword" or len(hits) == 1


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"query": ""}, "/query"),
        ({"query": " \n"}, "/query"),
        ({"query": "x" * 1001}, "/query"),
        ({"query": "a\x00b"}, "/query"),
        ({"query": "\ud800"}, "/query"),
        ({"k": 0}, "/k"),
        ({"k": 51}, "/k"),
        ({"collections": ["nowhere"]}, "/collections/0"),
    ],
)
async def test_what_cannot_be_asked_is_refused_with_the_place(
    database: Database, tenant: UUID, change: dict[str, Any], pointer: str
) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        with pytest.raises(Invalid) as caught:
            await search.search(db, **{"tenant_id": tenant, "query": "ink", "embedding": None} | change)

    assert [fault.pointer for fault in caught.value.faults] == [pointer]


async def test_an_empty_library_answers_with_nothing(database: Database, tenant: UUID) -> None:
    assert await ask(database, tenant, "anything") == []


async def test_a_deleted_document_is_not_found_any_more(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    document = await take_in(database, admin, tenant, note("The brayer spreads ink."))
    async with database.tenant(tenant, ACTOR) as db:
        await documents.delete(db, tenant, document.id, actor=ACTOR)

    assert await ask(database, tenant, "brayer") == []


async def fill_quickly(admin: Admin, tenant: UUID, chunks: int) -> None:
    """Put chunks with simple vectors straight into the tables: many of them, and no model."""
    await admin.execute(
        "INSERT INTO collections (tenant_id, name, created_by) VALUES ($1, 'many', 'test')", tenant
    )
    await admin.execute(
        """
        WITH shelf AS (
          SELECT id FROM collections WHERE tenant_id = $1 AND name = 'many'
        ), document AS (
          INSERT INTO documents (tenant_id, collection_id, title, mime, source, sha256, created_by, state, chunk_count)
          SELECT $1, shelf.id, 'Many', 'text/plain', 'x', sha256('x'), 'test', 'indexed', $2 FROM shelf RETURNING id, collection_id
        ), made AS (
          INSERT INTO chunks (tenant_id, document_id, ordinal, start_offset, end_offset, headings, text, text_sha256, pieces)
          SELECT $1, document.id, n, 0, 1, '{}', 'chunk ' || n, sha256(n::text::bytea), 5 FROM document, generate_series(1, $2) n
          RETURNING id, document_id, ordinal
        ), worded AS (
          INSERT INTO chunk_terms (tenant_id, chunk_id, collection_id, document_id, language, length, keys, weights)
          SELECT $1, made.id, document.collection_id, made.document_id, 'english', t.length, t.keys, t.weights
          FROM made, document, app.index_terms(document.collection_id, 'english', 'chunk ' || made.ordinal) t
        )
        INSERT INTO chunk_embeddings (tenant_id, chunk_id, set_id, collection_id, document_id, embedding)
        SELECT $1, made.id, 1, document.collection_id, made.document_id,
               (SELECT array_agg(CASE WHEN i = 1 THEN cos(made.ordinal / 8000.0) WHEN i = 2 THEN sin(made.ordinal / 8000.0) ELSE 0 END ORDER BY i)
                FROM generate_series(1, 384) i)::real[]::vector
        FROM made, document
        """,
        tenant,
        chunks,
    )


async def test_above_ten_thousand_chunks_the_index_answers_and_finds_the_same(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    await admin.execute("DROP INDEX chunk_embeddings_set_1")
    await fill_quickly(admin, tenant, 10_200)
    await admin.execute(
        "CREATE INDEX chunk_embeddings_set_1 ON chunk_embeddings USING hnsw ((embedding::vector(384)) vector_cosine_ops) WHERE set_id = 1"
    )
    await admin.execute("ANALYZE")
    vector = [1.0, 0.0] + [0.0] * 382

    async with database.tenant(tenant, ACTOR) as db:
        hits = await search.search(
            db, tenant_id=tenant, query="chunk 77", embedding=vector, k=10, mode="vector", per_document=10
        )
        words = await search.search(db, tenant_id=tenant, query="chunk 77", embedding=None, k=3)
        plan = json.dumps(
            await db.fetchval(
                "EXPLAIN (FORMAT JSON) SELECT chunk_id FROM chunk_embeddings WHERE tenant_id = $1 AND set_id = 1"
                " ORDER BY embedding::vector(384) <=> $2::real[]::vector(384) LIMIT 50",
                tenant,
                vector,
            )
        )

    assert [hit.ordinal for hit in hits] == list(range(1, 11))
    assert words[0].text == "chunk 77"
    assert "chunk_embeddings_set_1" in plan


async def test_words_ranked_by_bm25_find_more_than_by_ts_rank(
    database: Database, admin: Admin, tenant: UUID
) -> None:
    """Known items: Python's own documentation, asked for by the first sentence of an entry that holds the rest of it."""
    entries = sorted(_entries().items())
    async with database.tenant(tenant, ACTOR) as db:
        shelf = await db.fetchval(SQL["collections.ensure"], tenant, "python", ACTOR)
        values = (tenant, shelf, "Python", "text/plain", "english", "x", b"0" * 32, {}, ACTOR)
        document = await db.fetchval(SQL["documents.insert"], *values)
        chunks = [
            {"ordinal": number, "start_offset": 0, "end_offset": 1, "headings": [], "text": rest, "terms_text": rest, "text_sha256": "00", "pieces": 9}
            for number, (_, rest) in enumerate(entries)
        ]  # fmt: skip
        await db.fetchrow(SQL["documents.insert_chunks"], tenant, document, chunks, "all-MiniLM-L6-v2")
    questions = list(enumerate(first for first, _ in entries))[::4]

    async def ranked_by_bm25(question: str) -> list[int]:
        async with database.tenant(tenant, ACTOR) as db:
            hits = await search.search(
                db, tenant_id=tenant, query=question, embedding=None, k=5, per_document=5
            )
            return [hit.ordinal for hit in hits]

    async def ranked_by_ts_rank(question: str) -> list[int]:
        rows = await admin.fetch(
            "SELECT c.ordinal FROM chunks c, to_tsvector('english', c.text) v,"
            " (SELECT string_agg(quote_literal(l), ' | ')::tsquery AS q FROM unnest(tsvector_to_array(to_tsvector('english', $1))) l) f"
            " WHERE v @@ f.q ORDER BY ts_rank(v, f.q, 1) DESC, c.ordinal LIMIT 5",
            question,
        )
        return [row["ordinal"] for row in rows]

    bm25 = sum([number in await ranked_by_bm25(question) for number, question in questions])
    ts_rank = sum([number in await ranked_by_ts_rank(question) for number, question in questions])

    assert len(questions) > 80
    assert bm25 > 0.6 * len(questions)
    assert bm25 > ts_rank


def _entries() -> dict[str, str]:
    """Return the docstrings of common modules: the first paragraph of each, and what follows it."""
    found: dict[str, str] = {}
    for module in ("argparse", "asyncio", "collections", "datetime", "email.message", "fractions", "functools", "heapq", "http.client", "inspect",
                   "ipaddress", "itertools", "json", "logging", "mailbox", "math", "multiprocessing", "os", "pathlib", "pickle", "random", "re",
                   "shutil", "socket", "sqlite3", "ssl", "statistics", "string", "subprocess", "tarfile", "threading", "tkinter", "turtle",
                   "unittest", "urllib.parse", "uuid", "zipfile", "decimal", "difflib", "ctypes", "csv", "bisect", "textwrap", "traceback"):  # fmt: skip
        try:
            entries = vars(import_module(module))
        except ImportError:  # tkinter is not everywhere
            continue
        for entry in [entry for name, entry in entries.items() if not name.startswith("_")]:
            for part in [entry, *(vars(entry).values() if inspect.isclass(entry) else [])]:
                text = inspect.getdoc(part) if callable(part) else None
                first, _, rest = (text or "").partition("\n\n")
                if 5 <= len(first.split()) <= 25 and len(rest.split()) >= 25:
                    found.setdefault(" ".join(first.split())[:1000], rest[:1500])
    return found


def test_the_embedded_model_is_the_one_the_first_set_is_for() -> None:
    assert (RememberingEmbedder.model, RememberingEmbedder.dimensions) == ("all-MiniLM-L6-v2", 384)
