"""Reviews: the inbox, and the decision about a version."""

from __future__ import annotations

from typing import cast, get_args

from aiohttp import web

from routes import keys
from routes.pages import content as content_pages
from routes.pages import frame
from services import content, reviews
from services.errors import Conflict, GalleyError, Invalid, PreconditionFailed

routes = web.RouteTableDef()

STATES: tuple[reviews.State, ...] = get_args(reviews.State)
_DONE = {"approve": "approved", "request_changes": "changes-requested", "reject": "rejected"}


@routes.get("/desk/reviews", name="desk.reviews")
async def list_(request: web.Request) -> web.Response:
    """The inbox: what waits for a decision, or what ended in another state."""
    chosen = cast("reviews.State", frame.choice(request, "state", STATES) or "pending")
    async with frame.open_desk(request) as desk:
        rows = await reviews.list_reviews(
            desk.db, desk.tenant_id, state=chosen, before=frame.before(request), limit=frame.PAGE_SIZE + 1
        )
    shown, newest, older = frame.older(request, rows)
    return desk.page(
        "reviews/list.html", reviews=shown, chosen=chosen, states=STATES, newest=newest, older=older
    )


@routes.get("/desk/reviews/{review_id}", name="desk.review")
async def show(request: web.Request) -> web.Response:
    """Lead to the version that the review is about; the decision is made there."""
    async with frame.open_desk(request) as desk:
        review = await reviews.get(desk.db, desk.tenant_id, frame.part(request, "review_id"))
    address = request.app.router["desk.content_item"].url_for(content_id=str(review.content_id))
    raise web.HTTPSeeOther(address.with_query(version=review.version))


@routes.post("/desk/reviews/{review_id}/decision", name="desk.review_decide")
async def decide(request: web.Request) -> web.Response:
    """Record the decision about exactly the text that was shown; with a fault the page comes back as it was filled in."""
    form = {
        **dict.fromkeys(("decision", "reason", "feedback", "content_hash"), ""),
        **await frame.fields(request),
    }
    points = [line.strip() for line in form["feedback"].split("\n")]
    async with frame.open_desk(request, "reviewer") as desk:
        review_id = frame.part(request, "review_id")
        try:
            review = await reviews.decide(
                desk.db,
                principal=desk.principal,
                review_id=review_id,
                decision=cast("reviews.Verdict", form["decision"]),
                reason=form["reason"],
                content_hash=form["content_hash"],
                address=request.remote or "",
                feedback=points,
                via="page",
            )
        except (Conflict, Invalid, PreconditionFailed) as exc:
            return await _ask_again(desk, review_id, form, exc)
    if review.queue:
        request.app[keys.WAKE](review.queue)
    return frame.go(request, "desk.content_item", content_id=review.content_id, done=_DONE[form["decision"]])


async def _ask_again(
    desk: frame.Desk, review_id: object, form: dict[str, str], error: GalleyError
) -> web.Response:
    """Show what is under review now, with what was typed and why it was not recorded."""
    status = {Conflict: 409, Invalid: 422, PreconditionFailed: 412}[type(error)]
    review = await reviews.get(desk.db, desk.tenant_id, frame.part(desk.request, "review_id"))
    item = await content.get(desk.db, desk.tenant_id, review.content_id)
    values = await content_pages.read_version(desk, item, item.latest_number)
    return await content_pages.page(desk, values, form=form, status=status, faults=frame.told(error))
