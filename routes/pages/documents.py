"""Documents: the list, one with its passages, adding and deleting."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from aiohttp import web
from aiohttp.web_request import FileField

from routes import keys
from routes.pages import frame, live
from services import collections, content, documents, task_types
from services.errors import Fault, GalleyError, Invalid

routes = web.RouteTableDef()

STATES = ("pending", "indexed", "failed")
CHUNKS_SHOWN = 50
_FRAGMENTS = {"document-state": "documents/_state.html", "document-chunks": "documents/_chunks.html"}
_FORMATS = {".md": "text/markdown", ".markdown": "text/markdown", ".html": "text/html", ".htm": "text/html"}


@routes.get("/desk/documents", name="desk.documents")
async def list_(request: web.Request) -> web.Response:
    """The list, newest first."""
    filters = {
        "collection": request.query.get("collection") or None,
        "state": frame.choice(request, "state", STATES),
        "q": request.query.get("q", "").strip()[:200] or None,
    }
    async with frame.open_desk(request) as desk:
        rows = await documents.list_documents(
            desk.db, desk.tenant_id, before=frame.before(request), limit=frame.PAGE_SIZE + 1, **filters
        )
        shelves = await collections.list_all(desk.db, desk.tenant_id)
    shown, newest, older = frame.older(request, rows)
    return desk.page(
        "documents/list.html",
        documents=shown,
        filters={**filters, "active": any(filters.values())},
        collections=[shelf.name for shelf in shelves],
        states=STATES,
        newest=newest,
        older=older,
    )


@routes.get("/desk/documents/new", name="desk.document_new")
async def ask(request: web.Request) -> web.Response:
    """The form."""
    async with frame.open_desk(request, "author") as desk:
        shelves = await collections.list_all(desk.db, desk.tenant_id)
    form = {"collection": request.query.get("collection", ""), "title": "", "text": ""}
    return desk.page(
        "documents/new.html", collections=[shelf.name for shelf in shelves], form=form, faults_found=[]
    )


@routes.post("/desk/documents/new")
async def add(request: web.Request) -> web.Response:
    """Take a file or a text in; with a fault the form comes back as it was typed."""
    form = {"collection": "", "title": "", "text": "", **await frame.fields(request)}
    upload = (await request.post()).get("file")
    async with frame.open_desk(request, "author") as desk:
        try:
            new = _read_upload(form, upload if isinstance(upload, FileField) and upload.filename else None)
            document, due = await documents.create(
                desk.db, desk.tenant_id, new, actor=desk.principal.actor, request_id=keys.request_id(request)
            )
        except GalleyError as exc:
            shelves = [shelf.name for shelf in await collections.list_all(desk.db, desk.tenant_id)]
            return desk.page(
                "documents/new.html", status=422, collections=shelves, form=form, faults_found=frame.told(exc)
            )
    if due:
        request.app[keys.WAKE](task_types.get(documents.INGEST).queue)
    return frame.go(request, "desk.document", document_id=document.id, done="added" if due else "known")


@routes.get("/desk/documents/{document_id}", name="desk.document")
async def show(request: web.Request) -> web.Response:
    """One document, its passages and what cites it."""
    async with frame.open_desk(request) as desk:
        values = await _read(desk)
        cited_by = await content.list_citing(desk.db, desk.tenant_id, values["document"].id)
    return desk.page("documents/document.html", **values, cited_by=cited_by)


@routes.get("/desk/documents/{document_id}/live", name="desk.document_live", allow_head=False)
async def watch(request: web.Request) -> web.StreamResponse:
    """Its state and passages, until it is indexed or has failed."""
    return await live.watch(
        request,
        _read,
        _FRAGMENTS,
        poll_seconds=1.0,
        may_be_missing=True,
        over=lambda found: found["document"].state != "pending",
    )


async def _read(desk: frame.Desk) -> dict[str, Any]:
    """Return the document and one page of its passages. Raises: NotFound."""
    after = frame.number(desk.request.query.get("after"))
    document = await documents.get(desk.db, desk.tenant_id, frame.part(desk.request, "document_id"))
    chunks = await documents.list_chunks(
        desk.db, desk.tenant_id, document.id, after=-1 if after is None else after, limit=CHUNKS_SHOWN + 1
    )
    shown = chunks[:CHUNKS_SHOWN]
    more = len(chunks) > CHUNKS_SHOWN
    return {
        "document": document,
        "chunks": shown,
        "first": None if after is None else frame.link(desk.request, after=None),
        "next": frame.link(desk.request, after=shown[-1].ordinal) if more else None,
    }


@routes.post("/desk/documents/{document_id}/delete", name="desk.document_delete")
async def delete(request: web.Request) -> web.Response:
    """Delete it with everything made from it; the page before said what that is."""
    async with frame.open_desk(request, "author") as desk:
        stopped = await documents.delete(
            desk.db, desk.tenant_id, frame.part(request, "document_id"), actor=desk.principal.actor
        )
    request.app[keys.CANCELLED](stopped)
    return frame.go(request, "desk.documents", done="deleted")


def _read_upload(form: dict[str, str], upload: FileField | None) -> documents.NewDocument:
    """Return the document that was handed in. Raises: Invalid."""
    given: dict[str, Any] = {"collection": form["collection"].strip(), "title": form["title"].strip()}
    if upload is None:
        return documents.NewDocument(**given, text=form["text"])
    if form["text"].strip():
        raise Invalid("both", faults=(Fault("/text", "stands beside a file: give one of the two"),))
    name = PurePath(upload.filename)
    try:
        text = upload.file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Invalid("not text", faults=(Fault("/file", "is not text in UTF-8"),)) from None
    given["title"] = given["title"] or name.stem
    return documents.NewDocument(**given, text=text, mime=_FORMATS.get(name.suffix.lower(), "text/plain"))
