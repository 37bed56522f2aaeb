"""Documents: taken in with the task that makes them searchable, listed, replaced and deleted with all that came of them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from services import collections, parsing, tasks
from services.chunking import Chunk
from services.embeddings import text_hash
from services.errors import Conflict, Fault, Invalid, NotFound, TooLarge
from sql import SQL, Connection

MAX_CHARACTERS = 500_000  # about 200 pages: their chunks are swapped in one transaction
CHUNKS_PER_STATEMENT = 50  # 0.2 s each, 0.6 s on a machine under heavy load; a statement may take 5 s
MAX_TITLE = 300
MAX_METADATA_BYTES = 16_384
INGEST = "ingest_document"

# The languages whose stems and stop words PostgreSQL knows; 'simple' takes words as they are.
LANGUAGES = (
    "simple", "arabic", "armenian", "basque", "catalan", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hindi",
    "hungarian", "indonesian", "irish", "italian", "lithuanian", "nepali", "norwegian", "portuguese", "romanian", "russian", "serbian",
    "spanish", "swedish", "tamil", "turkish", "yiddish",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDocument:
    """What a caller hands in. `text` is in the format that `mime` names."""

    collection: str
    title: str
    text: str
    mime: str = "text/markdown"
    language: str = "english"
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document without its text. `state` is pending, indexed or failed, and then `error` says why."""

    id: UUID
    collection_id: UUID
    collection: str
    title: str
    mime: str
    language: str
    metadata: dict[str, Any]
    state: str
    error: str | None
    task_id: UUID | None
    chunk_count: int
    characters: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    indexed_at: datetime | None

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Document:
        """Build a document from a row of documents.get or documents.list."""
        return cls(
            id=row["id"],
            collection_id=row["collection_id"],
            collection=row["collection"],
            title=row["title"],
            mime=row["mime"],
            language=row["language"],
            metadata=row["metadata"],
            state=row["state"],
            error=row["error"],
            task_id=row["task_id"],
            chunk_count=row["chunk_count"],
            characters=row["characters"],
            created_by=row["created_by"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            indexed_at=row["indexed_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What an ingest reads of a document."""

    title: str
    mime: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChunk:
    """One chunk of a document. Offsets count characters of the document's plain text."""

    id: UUID
    document_id: UUID
    ordinal: int
    start_offset: int
    end_offset: int
    headings: list[str]
    text: str
    pieces: int

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> StoredChunk:
        """Build a chunk from a row of documents.list_chunks."""
        return cls(
            id=row["id"],
            document_id=row["document_id"],
            ordinal=row["ordinal"],
            start_offset=row["start_offset"],
            end_offset=row["end_offset"],
            headings=row["headings"],
            text=row["text"],
            pieces=row["pieces"],
        )


async def create(
    db: Connection, tenant_id: UUID, new: NewDocument, *, actor: str, request_id: str | None = None
) -> tuple[Document, bool]:
    """Take a document in, with the task that indexes it, in one transaction; return it and whether work is due.

    The same text in the same collection is the same document: sent again as it was, nothing happens; with another title,
    format or language it is indexed anew (unchanged chunks are not embedded again); with other metadata these are replaced.
    Raises: Invalid, TooLarge.
    """
    _check(new)
    collection_id = await collections.ensure(db, tenant_id, new.collection, actor=actor)
    digest = hashlib.sha256(new.text.encode()).digest()
    document_id: UUID | None = await db.fetchval(
        SQL["documents.insert"], tenant_id, collection_id, new.title, new.mime, new.language, new.text, digest, new.metadata, actor
    )  # fmt: skip
    due = document_id is not None
    if document_id is None:
        document_id, due = await _revise(db, tenant_id, collection_id, digest, new)
    if due:
        await _enqueue(db, tenant_id, document_id, actor=actor, request_id=request_id)
    return await get(db, tenant_id, document_id), due


async def get(db: Connection, tenant_id: UUID, document_id: UUID) -> Document:
    """Return a document. Raises: NotFound."""
    row = await db.fetchrow(SQL["documents.get"], tenant_id, document_id)
    if row is None:
        raise NotFound(f"there is no document {document_id}")
    return Document.from_row(row)


async def list_documents(
    db: Connection,
    tenant_id: UUID,
    *,
    before: UUID | None = None,
    limit: int = 50,
    collection: str | None = None,
    state: str | None = None,
    q: str | None = None,
) -> list[Document]:
    """Return documents, newest first, those older than *before*. *q* is a part of the title."""
    rows = await db.fetch(SQL["documents.list"], tenant_id, before, limit, collection, state, q)
    return [Document.from_row(row) for row in rows]


async def list_chunks(
    db: Connection, tenant_id: UUID, document_id: UUID, *, after: int = -1, limit: int = 50
) -> list[StoredChunk]:
    """Return a document's chunks in its order, those after the ordinal *after*."""
    rows = await db.fetch(SQL["documents.list_chunks"], tenant_id, document_id, after, limit)
    return [StoredChunk.from_row(row) for row in rows]


async def find_titles(db: Connection, tenant_id: UUID, document_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the titles of those of *document_ids* that are still there."""
    rows = await db.fetch(SQL["documents.find_titles"], tenant_id, list(document_ids))
    return {row["id"]: row["title"] for row in rows}


async def find_source(db: Connection, tenant_id: UUID, document_id: UUID) -> Source | None:
    """Return the text of a document as it came in, or None when it has been deleted."""
    row = await db.fetchrow(SQL["documents.get_source"], tenant_id, document_id)
    return Source(title=row["title"], mime=row["mime"], text=row["source"]) if row else None


async def reindex(
    db: Connection, tenant_id: UUID, document_id: UUID, *, actor: str, request_id: str | None = None
) -> Document:
    """Index a document once more, whatever its state. Raises: NotFound."""
    await get(db, tenant_id, document_id)
    await _enqueue(db, tenant_id, document_id, actor=actor, request_id=request_id)
    return await get(db, tenant_id, document_id)


async def delete(db: Connection, tenant_id: UUID, document_id: UUID, *, actor: str) -> list[tasks.Cancelled]:
    """Delete a document with its chunks, vectors, terms and cached vectors, and cancel its task; returns what runs must be stopped.

    Raises: NotFound, Unavailable while its task is being written to.
    """
    document = await get(db, tenant_id, document_id)
    stopped: list[tasks.Cancelled] = []
    if document.state == "pending" and document.task_id is not None:
        with contextlib.suppress(Conflict, NotFound):  # it may have ended by itself
            _, stopped = await tasks.cancel(
                db, tenant_id, document.task_id, actor=actor, reason="its document was deleted"
            )
    await db.execute(SQL["documents.delete_embeddings"], tenant_id, document_id, [])
    await db.execute(SQL["documents.delete_terms"], tenant_id, document_id)
    if await db.fetchval(SQL["documents.delete"], tenant_id, document_id) is None:
        raise NotFound(f"there is no document {document_id}")
    return stopped


async def begin_ingest(db: Connection, tenant_id: UUID, document_id: UUID, *, task_id: UUID) -> None:
    """Note which task is indexing a document: the one that created it, or one that was requeued."""
    await db.execute(SQL["documents.set_pending"], tenant_id, document_id, task_id)


async def replace_chunks(
    db: Connection, tenant_id: UUID, document_id: UUID, chunks: Sequence[Chunk], *, model: str
) -> bool:
    """Put *chunks* in the place of a document's old ones and mark it indexed; False when a vector is missing from the cache."""
    hashes = [text_hash(chunk.search_text) for chunk in chunks]
    await db.execute(SQL["documents.delete_embeddings"], tenant_id, document_id, hashes)
    await db.execute(SQL["documents.delete_terms"], tenant_id, document_id)
    await db.execute(SQL["documents.delete_chunks"], tenant_id, document_id)
    rows = [_as_json(chunk, digest) for chunk, digest in zip(chunks, hashes, strict=True)]
    embedded = 0
    for start in range(0, len(rows), CHUNKS_PER_STATEMENT):
        part = rows[start : start + CHUNKS_PER_STATEMENT]
        inserted = await db.fetchrow(SQL["documents.insert_chunks"], tenant_id, document_id, part, model)
        embedded += inserted["embedded"] if inserted else 0
    await db.execute(SQL["documents.set_indexed"], tenant_id, document_id, len(chunks))
    return embedded == len(chunks)


async def mark_failed(db: Connection, tenant_id: UUID, document_id: UUID, error: str) -> None:
    """Note why a document could not be indexed; what it had before stays searchable."""
    await db.execute(SQL["documents.set_failed"], tenant_id, document_id, error[:1000])


def _check(new: NewDocument) -> None:
    faults: list[Fault] = []
    if not 1 <= len(new.title.strip()) <= MAX_TITLE:
        faults.append(Fault("/title", f"must have 1 to {MAX_TITLE} characters"))
    if not new.text.strip():
        faults.append(Fault("/text", "must not be empty"))
    if new.mime not in parsing.FORMATS:
        faults.append(Fault("/mime", f"must be one of {', '.join(parsing.FORMATS)}"))
    if new.language not in LANGUAGES:
        faults.append(Fault("/language", f"must be one of {', '.join(LANGUAGES)}"))
    if len(orjson.dumps(new.metadata)) > MAX_METADATA_BYTES:
        faults.append(Fault("/metadata", f"must not be larger than {MAX_METADATA_BYTES} bytes"))
    faults += [
        Fault(pointer, "must not hold NUL")
        for pointer, text in (("/title", new.title), ("/text", new.text))
        if "\x00" in text
    ]
    if faults:
        raise Invalid("the document breaks a rule", faults=tuple(faults))
    if len(new.text) > MAX_CHARACTERS:
        raise TooLarge(f"the text has {len(new.text)} characters; at most {MAX_CHARACTERS} are taken")


async def _revise(
    db: Connection, tenant_id: UUID, collection_id: UUID, digest: bytes, new: NewDocument
) -> tuple[UUID, bool]:
    """Bring a document that is there already up to date; return its id and whether it must be indexed again."""
    row = await db.fetchrow(SQL["documents.lock_same"], tenant_id, collection_id, digest)
    if row is None:
        raise Conflict("the document was deleted at the same moment; send it again")
    document_id: UUID = row["id"]
    before = (row["title"], row["mime"], row["language"])
    after = (new.title, new.mime, new.language)
    if (*before, row["metadata"]) != (*after, new.metadata):
        await db.execute(SQL["documents.revise"], tenant_id, document_id, *after, new.metadata)
    failed = (await get(db, tenant_id, document_id)).state == "failed"
    return document_id, failed or before != after


async def _enqueue(
    db: Connection, tenant_id: UUID, document_id: UUID, *, actor: str, request_id: str | None
) -> None:
    task = await tasks.enqueue(
        db,
        tenant_id,
        tasks.NewTask(
            type=INGEST,
            payload={"document_id": str(document_id)},
            concurrency_key=f"document:{document_id}",  # two of them would replace each other's chunks
            concurrency_limit=1,
        ),
        actor=actor,
        request_id=request_id,
    )
    await db.execute(SQL["documents.set_pending"], tenant_id, document_id, task.id)


def _as_json(chunk: Chunk, digest: bytes) -> dict[str, Any]:
    return {
        "ordinal": chunk.ordinal,
        "start_offset": chunk.start,
        "end_offset": chunk.end,
        "headings": chunk.headings,
        "text": chunk.text,
        "terms_text": parsing.terms_text(chunk.search_text),
        "text_sha256": digest.hex(),
        "pieces": chunk.pieces,
    }
