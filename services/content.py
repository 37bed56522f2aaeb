"""Content items and their immutable versions.

An item's state speaks of its latest version; what readers see is in services/publications.py. Versions are numbered 1, 2, 3 …
without gaps, which the database holds: each refers to the one before it. Whatever changes a text makes a new version.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

import asyncpg

from services import checks, content_text, markdown, slugs
from services.access import Principal
from services.content_states import TRANSITIONS, State
from services.content_text import Changes, Text
from services.errors import Conflict, Fault, Invalid, NotFound, PreconditionFailed
from sql import SQL, Connection

log = logging.getLogger(__name__)

Kind = Literal["draft", "refine", "edit", "restore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentItem:
    """One article with its versions. `live_number` and `live_slug` say what readers see, if anything."""

    id: UUID
    title: str
    language: str
    state: State
    latest_number: int
    task_id: UUID | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    live_number: int | None
    live_slug: str | None

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        return cls(**{field.name: row[field.name] for field in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCitation:
    """Marker [1] of a text quotes a passage. The title and the quote outlive the document."""

    marker: int
    chunk_id: UUID | str | None
    document_id: UUID | str | None
    document_title: str
    quote: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation(NewCitation):
    """A citation as it stands in a version."""

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        return cls(**{field.name: row[field.name] for field in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How a version comes to be: everything about it but its words."""

    kind: Kind
    actor: str
    note: str = ""
    task_id: UUID | None = None
    prompt_version_id: UUID | None = None
    model: str | None = None
    retrieval: dict[str, Any] | None = None
    scores: dict[str, Any] | None = None
    checks: list[dict[str, Any]] | None = None
    citations: Sequence[NewCitation] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentVersion:
    """An immutable text and how it came to be. `author` answers for it; `created_by` wrote the row (`task:<id>` or a person)."""

    id: UUID
    content_id: UUID
    number: int
    kind: Kind
    parent_number: int | None
    title: str
    slug: str
    summary: str
    body_md: str
    tags: tuple[str, ...]
    language: str
    note: str
    content_hash: str
    prompt_version_id: UUID | None
    model: str | None
    retrieval: dict[str, Any]
    scores: dict[str, Any]
    checks: list[dict[str, Any]]
    task_id: UUID | None
    fence: int | None
    author: str
    created_by: str
    created_at: datetime

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        values = {field.name: row[field.name] for field in fields(cls)}
        return cls(**{**values, "tags": tuple(row["tags"])})

    @property
    def text(self) -> Text:
        """The part that readers get."""
        return Text(**{field.name: getattr(self, field.name) for field in fields(Text)})


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionHead:
    """A version without its text, for lists. `review_state` is of the last review of exactly this version."""

    id: UUID
    number: int
    kind: Kind
    parent_number: int | None
    title: str
    note: str
    content_hash: str
    model: str | None
    scores: dict[str, Any]
    checks: list[dict[str, Any]]
    author: str
    created_by: str
    created_at: datetime
    review_state: str | None
    live: bool

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        return cls(**{field.name: row[field.name] for field in fields(cls)})


async def create_item(
    db: Connection, *, tenant_id: UUID, task_id: UUID | None, title: str, language: str, actor: str
) -> ContentItem:
    """Make an item without a version yet. Raises: Invalid."""
    text = content_text.clean(
        Text(title=title, slug="item", summary="", body_md="-", tags=(), language=language)
    )
    item_id = await db.fetchval(
        SQL["content.create_item"], tenant_id, text.title, text.language, task_id, actor
    )
    return await get(db, tenant_id, item_id)


async def add_version(
    db: Connection,
    *,
    tenant_id: UUID,
    content_id: UUID,
    kind: Kind,
    title: str,
    body_md: str,
    language: str,
    actor: str,
    summary: str = "",
    tags: Iterable[str] = (),
    slug: str | None = None,
    note: str = "",
    task_id: UUID | None = None,
    prompt_version_id: UUID | None = None,
    model: str | None = None,
    retrieval: dict[str, Any] | None = None,
    scores: dict[str, Any] | None = None,
    checks: list[dict[str, Any]] | None = None,
    citations: Sequence[NewCitation] = (),
) -> ContentVersion:
    """Append what a task wrote as the next version. Without a *slug* the item keeps the one it has, else one is made from the
    title; where another item has it, a number is put behind it. Raises: NotFound, Invalid.
    """
    item = await lock(db, tenant_id, content_id)
    latest = await get_version(db, tenant_id, content_id, item.latest_number) if item.latest_number else None
    wanted = slug or (latest.slug if latest else content_text.slugify(title)) or f"item-{content_id.hex[-8:]}"
    text = content_text.clean(
        Text(title=title, slug=wanted, summary=summary, body_md=body_md, tags=tuple(tags), language=language)
    )
    text = replace(text, slug=await slugs.take_free(db, tenant_id, content_id, text.slug))
    making = Making(
        kind=kind, actor=actor, note=note, task_id=task_id, prompt_version_id=prompt_version_id, model=model,
        retrieval=retrieval, scores=scores, checks=checks, citations=citations,
    )  # fmt: skip
    return await _append(db, tenant_id, item, text, making, parent=latest.number if latest else None)


