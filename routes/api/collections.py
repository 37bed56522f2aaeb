"""Collections for programs: what there is to search."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from aiohttp import web
from pydantic import Field

from routes.api.kernel import Call, JSONObject, Page, View, operation
from services import collections
from services.task_context import Connection

routes = web.RouteTableDef()


class CollectionView(View):
    """A shelf of documents; it is made when the first document names it."""

    id: UUID
    name: str
    model: str = Field(description="The model that made its vectors.")
    documents: int
    chunks: int
    created_at: datetime
    created_by: str


@operation(
    routes,
    "GET",
    "/api/v1/collections",
    name="collections.list",
    summary="List the collections by name",
    role="viewer",
    answer=Page[CollectionView],
)
async def list_collections(call: Call, db: Connection) -> JSONObject:
    return {"items": await collections.list_all(db, call.tenant_id), "next_cursor": None}
