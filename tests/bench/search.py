"""How fast and how exact the hybrid search is over many chunks: `python -m tests.bench.search --chunks 20000`.

Makes a PostgreSQL of its own in a temporary folder and fills it with chunks whose words follow Zipf's law and whose vectors lie
in clusters, in two tenants (half each). The tables are filled as an ingest would fill them; only the vectors' index is built afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import math
import random
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from server import embedded, migrations
from server.database import Database
from services import search
from sql import SQL

WORDS = 30_000
WORDS_PER_CHUNK = 90
CLUSTERS = 400
PER_DOCUMENT = 25
QUERIES = 200
K = 10


class Corpus:
    """Reproducible texts and vectors."""

    def __init__(self, seed: int = 7) -> None:
        self.dice = random.Random(seed)
        self.words = [_word(number) for number in range(WORDS)]
        self.weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(WORDS)))
        self.centres = [_unit([self.dice.gauss(0, 1) for _ in range(384)]) for _ in range(CLUSTERS)]

    def text(self, count: int) -> str:
        return " ".join(self.dice.choices(self.words, cum_weights=self.weights, k=count))

    def vector(self) -> list[float]:
        centre = self.dice.choice(self.centres)
        return _unit([value + self.dice.gauss(0, 0.05) for value in centre])


def _word(number: int) -> str:
    """Return a pronounceable word that no stemmer knows."""
    syllables = ["ba", "ko", "mu", "ri", "ta", "ze", "lo", "fi", "du", "na"]
    return "".join(syllables[int(digit)] for digit in str(number + 1000)) + "x"


def _unit(values: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(value * value for value in values))
    return [value / length for value in values]


async def fill(admin: Any, database: Database, corpus: Corpus, tenant: UUID, chunks: int) -> None:
    """Put *chunks* chunks into two collections of *tenant*, one of them with a tenth of all."""
    async with database.tenant(tenant, "bench") as db:
        shelves = [
            await db.fetchval(SQL["collections.ensure"], tenant, name, "bench") for name in ("large", "small")
        ]
    for number in range(chunks // PER_DOCUMENT):
        texts = [corpus.text(WORDS_PER_CHUNK) for _ in range(PER_DOCUMENT)]
        hashes = [hashlib.sha256(text.encode()).digest() for text in texts]
        vectors = [corpus.vector() for _ in texts]
        rows = [
            {
                "ordinal": place, "start_offset": 0, "end_offset": len(text), "headings": [], "text": text, "terms_text": text,
                "text_sha256": digest.hex(), "pieces": 200,
            }
            for place, (text, digest) in enumerate(zip(texts, hashes, strict=True))
        ]  # fmt: skip
        async with database.tenant(tenant, "bench") as db:
            document = await db.fetchval(
                SQL["documents.insert"], tenant, shelves[number % 10 == 0], f"Document {number}", "text/plain", "english", " ".join(texts),
                hashlib.sha256(str((tenant, number)).encode()).digest(), {"part": number % 50}, "bench",
            )  # fmt: skip
            flat = list(itertools.chain.from_iterable(vectors))
            await db.execute(
                SQL["documents.insert_embeddings"], tenant, "all-MiniLM-L6-v2", 384, hashes, flat
            )
            await db.fetchrow(SQL["documents.insert_chunks"], tenant, document, rows, "all-MiniLM-L6-v2")
            await db.execute(SQL["documents.set_indexed"], tenant, document, len(rows))
            await db.execute(SQL["documents.delete_embeddings"], tenant, document, [])


async def measure(
    database: Database, admin: Any, corpus: Corpus, tenant: UUID, label: str, **more: Any
) -> None:
    """Print latency, buffers and recall of one kind of search."""
    questions = [(corpus.text(8), corpus.vector()) for _ in range(QUERIES)]
    seconds, found = [], []
    for question, vector in questions:
        async with database.tenant(tenant, "bench") as db:
            started = time.perf_counter()
            hits = await search.search(
                db, tenant_id=tenant, query=question, embedding=vector, k=K, per_document=K, **more
            )
            seconds.append(time.perf_counter() - started)
        found.append([hit.chunk_id for hit in hits])
    seconds.sort()
    recall = await _recall(admin, tenant, questions, found, more) if more.get("mode") == "vector" else None
    buffers = [
        await _buffers(database, tenant, question, vector, more) for question, vector in questions[:20]
    ]
    print(
        f"{label:34} p50 {1000 * statistics.median(seconds):6.1f} ms  p95 {1000 * seconds[int(0.95 * QUERIES)]:6.1f} ms"
        f"  buffers {statistics.median(buffers):7.0f}  hits {statistics.mean(map(len, found)):5.2f}"
        + (f"  recall@{K} {recall:.3f}" if recall is not None else "")
    )


async def _recall(
    admin: Any, tenant: UUID, questions: list[Any], found: list[list[UUID]], more: dict[str, Any]
) -> float:
    right = 0
    for (_, vector), ids in list(zip(questions, found, strict=True))[:50]:
        rows = await admin.fetch(
            "SELECT e.chunk_id FROM chunk_embeddings e JOIN documents d ON d.id = e.document_id JOIN collections c ON c.id = d.collection_id"
            " WHERE e.tenant_id = $1 AND ($3::text[] IS NULL OR c.name = ANY ($3)) AND ($4::jsonb IS NULL OR d.metadata @> $4)"
            " ORDER BY e.embedding <=> $2::real[]::vector LIMIT $5",
            tenant, vector, more.get("collections"), more.get("filters"), K,
        )  # fmt: skip
        right += len({row["chunk_id"] for row in rows} & set(ids))
    return right / (50 * K)


async def _buffers(
    database: Database, tenant: UUID, question: str, vector: list[float], more: dict[str, Any]
) -> int:
    weights = search.WEIGHTS[more.get("mode", "hybrid")]
    async with database.tenant(tenant, "bench") as db:
        scope = None
        if more.get("collections"):
            scope = [
                row["id"] for row in await db.fetch(SQL["collections.find_ids"], tenant, more["collections"])
            ]
        rows = await db.fetch(
            "EXPLAIN (ANALYZE, BUFFERS) " + SQL["search.search"].partition("\n")[2],
            question,
            vector,
            scope,
            more.get("filters"),
            K,
            K,
            *weights,
        )
    hits = re.search(r"Buffers: shared hit=(\d+)(?: read=(\d+))?", "\n".join(row[0] for row in rows))
    return sum(int(part) for part in hits.groups() if part) if hits else 0


async def bench(chunks: int, admin_dsn: str, web_dsn: str) -> None:
    """Fill and measure."""
    await migrations.migrate(admin_dsn)
    admin = await asyncpg.connect(admin_dsn)
    await admin.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=lambda value: __import__("json").dumps(value), decoder=str
    )
    database = Database(web_dsn)
    await database.open()
    corpus = Corpus()
    await admin.execute("DROP INDEX chunk_embeddings_set_1")
    tenants = [
        await admin.fetchval("INSERT INTO tenants (name) VALUES ($1) RETURNING id", name)
        for name in ("first", "second", "tiny")
    ]
    started = time.perf_counter()
    for tenant, share in zip(tenants, (chunks // 2, chunks // 2, 500), strict=True):
        await fill(admin, database, corpus, tenant, share)
    print(f"filled {chunks} chunks in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    await admin.execute("SET maintenance_work_mem = '512MB'")
    await admin.execute(
        "CREATE INDEX chunk_embeddings_set_1 ON chunk_embeddings USING hnsw ((embedding::vector(384)) vector_cosine_ops) WHERE set_id = 1"
    )
    await admin.execute("VACUUM ANALYZE")
    print(f"built the index in {time.perf_counter() - started:.0f} s")
    for row in await admin.fetch(
        "SELECT relname, pg_size_pretty(pg_relation_size(oid)) AS size FROM pg_class WHERE relname ~ '^(chunk|term)' AND relnamespace = 'public'::regnamespace"
        " ORDER BY pg_relation_size(oid) DESC LIMIT 8"
    ):
        print(f"  {row['relname']:34} {row['size']}")
    for label, tenant, more in (
        ("hybrid, half of all chunks", tenants[0], {}),
        ("vector", tenants[0], {"mode": "vector"}),
        ("keyword", tenants[0], {"mode": "keyword"}),
        ("hybrid, small collection", tenants[0], {"collections": ["small"]}),
        ("vector, small collection", tenants[0], {"collections": ["small"], "mode": "vector"}),
        ("hybrid, 2 % by metadata", tenants[0], {"filters": {"part": 7}}),
        ("vector, 2 % by metadata", tenants[0], {"filters": {"part": 7}, "mode": "vector"}),
        ("hybrid, tenant of 500 chunks", tenants[2], {}),
        ("vector, tenant of 500 chunks", tenants[2], {"mode": "vector"}),
    ):
        await measure(database, admin, corpus, tenant, label, **more)
    await database.close()
    await admin.close()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=20_000)
    chunks = parser.parse_args().chunks
    with tempfile.TemporaryDirectory() as folder:
        running = embedded.start_postgres(Path(folder) / "data", durable=False)
        try:
            asyncio.run(bench(chunks, running.admin_dsn, running.web_dsn))
        finally:
            embedded.stop_postgres(running)


if __name__ == "__main__":
    main()
