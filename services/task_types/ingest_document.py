"""Makes a document searchable: parse and cut it, embed what is new, then swap all its chunks in one transaction.

Nothing but the swap is seen by searches: until it commits, they find what the document was before. A vector lands in the
cache as soon as it is computed, so a run that is repeated goes on where the last one ended.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from services import chunking, documents, embeddings
from services.chunking import Chunk
from services.errors import Invalid, Unavailable
from services.task_context import TaskContext
from services.task_types import Permanent, Retryable, TaskType
from sql import Connection

BATCH = 16  # chunks between two reports of progress, about a second
MAX_CHUNKS = 1000  # prose of the greatest length gives 400
PARSE_CPU_SECONDS, PARSE_MB = 60, 512  # the worst of the greatest length takes 2.5 s and 110 MB
SWAP_SECONDS = 15.0  # prose of the greatest length takes 2, and on a machine under heavy load 5


class Payload(BaseModel):
    """Which document to index; its text is read from the database."""

    model_config = ConfigDict(extra="forbid")

    document_id: UUID


async def run(task: TaskContext, payload: Payload) -> dict[str, Any]:
    """Index the document; a fault in the document itself is noted at the document and ends the task."""

    async def begin(db: Connection) -> None:
        await documents.begin_ingest(db, task.tenant_id, payload.document_id, task_id=task.id)

    await task.write("begin", begin)
    try:
        chunks = await _read(task, payload.document_id)
        computed = await _embed(task, chunks)
    except (Invalid, Unavailable, Permanent) as exc:
        if isinstance(exc, Unavailable) and exc.slug != embeddings.NO_MODEL:
            raise  # the database, say: another run may find it again
        reason = str(exc)

        async def fail(db: Connection) -> None:
            await documents.mark_failed(db, task.tenant_id, payload.document_id, reason)

        await task.write("fail", fail)
        raise Permanent(reason) from exc
    await _swap(task, payload.document_id, chunks)
    return {"chunks": len(chunks), "embedded": computed, "reused": len(chunks) - computed}


async def _read(task: TaskContext, document_id: UUID) -> list[Chunk]:
    """Return the document's chunks. Raises: Invalid when it has no text or too much, Permanent when it is gone."""
    async with task.database.tenant(task.tenant_id, task.actor) as db:
        source = await documents.find_source(db, task.tenant_id, document_id)
    if source is None:
        raise Permanent("the document has been deleted")
    await task.progress(0.02, "reading")
    chunks = await task.in_process(
        chunking.cut,
        source.text,
        source.mime,
        source.title,
        cpu_seconds=PARSE_CPU_SECONDS,
        memory_mb=PARSE_MB,
    )
    if len(chunks) > MAX_CHUNKS:
        raise Invalid(
            f"the document falls into {len(chunks)} chunks, more than {MAX_CHUNKS}: hand it in as several"
        )
    return chunks


async def _embed(task: TaskContext, chunks: list[Chunk]) -> int:
    """Make sure that every chunk has its vector; return how many had to be computed. No step: the cache is its checkpoint."""
    computed = 0
    for start in range(0, len(chunks), BATCH):
        computed += await embeddings.embed_cached(
            task.database,
            task.embedder,
            tenant_id=task.tenant_id,
            actor=task.actor,
            texts=[chunk.search_text for chunk in chunks[start : start + BATCH]],
        )
        done = min(start + BATCH, len(chunks))
        await task.progress(0.05 + 0.85 * done / len(chunks), f"{done} of {len(chunks)} chunks embedded")
    return computed


async def _swap(task: TaskContext, document_id: UUID, chunks: list[Chunk]) -> None:
    async def swap(db: Connection) -> dict[str, int]:
        complete = await documents.replace_chunks(
            db, task.tenant_id, document_id, chunks, model=task.embedder.model
        )
        if not complete:
            # Another document with the same text was deleted in between and took the cached vector with it.
            raise Retryable("a vector has gone from the cache before it was used")
        return {"chunks": len(chunks)}

    await task.write("index", swap, seconds=SWAP_SECONDS)


TASK_TYPE = TaskType(
    name="ingest_document", payload=Payload, run=run, queue="documents", timeout=timedelta(minutes=30)
)
