"""What readers see: the approved version of an item, under an address that keeps working, found by full-text search.

The database lets nothing be published without an approving decision for exactly that version.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Self
from uuid import UUID

import asyncpg

from services import content, markdown
from services.access import Principal
from services.errors import Conflict, NotFound
from sql import SQL, Connection

log = logging.getLogger(__name__)

SEARCH_DEPTH = (
    500  # of each language so many of the newest matches are ranked, and as many of those in titles
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is live of an item. `first_published_at` orders the site, `published_at` is of the version that is live."""

    content_id: UUID
    version_id: UUID
    slug: str
    title: str
    summary: str
    tags: tuple[str, ...]
    language: str
    first_published_at: datetime
    published_at: datetime

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        values = {field.name: row[field.name] for field in fields(cls)}
        return cls(**{**values, "tags": tuple(row["tags"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Post(Publication):
    """A publication with its text. Where its `slug` is not the one asked for, the reader is sent on."""

    body_md: str
    content_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A post that matches a search. In `excerpt` each match stands between U+0002 and U+0003."""

    content_id: UUID
    slug: str
    title: str
    summary: str
    tags: tuple[str, ...]
    language: str
    first_published_at: datetime
    published_at: datetime
    score: float
    excerpt: str


async def publish_approved(
    db: Connection, *, tenant_id: UUID, version_id: UUID, decision_id: UUID, actor: str
) -> str:
    """Make an approved version live, in the transaction of its approval. Returns its path on the site. Raises: Conflict."""
    version = await content.get_version_by_id(db, tenant_id, version_id)
    body_text = await asyncio.to_thread(markdown.plain_text, version.body_md)
    await content.move(db, tenant_id, version.content_id, "publish")
    await db.execute(SQL["publications.publish"], tenant_id, version_id, decision_id, body_text, actor)
    await db.execute(SQL["publications.delete_tags"], tenant_id, version.content_id)
    await db.execute(SQL["publications.insert_tags"], tenant_id, version.content_id)
    return path(version.slug)


async def publish(db: Connection, principal: Principal, content_id: UUID) -> Publication:
    """Put the approved latest version on the site again after a withdrawal. Raises: NotFound, Forbidden, Conflict."""
    principal.require("reviewer")
    item = await content.lock(db, principal.tenant_id, content_id)
    version = await content.get_version(db, principal.tenant_id, content_id, item.latest_number)
    decision_id = await db.fetchval(SQL["publications.find_approval"], principal.tenant_id, version.id)
    if decision_id is None:
        raise Conflict(
            f"version {version.number} is not approved: a review has to decide about it first",
            slug="not-approved",
        )
    await publish_approved(
        db,
        tenant_id=principal.tenant_id,
        version_id=version.id,
        decision_id=decision_id,
        actor=principal.actor,
    )
    log.info("content was published", extra={"content_id": str(content_id), "actor": principal.actor})
    return await get(db, principal.tenant_id, content_id)


async def withdraw(db: Connection, principal: Principal, content_id: UUID) -> None:
    """Take an item off the site; its address stays reserved. Raises: NotFound, Forbidden, Conflict when it is not live."""
    principal.require("reviewer")
    item = await content.lock(db, principal.tenant_id, content_id)
    if (
        await db.fetchval(SQL["publications.withdraw"], principal.tenant_id, content_id, principal.actor)
        is None
    ):
        raise Conflict(f"content item {content_id} is not on the site", slug="not-published")
    if item.state == "published":  # else a newer version is on its way, and the state is about that one
        await content.move(db, principal.tenant_id, content_id, "withdraw")
    log.info("content was withdrawn", extra={"content_id": str(content_id), "actor": principal.actor})


async def get(db: Connection, tenant_id: UUID, content_id: UUID) -> Publication:
    """Return what is live of an item. Raises: NotFound."""
    found = await find(db, tenant_id, content_id)
    if found is None:
        raise NotFound(f"content item {content_id} is not on the site")
    return found


async def find(db: Connection, tenant_id: UUID, content_id: UUID) -> Publication | None:
    """Return what is live of an item, or None."""
    row = await db.fetchrow(SQL["publications.find"], tenant_id, content_id)
    return Publication.from_row(row) if row else None


async def get_post(db: Connection, tenant_id: UUID, slug: str) -> Post:
    """Return the post that has or had this address; see `Post.slug`. Raises: NotFound."""
    row = await db.fetchrow(SQL["publications.find_by_slug"], tenant_id, slug)
    if row is None:
        raise NotFound("there is no such post")
    return Post.from_row(row)


async def list_posts(
    db: Connection,
    tenant_id: UUID,
    *,
    tag: str | None = None,
    after: tuple[datetime, UUID] | None = None,
    limit: int = 20,
) -> list[Publication]:
    """Return what is live, newest first. *after*: first_published_at and content_id of the last one shown."""
    at, content_id = after or (None, None)
    if tag is None:
        rows = await db.fetch(SQL["publications.list"], tenant_id, at, content_id, limit)
    else:
        rows = await db.fetch(SQL["publications.list_by_tag"], tenant_id, tag, at, content_id, limit)
    return [Publication.from_row(row) for row in rows]


async def list_tags(db: Connection, tenant_id: UUID, *, limit: int = 50) -> list[tuple[str, int]]:
    """Return (tag, number of posts), the most used first."""
    return [
        (row["tag"], row["posts"]) for row in await db.fetch(SQL["publications.list_tags"], tenant_id, limit)
    ]


async def search(db: Connection, query: str, *, limit: int = 20, offset: int = 0) -> tuple[list[Hit], int]:
    """Return the posts of the transaction's tenant that match, best first, and how many there are on all pages.

    query: words, "phrases", or, -without; each post is searched in its own language. Of common words the newest and those in
    titles count: see SEARCH_DEPTH.
    """
    offset = min(offset, 100 * SEARCH_DEPTH)
    rows = await db.fetch(SQL["publications.search"], query[:500], SEARCH_DEPTH, limit, offset)
    hits = [
        Hit(
            content_id=row["content_id"],
            slug=row["slug"],
            title=row["title"],
            summary=row["summary"],
            tags=tuple(row["tags"]),
            language=row["language"],
            first_published_at=row["first_published_at"],
            published_at=row["published_at"],
            score=row["score"],
            excerpt=row["snippet"],
        )
        for row in rows
    ]
    return hits, rows[0]["total"] if rows else 0


def path(slug: str) -> str:
    """Where a post stands on the site."""
    return f"/posts/{slug}"
