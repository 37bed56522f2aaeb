"""Documents for programs: hand in as JSON or as a file, list, look at, read the chunks, index again, delete."""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePath
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from aiohttp.web_request import FileField
from pydantic import Field, TypeAdapter, ValidationError

from routes import keys
from routes.api import reading
from routes.api.kernel import (
    Answer,
    Body,
    Call,
    Int,
    JSONObject,
    Page,
    PageQuery,
    Text,
    View,
    operation,
)
from routes.api.tasks import TaskSummary
from services import documents, faults, tasks
from services.documents import Document
from services.errors import Fault, Invalid, NotFound
from services.task_context import Connection

routes = web.RouteTableDef()

MAX_BYTES = 8 * 1024 * 1024  # room for the longest text, however they are written
QUEUE = "documents"

Mime = Literal["text/markdown", "text/plain", "text/html"]
State = Literal["pending", "indexed", "failed"]
CollectionName = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="It is made when it does not exist.")
]

_SUFFIXES: dict[str, Mime] = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
}


class NewDocument(Body):
    """A text to be found."""

    collection: CollectionName
    title: Annotated[Text, Field(min_length=1, max_length=documents.MAX_TITLE)]
    text: Annotated[Text, Field(min_length=1)]
    mime: Mime = "text/markdown"
    language: Text = Field(
        default="english", description="Whose word stems and stop words apply; `simple` has none."
    )
    metadata: JSONObject = Field(default_factory=dict, description="Yours; searches can filter by it.")


class DocumentView(View):
    """A document without its text."""

    id: UUID
    collection: str
    title: str
    mime: str
    language: str
    metadata: JSONObject
    state: State
    error: str | None = Field(description="Why it could not be indexed.")
    task_id: UUID | None = Field(description="The latest task that indexes it.")
    chunk_count: int
    characters: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    indexed_at: datetime | None


class Accepted(View):
    """The document and the task that makes it searchable."""

    document: DocumentView
    task: TaskSummary | None = Field(description="Null when the task has been forgotten since.")


class DocumentFilter(PageQuery):
    """Which documents."""

    collection: Text | None = Field(default=None, max_length=63)
    state: State | None = None
    q: Text | None = Field(default=None, min_length=1, max_length=200, description="Part of the title.")


class ChunkView(View):
    """A stretch of a document as it is searched and cited."""

    id: UUID
    ordinal: int
    start_offset: int = Field(description="Characters into the document's plain text.")
    end_offset: int
    headings: list[str] = Field(description="Above it, outermost first.")
    text: str
    pieces: Int = Field(description="Word pieces the embedding model reads, title and headings included.")


_FORM: JSONObject = {
    "type": "object",
    "required": ["collection", "file"],
    "properties": {
        "collection": {"type": "string"},
        "file": {
            "type": "string",
            "format": "binary",
            "description": "UTF-8; .md, .html and everything else as plain text.",
        },
        "title": {"type": "string", "description": "The file's name when left out."},
        "language": {"type": "string"},
        "metadata": {"type": "string", "description": "A JSON object."},
    },
}


@operation(
    routes,
    "POST",
    "/api/v1/documents",
    name="documents.create",
    summary="Hand in a document",
    description="It is searchable when its task has succeeded. The same text in the same collection is the same document: "
    "sent again unchanged, nothing happens; with another title, format or language it is indexed anew.",
    role="author",
    answer=Accepted,
    status=202,
    idempotent=True,
    also_accepts={"multipart/form-data": _FORM},
    max_bytes=MAX_BYTES,
)
async def create(call: Call, db: Connection, body: NewDocument | None) -> Answer:
    new = documents.NewDocument(**dict(body or await _read_form(call.request)))
    document, due = await documents.create(
        db, call.tenant_id, new, actor=call.actor, request_id=keys.request_id(call.request)
    )
    if due:
        call.wake(QUEUE)
    return await _accepted(call, db, document)


@operation(
    routes,
    "GET",
    "/api/v1/documents",
    name="documents.list",
    summary="List documents, newest first",
    role="viewer",
    answer=Page[DocumentView],
)
async def list_documents(call: Call, db: Connection, query: DocumentFilter) -> JSONObject:
    after = call.after(query)
    rows = await documents.list_documents(
        db,
        call.tenant_id,
        before=UUID(str(after[0])) if after else None,
        limit=query.limit + 1,
        collection=query.collection,
        state=query.state,
        q=query.q,
    )
    return call.page(rows, query, lambda document: (document.id,))


