"""Search over a tenant's chunks: by meaning, by words, or both fused; every hit says why it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import asyncpg

from services import collections, parsing
from services.embeddings import DIMENSIONS, Embedder
from services.errors import Fault, Invalid, Unavailable
from sql import SQL, Connection

Mode = Literal["hybrid", "vector", "keyword"]

MAX_QUERY = 1000  # characters
MAX_HITS = 50
PER_DOCUMENT = 3  # hits of one document, so that a long one cannot fill the list

# Weights of the vector arm and the keyword arm. Equal ones were best on the demo corpus (tests/services/test_search.py).
WEIGHTS: dict[str, tuple[float, float]] = {"hybrid": (1.0, 1.0), "vector": (1.0, 0.0), "keyword": (0.0, 1.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A chunk that answers the query, and why.

    reasons: `{"vector": {"rank", "distance"}, "keyword": {"rank", "bm25", "terms"}}`; an arm that did not find it is None.
    Ranks count from 1 within their arm; distance is the cosine distance, 0 to 2; terms are word stems, rarest first.
    """

    chunk_id: UUID
    document_id: UUID
    document_title: str
    collection: str
    heading: str
    ordinal: int
    text: str
    metadata: dict[str, Any]
    score: float
    reasons: dict[str, dict[str, Any] | None]

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Hit:
        """Build a hit from a row of search.search."""
        vector = {"rank": row["vector_rank"], "distance": row["distance"]}
        keyword = {"rank": row["keyword_rank"], "bm25": row["bm25"], "terms": row["matched_terms"]}
        return cls(
            chunk_id=row["chunk_id"],
            document_id=row["document_id"],
            document_title=row["document_title"],
            collection=row["collection"],
            heading=" › ".join(row["headings"]),
            ordinal=row["ordinal"],
            text=row["text"],
            metadata=row["metadata"],
            score=row["score"],
            reasons={
                "vector": vector if vector["rank"] else None,
                "keyword": keyword if keyword["rank"] else None,
            },
        )


async def vector_of(embedder: Embedder, query: str, mode: Mode) -> tuple[list[float] | None, str | None]:
    """Return the query's vector, and why there is none although the mode wants one. Hold no transaction meanwhile.

    Raises: Unavailable when the search would be by meaning alone and there is no model.
    """
    if mode == "keyword":
        return None, None
    try:
        return (await embedder.embed([query]))[0], None
    except Unavailable as exc:
        if mode == "vector":
            raise
        return None, str(exc)


async def search(
    db: Connection,
    *,
    tenant_id: UUID,
    query: str,
    embedding: Sequence[float] | None,
    collections: Sequence[str] | None = None,
    filters: dict[str, Any] | None = None,
    k: int = 10,
    mode: Mode = "hybrid",
    per_document: int = PER_DOCUMENT,
) -> list[Hit]:
    """Return the *k* best chunks, best first.

    *embedding* is the query's vector; without one only the keyword arm answers. *collections* are names, None searches all.
    *filters* is what a document's metadata must contain. Raises: Invalid (query empty, too long or with NUL; k out of
    range; unknown collection).
    """
    vector_weight, keyword_weight = WEIGHTS[mode]
    _check(query, k)
    if embedding is not None and len(embedding) != DIMENSIONS:
        raise Invalid(f"the query's vector has {len(embedding)} dimensions, not {DIMENSIONS}")
    scope = None if collections is None else await _scope(db, tenant_id, collections)
    rows = await db.fetch(
        SQL["search.search"],
        parsing.terms_text(query),
        list(embedding) if embedding is not None else None,
        scope,
        filters or None,
        k,
        per_document,
        vector_weight,
        keyword_weight,
    )
    return [Hit.from_row(row) for row in rows]


async def _scope(db: Connection, tenant_id: UUID, names: Sequence[str]) -> list[UUID]:
    return await collections.find_ids(db, tenant_id, names)


def _check(query: str, k: int) -> None:
    if not query.strip():
        raise Invalid("the query is empty", faults=(Fault("/query", "must not be empty"),))
    if len(query) > MAX_QUERY:
        raise Invalid(
            "the query is too long", faults=(Fault("/query", f"must have at most {MAX_QUERY} characters"),)
        )
    if "\x00" in query or any("\ud800" <= character <= "\udfff" for character in query):
        raise Invalid(
            "the query cannot be text",
            faults=(Fault("/query", "must not hold NUL or half a surrogate pair"),),
        )
    if not 1 <= k <= MAX_HITS:
        raise Invalid("k is out of range", faults=(Fault("/k", f"must be 1 to {MAX_HITS}"),))
