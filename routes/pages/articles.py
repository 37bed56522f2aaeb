"""Asking for an article: the form, and the task that it creates."""

from __future__ import annotations

from aiohttp import web

from routes import keys
from routes.pages import frame
from services import collections, tasks
from services.errors import GalleyError
from services.tasks import NewTask

routes = web.RouteTableDef()

WRITES = "generate_content"


@routes.get("/desk/content/new", name="desk.content_new")
async def ask(request: web.Request) -> web.Response:
    """The form."""
    async with frame.open_desk(request, "author") as desk:
        return await _form(desk, {"topic": "", "instructions": ""}, [])


@routes.post("/desk/content/new")
async def create(request: web.Request) -> web.Response:
    """Create the task; with a fault the form comes back as it was filled in."""
    form = {"topic": "", "instructions": "", **await frame.fields(request)}
    chosen = [str(name) for name in (await request.post()).getall("collections", [])]
    payload = {
        "topic": form["topic"].strip(),
        "collections": chosen,
        "instructions": form["instructions"].strip(),
    }
    async with frame.open_desk(request, "author") as desk:
        try:
            task = await tasks.enqueue(
                desk.db,
                desk.tenant_id,
                NewTask(type=WRITES, payload=payload),
                actor=desk.principal.actor,
                request_id=keys.request_id(request),
            )
        except GalleyError as exc:
            return await _form(desk, form, chosen, frame.told(exc))
    request.app[keys.WAKE](task.queue)
    return frame.go(request, "desk.task", task_id=task.id, done="asked")


async def _form(
    desk: frame.Desk, form: dict[str, str], chosen: list[str], faults: list[str] | None = None
) -> web.Response:
    shelves = await collections.list_all(desk.db, desk.tenant_id)
    return desk.page(
        "content/new.html",
        status=422 if faults else 200,
        collections=shelves,
        form=form,
        chosen=chosen,
        faults_found=faults or [],
    )