async def edit(
    db: Connection,
    principal: Principal,
    content_id: UUID,
    *,
    base_version: int,
    changes: Changes,
    note: str = "",
) -> ContentVersion:
    """Save a person's changes to version *base_version* as the next version, which needs a decision of its own.

    The same words again are no new version: the latest one is returned, with its approval. A citation stays where its marker
    still stands in the text. An open review moves on to the new version.
    Raises: PreconditionFailed when *base_version* is not the latest, Conflict while its task writes, Invalid, NotFound, Forbidden.
    """
    principal.require("author")
    item, base = await _lock_base(db, principal.tenant_id, content_id, base_version)
    text = changes.apply(base.text)
    if (
        text.slug != base.slug
        and await slugs.take(db, principal.tenant_id, content_id, text.slug) != content_id
    ):
        message = "is the address of another text"
        raise Invalid(f"slug {message}", faults=(Fault("/slug", message),))
    return await _save(db, principal, item, base, text, kind="edit", source=base, note=note)


async def restore(
    db: Connection, principal: Principal, content_id: UUID, *, number: int, base_version: int, note: str = ""
) -> ContentVersion:
    """Make the words of version *number* the next version; nothing is taken back. Raises: as `edit`."""
    principal.require("author")
    item, base = await _lock_base(db, principal.tenant_id, content_id, base_version)
    source = await get_version(db, principal.tenant_id, content_id, number)
    note = note or f"restored from version {number}"
    return await _save(db, principal, item, base, source.text, kind="restore", source=source, note=note)


async def get(db: Connection, tenant_id: UUID, content_id: UUID) -> ContentItem:
    """Return the item. Raises: NotFound."""
    row = await db.fetchrow(SQL["content.get"], tenant_id, content_id)
    if row is None:
        raise NotFound(f"no content item {content_id}")
    return ContentItem.from_row(row)


async def lock(db: Connection, tenant_id: UUID, content_id: UUID) -> ContentItem:
    """Return the item, locked until the transaction ends; its task, if any, is locked before. Raises: NotFound."""
    row = await db.fetchrow(SQL["content.lock"], tenant_id, content_id)
    if row is None:
        raise NotFound(f"no content item {content_id}")
    return ContentItem.from_row(row)


