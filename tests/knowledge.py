"""For tests that need documents which can be searched: the real model, the real task, each text embedded once per run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from server.database import Database
from server.worker_processes import WorkerProcesses
from services import documents, search
from services.documents import Document, NewDocument
from services.embeddings import Embedder
from services.search import Hit
from services.task_context import Run, TaskContext
from services.task_types import ingest_document

Admin = Any
ACTOR = "user:ada@example.org"


class RememberingEmbedder(Embedder):
    """The real embedder, loaded once per process; what it has embedded it remembers. `asked` is what this one was asked for."""

    _real = Embedder()
    _known: dict[str, list[float]] = {}  # noqa: RUF012 - shared on purpose

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.asked += texts
        new = [text for text in texts if text not in self._known]
        self._known.update(zip(new, await self._real.embed(new), strict=True))
        return [self._known[text] for text in texts]


async def take_in(
    database: Database, admin: Admin, tenant: UUID, new: NewDocument, *, embedder: Embedder | None = None
) -> Document:
    """Create a document and run its task to the end."""
    async with database.tenant(tenant, ACTOR) as db:
        document, due = await documents.create(db, tenant, new, actor=ACTOR)
    if due:
        await run_ingest(database, admin, tenant, document, embedder=embedder)
    async with database.tenant(tenant, ACTOR) as db:
        return await documents.get(db, tenant, document.id)


async def start_ingest(
    database: Database, admin: Admin, tenant: UUID, document: Document, *, embedder: Embedder | None = None
) -> TaskContext:
    """Claim the document's task as an executor would."""
    row = await admin.fetchrow(
        "UPDATE tasks SET state = 'running', executor_id = $2, fence = fence + 1, attempt = attempt + 1 WHERE id = $1 RETURNING *",
        document.task_id,
        uuid4(),
    )
    run = Run(
        id=row["id"], tenant_id=tenant, type=row["type"], type_version=row["type_version"], fence=row["fence"], attempt=row["attempt"],
        max_attempts=row["max_attempts"], seconds_left=60.0, created_by=row["created_by"], request_id=None, payload={},
    )  # fmt: skip
    return TaskContext(
        run,
        database=database,
        embedder=embedder or RememberingEmbedder(),
        processes=WorkerProcesses(limit=1),
    )


async def close(context: TaskContext) -> None:
    """End what start_ingest began."""
    await context.close()
    assert isinstance(context._processes, WorkerProcesses)
    await context._processes.close()


async def run_ingest(
    database: Database, admin: Admin, tenant: UUID, document: Document, *, embedder: Embedder | None = None
) -> Any:
    """Run the document's task and end it, succeeded or failed; return its result or raise its error."""
    context = await start_ingest(database, admin, tenant, document, embedder=embedder)
    state = "failed"
    try:
        result = await ingest_document.run(context, ingest_document.Payload(document_id=document.id))
        state = "succeeded"
        return result
    finally:
        await close(context)
        await admin.execute(
            "SELECT app.end_tasks(ARRAY[$1::uuid], $2, $2, NULL, 'test', NULL)", context.id, state
        )


async def ask(database: Database, tenant: UUID, query: str, **more: Any) -> list[Hit]:
    """Search as the API does: embed the query outside the transaction, then ask."""
    vector = (await RememberingEmbedder().embed([query]))[0]
    async with database.tenant(tenant, ACTOR) as db:
        return await search.search(db, tenant_id=tenant, query=query, embedding=vector, **more)
