"""Content items for programs: find them, ask for a decision, publish and withdraw. Their versions: content_versions.py."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from aiohttp import web
from pydantic import Field

from routes.api.kernel import (
    Answer,
    Body,
    Call,
    Instant,
    Int,
    JSONObject,
    Page,
    PageQuery,
    Text,
    View,
    operation,
)
from routes.api.reviews import ReviewView
from services import content, publications, reviews
from services.content_states import State
from services.publications import Publication
from services.reviews import Review
from services.task_context import Connection

routes = web.RouteTableDef()

Number = Annotated[Int, Field(ge=1, le=999_999_999)]


class ContentFilter(PageQuery):
    """Which items."""

    state: State | None = None
    q: Text | None = Field(default=None, max_length=200, description="Part of the title.")
    task_id: UUID | None = Field(default=None, description="Made by this task.")


class Submit(Body):
    """Which version is to be decided about: the latest."""

    version: Number
    due_at: Instant | None = None


class ContentView(View):
    """A content item. `state` speaks of the latest version; `live_version` is what readers see."""

    id: UUID
    title: str
    language: str
    state: State
    latest_version: int = Field(validation_alias="latest_number")
    live_version: int | None = Field(validation_alias="live_number")
    live_slug: str | None
    task_id: UUID | None
    created_by: str
    created_at: datetime
    updated_at: datetime


class PublicationView(View):
    """What readers see of an item."""

    content_id: UUID
    version_id: UUID
    slug: str
    title: str
    first_published_at: datetime
    published_at: datetime


@operation(
    routes,
    "GET",
    "/api/v1/content",
    name="content.list",
    summary="List content, newest first",
    role="viewer",
    answer=Page[ContentView],
)
async def list_items(call: Call, db: Connection, query: ContentFilter) -> JSONObject:
    after = call.after(query)
    rows = await content.list_items(
        db,
        call.tenant_id,
        state=query.state,
        title=query.q,
        task_id=query.task_id,
        before=UUID(str(after[0])) if after else None,
        limit=query.limit + 1,
    )
    return call.page(rows, query, lambda item: (item.id,))


@operation(
    routes,
    "GET",
    "/api/v1/content/{content_id}",
    name="content.get",
    summary="Look at a content item",
    description="The ETag names the latest version; send it back as If-Match to edit or restore.",
    role="viewer",
    answer=ContentView,
)
async def get(call: Call, db: Connection, content_id: UUID) -> Answer:
    item = await content.get(db, call.tenant_id, content_id)
    return Answer(item, headers={"ETag": f'"{item.latest_number}"'})


@operation(
    routes,
    "POST",
    "/api/v1/content/{content_id}/submit",
    name="content.submit",
    summary="Ask for a decision about the latest version",
    role="author",
    answer=ReviewView,
    status=201,
    idempotent=True,
    errors=(409,),
)
async def submit(call: Call, db: Connection, content_id: UUID, body: Submit) -> Answer:
    review: Review = await reviews.submit(
        db, call.principal, content_id, version=body.version, due_at=body.due_at
    )
    return Answer(review, location=call.url("reviews.get", review_id=review.id))


@operation(
    routes,
    "POST",
    "/api/v1/content/{content_id}/publish",
    name="content.publish",
    summary="Put the approved latest version on the site again",
    role="reviewer",
    answer=PublicationView,
    errors=(409,),
)
async def publish(call: Call, db: Connection, content_id: UUID) -> Publication:
    return await publications.publish(db, call.principal, content_id)


@operation(
    routes,
    "POST",
    "/api/v1/content/{content_id}/withdraw",
    name="content.withdraw",
    summary="Take an item off the site",
    role="reviewer",
    answer=ContentView,
    errors=(409,),
)
async def withdraw(call: Call, db: Connection, content_id: UUID) -> content.ContentItem:
    await publications.withdraw(db, call.principal, content_id)
    return await content.get(db, call.tenant_id, content_id)
