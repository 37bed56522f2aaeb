"""Reviews for programs: what waits for a decision, and the decision."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from aiohttp import web
from pydantic import Field

from routes.api.kernel import Body, Call, JSONObject, Page, PageQuery, Text, View, operation
from services import reviews
from services.reviews import Review, State, Verdict
from services.task_context import Connection

routes = web.RouteTableDef()

Point = Annotated[Text, Field(min_length=1, max_length=reviews.MAX_REASON)]


class ReviewFilter(PageQuery):
    """Which reviews."""

    state: State | None = None
    content_id: UUID | None = None


class NewDecision(Body):
    """A decision about exactly the text that has `content_hash`."""

    decision: Verdict
    reason: Text = Field(
        min_length=1, max_length=reviews.MAX_REASON, description="Kept for good, with your name and the time."
    )
    content_hash: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the version you read.")
    feedback: list[Point] = Field(
        default=[],
        max_length=reviews.MAX_FEEDBACK,
        description="Points that the next version has to take up.",
    )


class ReviewView(View):
    """A request for a decision about one version."""

    id: UUID
    task_id: UUID | None = Field(description="The task that waits for the outcome.")
    content_id: UUID
    version: int
    version_id: UUID
    content_hash: str
    title: str
    state: State
    round: int
    due_at: datetime | None
    opened_by: str
    created_at: datetime
    ended_at: datetime | None
    closed_reason: str | None = Field(description="Why it ended without a decision.")


class DecisionView(View):
    """Who decided, when and why; never changes."""

    decision: Verdict
    reason: str
    actor: str
    role: str
    address: str
    via: Literal["api", "page"]
    at: datetime
    version: int
    content_hash: str


class FeedbackView(View):
    """A point that the next version has to take up."""

    id: UUID
    text: str
    state: Literal["open", "addressed"]
    version: int = Field(description="The version it is about.")
    addressed_in_version: int | None
    created_by: str
    created_at: datetime


class ReviewDetail(ReviewView):
    """A review with what was decided."""

    decision: DecisionView | None
    feedback: list[FeedbackView]


@operation(
    routes,
    "GET",
    "/api/v1/reviews",
    name="reviews.list",
    summary="List reviews, newest first",
    description="`state=pending` is the inbox.",
    role="viewer",
    answer=Page[ReviewView],
)
async def list_reviews(call: Call, db: Connection, query: ReviewFilter) -> JSONObject:
    after = call.after(query)
    rows = await reviews.list_reviews(
        db,
        call.tenant_id,
        state=query.state,
        content_id=query.content_id,
        before=UUID(str(after[0])) if after else None,
        limit=query.limit + 1,
    )
    return call.page(rows, query, lambda review: (review.id,))


@operation(
    routes,
    "GET",
    "/api/v1/reviews/{review_id}",
    name="reviews.get",
    summary="Look at a review",
    role="viewer",
    answer=ReviewDetail,
)
async def get(call: Call, db: Connection, review_id: UUID) -> JSONObject:
    return await _detail(call, db, await reviews.get(db, call.tenant_id, review_id))


@operation(
    routes,
    "POST",
    "/api/v1/reviews/{review_id}/decision",
    name="reviews.decide",
    summary="Decide about a version",
    description="Approving publishes exactly this version; requested changes reach the next draft. 409: decided or closed already. "
    "412: `content_hash` is not of the version under review. 403: your own work, where the tenant asks for a second person.",
    role="reviewer",
    answer=ReviewDetail,
    idempotent=True,
    errors=(409, 412),
)
async def decide(call: Call, db: Connection, review_id: UUID, body: NewDecision) -> JSONObject:
    review = await reviews.decide(
        db,
        principal=call.principal,
        review_id=review_id,
        decision=body.decision,
        reason=body.reason,
        content_hash=body.content_hash,
        feedback=body.feedback,
        address=call.request.remote or "",
    )
    if review.queue:
        call.wake(review.queue)
    return await _detail(call, db, review)


async def _detail(call: Call, db: Connection, review: Review) -> JSONObject:
    points = await reviews.list_feedback(db, call.tenant_id, review.content_id)
    shown = {name: getattr(review, name) for name in ReviewView.model_fields}
    return shown | {
        "decision": await reviews.find_decision(db, call.tenant_id, review.id),
        "feedback": [point for point in points if point.review_id == review.id],
    }
