"""Dead letters: what failed for good and waits for somebody, why, and what was done about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from aiohttp import web

from routes import keys
from routes.pages import frame, subjects
from services import dead_letters, task_types, tasks
from services.dead_letters import LONGEST_TEXT, Filter
from services.errors import Conflict, Fault, Invalid
from services.tasks import Task

routes = web.RouteTableDef()

STATES = ("failed", "timed_out")
# How long ago, in words, and as what the filter takes: not before, or before.
AGES = {
    "hour": ("In the last hour", "after", timedelta(hours=1)),
    "day": ("In the last day", "after", timedelta(days=1)),
    "week": ("In the last 7 days", "after", timedelta(days=7)),
    "older-day": ("More than a day ago", "before", timedelta(days=1)),
    "older-week": ("More than 7 days ago", "before", timedelta(days=7)),
}
_FILTERS = ("type", "error_class", "queue", "state", "age", "q")


def read_filter(request: web.Request) -> Filter:
    """Return what the address asks for; an age is counted from now."""

    def text(name: str) -> str | None:
        return request.query.get(name, "").strip()[:200].replace("\x00", "") or None

    age = frame.choice(request, "age", AGES)
    _, side, span = AGES[age] if age else ("", "", timedelta(0))
    moment = datetime.now(UTC) - span
    return Filter(
        queue=text("queue"),
        type=text("type"),
        state=frame.choice(request, "state", STATES),
        error_class=text("error_class"),
        failed_after=moment if side == "after" else None,
        failed_before=moment if side == "before" else None,
        q=text("q"),
    )


@routes.get("/desk/dead-letters", name="desk.dead_letters")
async def list_(request: web.Request) -> web.Response:
    """Open ones by default, with what they have in common; handled ones on request."""
    wanted, handled = read_filter(request), request.query.get("handled") == "1"
    given = {name: request.query.get(name) or None for name in _FILTERS}
    async with frame.open_desk(request) as desk:
        rows = await dead_letters.list_letters(
            desk.db,
            desk.tenant_id,
            wanted,
            handled=handled,
            before=frame.before(request),
            limit=frame.PAGE_SIZE + 1,
        )
        groups, counted = await dead_letters.count_groups(desk.db, desk.tenant_id, wanted)
        queues = await tasks.list_queues(desk.db)
        open_alerts = await desk.open_alerts()
        shown, newest, older = frame.older(request, rows)
        about = await subjects.read(
            desk.db,
            desk.tenant_id,
            await tasks.list_chosen(desk.db, desk.tenant_id, [one.id for one in shown]),
        )
    return desk.page(
        "dead_letters/list.html",
        open_alerts=open_alerts,
        letters=shown,
        subjects=about,
        groups=[] if handled else groups,
        counted=counted,
        counted_all=counted < dead_letters.COUNTED_MOST,
        handled=handled,
        filters={**given, "active": any(given.values())},
        types=sorted(task_types.load_all()),
        queues=queues,
        ages=[(name, words) for name, (words, _, _) in AGES.items()],
        newest=newest,
        older=older,
    )


@routes.get("/desk/dead-letters/{task_id}", name="desk.dead_letter")
async def show(request: web.Request) -> web.Response:
    """One, with its task's error and the chain it belongs to."""
    return await _page(request)


@routes.post("/desk/dead-letters/{task_id}/requeue", name="desk.dead_letter_requeue")
async def requeue(request: web.Request) -> web.Response:
    """Make a new task of it, later or at once."""
    form = await frame.fields(request)
    try:
        async with frame.open_desk(request, "operator") as desk:
            new = await dead_letters.requeue(
                desk.db,
                desk.tenant_id,
                frame.part(request, "task_id"),
                actor=desk.principal.actor,
                request_id=keys.request_id(request),
                at_once=form.get("when") == "now",
                reason=_words(form, "reason"),
            )
    except (Conflict, Invalid) as exc:
        return await _page(request, exc)
    request.app[keys.WAKE](new.queue)
    return frame.go(request, "desk.task", task_id=new.id, done="requeued")


@routes.post("/desk/dead-letters/{task_id}/discard", name="desk.dead_letter_discard")
async def discard(request: web.Request) -> web.Response:
    """Decide that nothing more is done about it."""
    form = await frame.fields(request)
    task_id = frame.part(request, "task_id")
    try:
        async with frame.open_desk(request, "operator") as desk:
            reason = _words(form, "reason")
            if reason is None:
                raise Invalid("a discard needs its reason", faults=(Fault("/reason", "is needed"),))
            await dead_letters.discard(
                desk.db, desk.tenant_id, task_id, actor=desk.principal.actor, reason=reason
            )
    except (Conflict, Invalid) as exc:
        return await _page(request, exc)
    return frame.go(request, "desk.dead_letter", task_id=task_id, done="discarded")


@routes.post("/desk/dead-letters/{task_id}/note", name="desk.dead_letter_note")
async def note(request: web.Request) -> web.Response:
    """Keep a note in the place of the one before."""
    form = await frame.fields(request)
    task_id = frame.part(request, "task_id")
    try:
        async with frame.open_desk(request, "operator") as desk:
            text = _words(form, "text")
            if text is None:
                raise Invalid("a note says something", faults=(Fault("/note", "must not be empty"),))
            await dead_letters.note(desk.db, desk.tenant_id, task_id, actor=desk.principal.actor, text=text)
    except Invalid as exc:
        return await _page(request, exc)
    return frame.go(request, "desk.dead_letter", task_id=task_id, done="noted")


def _words(form: dict[str, str], name: str) -> str | None:
    return form.get(name, "").strip().replace("\x00", "")[:LONGEST_TEXT] or None


async def _page(request: web.Request, exc: Conflict | Invalid | None = None) -> web.Response:
    """Show the dead letter as it is now, with what was wrong with the form that was sent, if one was."""
    task_id: UUID = frame.part(request, "task_id")
    async with frame.open_desk(request) as desk:
        letter = await dead_letters.get(desk.db, desk.tenant_id, task_id)
        task: Task = await tasks.get(desk.db, desk.tenant_id, task_id)
        chain = await dead_letters.list_chain(desk.db, desk.tenant_id, task_id)
        subject = (await subjects.read(desk.db, desk.tenant_id, [task])).get(task_id, "")
    status = 200 if exc is None else 409 if isinstance(exc, Conflict) else 422
    return desk.page(
        "dead_letters/letter.html",
        status=status,
        letter=letter,
        task=task,
        chain=chain,
        subject=subject,
        faults_found=[] if exc is None else frame.told(exc),
    )
