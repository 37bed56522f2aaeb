"""Search for programs."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from aiohttp import web
from pydantic import Field

from routes import keys
from routes.api.kernel import Body, Call, Int, JSONObject, Text, View, operation
from services import search
from services.search import Mode

routes = web.RouteTableDef()


class Question(Body):
    """What is looked for, and where."""

    query: Annotated[Text, Field(min_length=1, max_length=search.MAX_QUERY)]
    collections: list[Annotated[Text, Field(max_length=63)]] | None = Field(
        default=None, min_length=1, max_length=50, description="Names; all when left out."
    )
    filters: JSONObject | None = Field(
        default=None, description='What a document\'s metadata must contain, as in `{"year": 1886}`.'
    )
    k: Annotated[Int, Field(ge=1, le=search.MAX_HITS, description="How many hits at most.")] = 10
    mode: Mode = "hybrid"


class VectorReason(View):
    """Found by meaning."""

    rank: int
    distance: float = Field(description="Cosine distance, 0 to 2.")


class KeywordReason(View):
    """Found by words."""

    rank: int
    bm25: float
    terms: list[str] = Field(description="The word stems it shares with the query, rarest first.")


class Reasons(View):
    """Why it was found; an arm that did not find it is null."""

    vector: VectorReason | None
    keyword: KeywordReason | None


class HitView(View):
    """A chunk that answers the query."""

    chunk_id: UUID
    document_id: UUID
    document_title: str
    collection: str
    heading: str
    ordinal: int
    text: str
    metadata: dict[str, Any]
    score: float
    reasons: Reasons


class Hits(View):
    """The best chunks, best first."""

    hits: list[HitView]
    mode: Mode
    degraded: str | None = Field(
        description="Why only the words were searched, when that was not what was asked for."
    )


@operation(
    routes,
    "POST",
    "/api/v1/search",
    name="search.search",
    summary="Search the documents by meaning and by words",
    description="At most three hits come from one document. The query is read as words; it has no operators.",
    role="viewer",
    answer=Hits,
)
async def find(call: Call, body: Question) -> JSONObject:
    vector, degraded = await search.vector_of(call.request.app[keys.EMBEDDER], body.query, body.mode)
    async with call.database.tenant(call.tenant_id, call.actor) as db:
        hits = await search.search(
            db,
            tenant_id=call.tenant_id,
            query=body.query,
            embedding=vector,
            collections=body.collections,
            filters=body.filters,
            k=body.k,
            mode=body.mode,
        )
    return {"hits": hits, "mode": body.mode, "degraded": degraded}