@operation(
    routes,
    "GET",
    "/api/v1/documents/{document_id}",
    name="documents.get",
    summary="Look at a document",
    role="viewer",
    answer=DocumentView,
)
async def get(call: Call, db: Connection, document_id: UUID) -> Document:
    return await documents.get(db, call.tenant_id, document_id)


@operation(
    routes,
    "GET",
    "/api/v1/documents/{document_id}/chunks",
    name="documents.list_chunks",
    summary="Read a document's chunks in their order",
    role="viewer",
    answer=Page[ChunkView],
)
async def list_chunks(call: Call, db: Connection, document_id: UUID, query: PageQuery) -> JSONObject:
    await documents.get(db, call.tenant_id, document_id)
    after = call.after(query)
    rows = await documents.list_chunks(
        db, call.tenant_id, document_id, after=int(str(after[0])) if after else -1, limit=query.limit + 1
    )
    return call.page(rows, query, lambda chunk: (chunk.ordinal,))


@operation(
    routes,
    "POST",
    "/api/v1/documents/{document_id}/reindex",
    name="documents.reindex",
    summary="Index a document once more",
    description="What has not changed is not embedded again.",
    role="author",
    answer=Accepted,
    status=202,
    idempotent=True,
)
async def reindex(call: Call, db: Connection, document_id: UUID) -> Answer:
    document = await documents.reindex(
        db, call.tenant_id, document_id, actor=call.actor, request_id=keys.request_id(call.request)
    )
    call.wake(QUEUE)
    return await _accepted(call, db, document)


@operation(
    routes,
    "DELETE",
    "/api/v1/documents/{document_id}",
    name="documents.delete",
    summary="Delete a document with everything made from it",
    description="Its chunks, vectors and search entries go with it, and its task is cancelled. Texts that cite it keep the quotes.",
    role="author",
    status=204,
)
async def delete(call: Call, db: Connection, document_id: UUID) -> None:
    stopped = await documents.delete(db, call.tenant_id, document_id, actor=call.actor)
    stop = call.request.app[keys.CANCELLED]
    call.after_commit(lambda: stop(stopped))


async def _accepted(call: Call, db: Connection, document: Document) -> Answer:
    task = None
    if document.task_id is not None:
        try:
            task = await tasks.get(db, call.tenant_id, document.task_id)
        except NotFound:
            task = None  # its month of history has been dropped
    return Answer(
        {"document": document, "task": task}, location=call.url("documents.get", document_id=document.id)
    )


async def _read_form(request: web.Request) -> NewDocument:
    """Return the document of a form with a file in it. Raises: Invalid, Malformed."""
    form = await request.post()
    try:
        given: dict[str, Any] = {}
        for name, value in form.items():
            if name in given or (name == "file") != isinstance(value, FileField):
                raise _fault(name, "must be one file" if name == "file" else "must be one text")
            given[name] = value
        return _validate(given)
    finally:
        for value in form.values():
            if isinstance(value, FileField):
                value.file.close()


def _validate(given: dict[str, Any]) -> NewDocument:
    upload: FileField | None = given.pop("file", None)
    if upload is None:
        raise _fault("file", "is required")
    file = PurePath(upload.filename or "untitled")
    values = {
        "title": file.stem[: documents.MAX_TITLE],
        "mime": _SUFFIXES.get(file.suffix.lower(), "text/plain"),
    }
    values |= given | {"text": _text(upload)}
    if "metadata" in given:
        values["metadata"] = reading.parse_json(given["metadata"].encode())
    try:
        return _FORM_READER.validate_python(values)
    except ValidationError as exc:
        raise reading.invalid(exc, _FORM_READER) from None


_FORM_READER = TypeAdapter(NewDocument)


def _text(upload: FileField) -> str:
    try:
        return upload.file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _fault("file", "is not text in UTF-8") from None


def _fault(name: str, message: str) -> Invalid:
    return Invalid(f"/{name} {message}", faults=(Fault(faults.pointer((name,)), message),))
