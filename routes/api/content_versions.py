"""The versions of content items for programs: read, compare, edit, restore."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import ConfigDict, Field

from routes.api.kernel import (
    Answer,
    Body,
    Call,
    Int,
    JSONObject,
    Page,
    PageQuery,
    Query,
    QueryInt,
    Text,
    View,
    operation,
)
from services import content, content_text, diff, reviews
from services.content import ContentVersion
from services.content_text import Changes
from services.task_context import Connection

routes = web.RouteTableDef()

Number = Annotated[Int, Field(ge=1, le=999_999_999)]
QueryNumber = Annotated[QueryInt, Field(ge=1, le=999_999_999)]
Note = Annotated[
    Text, Field(max_length=2000, description="What was changed, for those who read the history.")
]
_BIG_BODY = 2 * 1024 * 1024  # 200,000 characters, escaped
_COMPARED = ("title", "slug", "summary", "body_md", "tags", "language")


class Between(Query):
    """Which two versions; `from` is the older one."""

    from_: QueryNumber = Field(alias="from")
    to: QueryNumber


class Edit(Body):
    """What changes; what is left out stays as it is."""

    title: Text | None = Field(default=None, max_length=content_text.MAX_TITLE)
    slug: Text | None = Field(default=None, max_length=content_text.MAX_SLUG)
    summary: Text | None = Field(default=None, max_length=content_text.MAX_SUMMARY)
    body_md: Text | None = Field(default=None, max_length=content_text.MAX_BODY)
    tags: list[Annotated[Text, Field(max_length=100)]] | None = Field(
        default=None, max_length=content_text.MAX_TAGS
    )
    language: Text | None = Field(default=None, max_length=35)
    note: Note = ""
    addresses: list[UUID] = Field(
        default=[], max_length=100, description="Feedback that this version takes up."
    )


class Restore(Body):
    """Which version's words become the next version."""

    version: Number
    note: Note = ""


class VersionSummary(View):
    """A version without its text."""

    id: UUID
    version: int = Field(validation_alias="number")
    kind: Literal["draft", "refine", "edit", "restore"]
    parent: int | None = Field(validation_alias="parent_number", description="The version it was made from.")
    title: str
    note: str
    content_hash: str = Field(
        description="SHA-256 of the canonical JSON of title, slug, summary, body_md, tags and language."
    )
    model: str | None
    scores: JSONObject
    checks: list[JSONObject]
    author: str = Field(description="Who answers for it: of a generated text, whoever created its task.")
    created_by: str
    created_at: datetime


class VersionEntry(VersionSummary):
    """A version in the list of an item's versions."""

    review_state: str | None = Field(description="Of the last review of exactly this version.")
    live: bool


class CitationView(View):
    """What a marker such as [1] stands for."""

    marker: int
    quote: str
    document_title: str
    document_id: UUID | None
    chunk_id: UUID | None


class VersionView(VersionSummary):
    """A version, and how it came to be."""

    content_id: UUID
    slug: str
    summary: str
    body_md: str
    tags: list[str]
    language: str
    prompt_version_id: UUID | None
    retrieval: JSONObject
    task_id: UUID | None
    fence: int | None = Field(description="The number of the run that wrote it.")


class SegmentView(View):
    """A piece of text that stands in both versions, only in the old one (delete) or only in the new one (insert)."""

    operation: Literal["equal", "delete", "insert"]
    text: str


class FieldDiff(View):
    """What changed in one field."""

    field: str
    changed: bool
    segments: list[SegmentView]


class DiffView(View):
    """What changed between two versions, word by word."""

    model_config = ConfigDict(serialize_by_alias=True)

    from_: int = Field(alias="from")
    to: int
    words_added: int
    words_removed: int
    complete: bool = Field(description="False where passages of long texts are shown as replaced in full.")
    fields: list[FieldDiff]


@operation(
    routes,
    "GET",
    "/api/v1/content/{content_id}/versions",
    name="content.list_versions",
    summary="List the versions of an item, newest first",
    role="viewer",
    answer=Page[VersionEntry],
)
async def list_versions(call: Call, db: Connection, content_id: UUID, query: PageQuery) -> JSONObject:
    await content.get(db, call.tenant_id, content_id)
    after = call.after(query)
    below = int(str(after[0])) if after else None
    rows = await content.list_versions(db, call.tenant_id, content_id, below=below, limit=query.limit + 1)
    return call.page(rows, query, lambda head: (head.number,))