async def list_items(
    db: Connection,
    tenant_id: UUID,
    *,
    state: State | None = None,
    title: str | None = None,
    task_id: UUID | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> list[ContentItem]:
    """Return items, newest first, those made before item *before*."""
    rows = await db.fetch(SQL["content.list"], tenant_id, state, title, task_id, before, limit)
    return [ContentItem.from_row(row) for row in rows]


async def count_states(db: Connection, tenant_id: UUID) -> dict[str, int]:
    """Return how many items are in each state; a state without items is left out."""
    return {row["state"]: row["items"] for row in await db.fetch(SQL["content.count_states"], tenant_id)}


async def get_version(db: Connection, tenant_id: UUID, content_id: UUID, number: int) -> ContentVersion:
    """Return a version by its number. Raises: NotFound."""
    row = await db.fetchrow(SQL["content.get_version"], tenant_id, content_id, number)
    if row is None:
        raise NotFound(f"content item {content_id} has no version {number}")
    return ContentVersion.from_row(row)


async def get_version_by_id(db: Connection, tenant_id: UUID, version_id: UUID) -> ContentVersion:
    """Return a version by its id. Raises: NotFound."""
    row = await db.fetchrow(SQL["content.get_version_by_id"], tenant_id, version_id)
    if row is None:
        raise NotFound(f"no content version {version_id}")
    return ContentVersion.from_row(row)


async def list_versions(
    db: Connection, tenant_id: UUID, content_id: UUID, *, below: int | None = None, limit: int = 50
) -> list[VersionHead]:
    """Return versions without their texts, newest first, those numbered below *below*."""
    rows = await db.fetch(SQL["content.list_versions"], tenant_id, content_id, below, limit)
    return [VersionHead.from_row(row) for row in rows]


async def list_citations(db: Connection, tenant_id: UUID, version_id: UUID) -> list[Citation]:
    """Return what a version quotes, by marker."""
    return [
        Citation.from_row(row) for row in await db.fetch(SQL["content.list_citations"], tenant_id, version_id)
    ]


async def list_citing(
    db: Connection, tenant_id: UUID, document_id: UUID, *, limit: int = 50
) -> list[tuple[UUID, str, State]]:
    """Return (id, title, state) of the items whose latest or live version quotes a document."""
    rows = await db.fetch(SQL["content.list_citing"], tenant_id, document_id, limit)
    return [(row["id"], row["title"], row["state"]) for row in rows]


async def move(db: Connection, tenant_id: UUID, content_id: UUID, verb: str) -> State:
    """Change the state of an item by *verb* of TRANSITIONS. Raises: Conflict where the table does not allow it."""
    step = TRANSITIONS[verb]
    state = await db.fetchval(SQL["content.move"], tenant_id, content_id, list(step.sources), step.target)
    if state is None:
        item = await get(db, tenant_id, content_id)
        raise Conflict(f"content item {content_id} is {item.state}: {verb.replace('_', ' ')} is not possible")
    return step.target


async def _lock_base(
    db: Connection, tenant_id: UUID, content_id: UUID, base_version: int
) -> tuple[ContentItem, ContentVersion]:
    item = await lock(db, tenant_id, content_id)
    if await db.fetchval(SQL["content.find_writer"], tenant_id, item.task_id):
        raise Conflict(
            "its task is still writing: edit it when its review is open, or cancel the task",
            slug="being-written",
        )
    if base_version != item.latest_number:
        raise PreconditionFailed(
            f"version {base_version} is not the latest: that is version {item.latest_number}"
        )
    return item, await get_version(db, tenant_id, content_id, base_version)


async def _save(
    db: Connection, principal: Principal, item: ContentItem, base: ContentVersion, text: Text, *, kind: Kind,
    source: ContentVersion, note: str,
) -> ContentVersion:  # fmt: skip
    """Append what a person wrote, with the citations of *source* that are still used, checked anew."""
    if text.content_hash == base.content_hash:
        return base
    used = set(markdown.markers(text.body_md))
    citations = [c for c in await list_citations(db, principal.tenant_id, source.id) if c.marker in used]
    making = Making(
        kind=kind, actor=principal.actor, note=note, citations=citations,
        checks=await _check(db, principal.tenant_id, text, citations),
    )  # fmt: skip
    version = await _append(db, principal.tenant_id, item, text, making, parent=source.number)
    facts = {"content_id": str(item.id), "version": version.number, "kind": kind, "actor": principal.actor}
    log.info("content was edited", extra=facts)
    return version


async def _check(
    db: Connection, tenant_id: UUID, text: Text, citations: Sequence[NewCitation]
) -> list[dict[str, Any]]:
    chunk_ids = [citation.chunk_id for citation in citations if citation.chunk_id is not None]
    rows = await db.fetch(SQL["content.list_sources"], tenant_id, chunk_ids)
    sources = {str(row["id"]): row["text"] for row in rows}
    found = await asyncio.to_thread(checks.run, text.body_md, citations=citations, sources=sources)
    return checks.as_json(found)


async def _append(
    db: Connection, tenant_id: UUID, item: ContentItem, text: Text, making: Making, *, parent: int | None
) -> ContentVersion:
    """Write the next version of the locked *item*. A review that is open asks about the new version from here on."""
    step = TRANSITIONS["supersede" if item.state == "in_review" else "revise"]
    row = await db.fetchrow(
        SQL["content.insert_version"], tenant_id, item.id, step.target, making.kind, parent, text.title, text.slug, text.summary,
        text.body_md, text.tags, text.language, making.note, making.prompt_version_id, making.model, making.retrieval or {},
        making.scores or {}, making.checks or [], making.task_id, making.actor,
    )  # fmt: skip
    assert row is not None
    columns = ("marker", "chunk_id", "document_id", "document_title", "quote")
    cited = [[getattr(citation, column) for citation in making.citations] for column in columns]
    await db.execute(SQL["content.insert_citations"], tenant_id, row["id"], *cited)
    if item.state == "in_review":
        await db.execute(
            SQL["reviews.supersede"],
            tenant_id,
            item.id,
            row["id"],
            making.actor,
            f"replaced by version {row['number']}",
        )
    return await get_version_by_id(db, tenant_id, row["id"])