@operation(
    routes,
    "GET",
    "/api/v1/content/{content_id}/versions/{version}",
    name="content.get_version",
    summary="Read a version",
    role="viewer",
    answer=VersionView,
)
async def get_version(call: Call, db: Connection, content_id: UUID, version: int) -> Answer:
    found = await content.get_version(db, call.tenant_id, content_id, version)
    return Answer(found, etag=found.content_hash)


@operation(
    routes,
    "GET",
    "/api/v1/content/{content_id}/versions/{version}/citations",
    name="content.list_citations",
    summary="Read what a version cites, by marker",
    role="viewer",
    answer=Page[CitationView],
)
async def list_citations(call: Call, db: Connection, content_id: UUID, version: int) -> JSONObject:
    found = await content.get_version(db, call.tenant_id, content_id, version)
    return {"items": await content.list_citations(db, call.tenant_id, found.id), "next_cursor": None}


@operation(
    routes,
    "GET",
    "/api/v1/content/{content_id}/diff",
    name="content.diff",
    summary="Compare two versions word by word",
    role="viewer",
    answer=DiffView,
)
async def compare(call: Call, content_id: UUID, query: Between) -> JSONObject:
    async with call.database.tenant(call.tenant_id, call.actor) as db:
        old = await content.get_version(db, call.tenant_id, content_id, query.from_)
        new = await content.get_version(db, call.tenant_id, content_id, query.to)
    found = await asyncio.to_thread(_compare, old, new)
    return {
        "from": old.number,
        "to": new.number,
        "words_added": sum(part.words_added for _, part in found),
        "words_removed": sum(part.words_removed for _, part in found),
        "complete": all(part.complete for _, part in found),
        "fields": [
            {"field": name, "changed": part.changed, "segments": part.segments} for name, part in found
        ],
    }


@operation(
    routes,
    "POST",
    "/api/v1/content/{content_id}/versions",
    name="content.edit",
    summary="Edit: make a new version by hand",
    description="A new version needs a decision of its own; an open review moves on to it. Where nothing changed the answer is "
    "the latest version itself, with status 200.",
    role="author",
    answer=VersionView,
    status=201,
    idempotent=True,
    if_match=True,
    errors=(409,),
    max_bytes=_BIG_BODY,
)
async def edit(call: Call, db: Connection, content_id: UUID, body: Edit) -> Answer:
    base = await _matched(call, db, content_id)
    version = await content.edit(
        db,
        call.principal,
        content_id,
        base_version=base,
        changes=Changes(
            title=body.title,
            slug=body.slug,
            summary=body.summary,
            body_md=body.body_md,
            tags=None if body.tags is None else tuple(body.tags),
            language=body.language,
        ),
        note=body.note,
    )
    await reviews.mark_addressed(
        db, tenant_id=call.tenant_id, content_id=content_id, feedback_ids=body.addresses, version=version.number, actor=call.actor
    )  # fmt: skip
    return _written(call, version, base)


@operation(
    routes,
    "POST",
    "/api/v1/content/{content_id}/restore",
    name="content.restore",
    summary="Make the words of an older version the next version",
    role="author",
    answer=VersionView,
    status=201,
    idempotent=True,
    if_match=True,
    errors=(409,),
)
async def restore(call: Call, db: Connection, content_id: UUID, body: Restore) -> Answer:
    base = await _matched(call, db, content_id)
    version = await content.restore(
        db, call.principal, content_id, number=body.version, base_version=base, note=body.note
    )
    return _written(call, version, base)


async def _matched(call: Call, db: Connection, content_id: UUID) -> int:
    """Return the number of the latest version, which If-Match must name; the service sees again, under the lock."""
    item = await content.get(db, call.tenant_id, content_id)
    call.require_match(str(item.latest_number))
    return item.latest_number


def _written(call: Call, version: ContentVersion, base: int) -> Answer:
    location = call.url("content.get_version", content_id=version.content_id, version=version.number)
    headers = {"ETag": f'"{version.number}"'}
    return Answer(version, location=location, headers=headers, status=200 if version.number == base else 201)


def _compare(old: ContentVersion, new: ContentVersion) -> list[tuple[str, diff.Diff]]:
    return [(name, diff.compare(_shown(old, name), _shown(new, name))) for name in _COMPARED]


def _shown(version: ContentVersion, name: str) -> str:
    value: Any = getattr(version, name)
    return ", ".join(value) if name == "tags" else str(value)
