"""Content: the list, one text in any of its versions, what changed between two, editing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from aiohttp import web

from routes.pages import frame
from services import content, diff, documents, markdown, prompts, publications, reviews, tasks
from services.content import ContentItem, ContentVersion
from services.content_states import STATES, State
from services.content_text import Changes
from services.errors import GalleyError, PreconditionFailed

routes = web.RouteTableDef()

VERSIONS_SHOWN = 100
_PARTS = (
    ("Title", "title"),
    ("Address", "slug"),
    ("Summary", "summary"),
    ("Tags", "tags"),
    ("Text", "body_md"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a text in two versions."""

    name: str
    text: str
    found: diff.Diff
    segments: list[tuple[diff.Segment, int]]

    @property
    def changed(self) -> bool:
        """Whether the two differ."""
        return self.found.changed


@routes.get("/desk/content", name="desk.content")
async def list_(request: web.Request) -> web.Response:
    """The list, newest first."""
    state = cast("State | None", frame.choice(request, "state", STATES))
    title = request.query.get("q", "").strip()[:200] or None
    async with frame.open_desk(request) as desk:
        rows = await content.list_items(
            desk.db,
            desk.tenant_id,
            state=state,
            title=title,
            before=frame.before(request),
            limit=frame.PAGE_SIZE + 1,
        )
        counts = await content.count_states(desk.db, desk.tenant_id)
    shown, newest, older = frame.older(request, rows)
    return desk.page(
        "content/list.html",
        items=shown,
        chosen=state,
        q=title or "",
        states=[(name, counts.get(name, 0)) for name in STATES],
        newest=newest,
        older=older,
    )


@routes.get("/desk/content/{content_id}", name="desk.content_item")
async def show(request: web.Request) -> web.Response:
    """One version, the latest when none is named, with everything a decision needs."""
    number = frame.number(request.query.get("version"))
    form = {"decision": "", "reason": "", "feedback": ""}
    async with frame.open_desk(request) as desk:
        item = await content.get(desk.db, desk.tenant_id, frame.part(request, "content_id"))
        values = await read_version(desk, item, number or item.latest_number)
    return await page(desk, values, form=form)


async def read_version(desk: frame.Desk, item: ContentItem, number: int) -> dict[str, Any]:
    """Return everything the page of one version shows. Raises: NotFound."""
    db, tenant_id = desk.db, desk.tenant_id
    version = await content.get_version(db, tenant_id, item.id, number)
    citations = await content.list_citations(db, tenant_id, version.id)
    cited = [UUID(str(one.document_id)) for one in citations if one.document_id]
    return {
        "item": item,
        "version": version,
        "versions": await content.list_versions(db, tenant_id, item.id, limit=VERSIONS_SHOWN),
        "citations": citations,
        "documents": await documents.find_titles(db, tenant_id, cited) if cited else {},
        "review": await reviews.find_pending(db, tenant_id, item.id),
        "being_written": item.task_id is not None and await tasks.is_live(db, tenant_id, item.task_id),
        "decisions": await reviews.list_decisions(db, tenant_id, item.id),
        "feedback": await reviews.list_feedback(db, tenant_id, item.id),
        "prompt": await prompts.find_name(db, tenant_id, version.prompt_version_id)
        if version.prompt_version_id
        else None,
    }


async def page(
    desk: frame.Desk,
    values: dict[str, Any],
    *,
    form: dict[str, str],
    status: int = 200,
    faults: list[str] | None = None,
) -> web.Response:
    """Return the page of one version; *form* is the decision as it was typed."""
    version: ContentVersion = values["version"]
    markers = tuple(citation.marker for citation in values["citations"])
    html = await asyncio.to_thread(markdown.render, version.body_md, markers)
    return desk.page(
        "content/item.html",
        status=status,
        **values,
        html=html,
        words=len(version.body_md.split()),
        form=form,
        faults_found=faults or [],
    )


@routes.get("/desk/content/{content_id}/diff", name="desk.content_diff")
async def compare(request: web.Request) -> web.Response:
    """What changed between two versions, word by word."""
    async with frame.open_desk(request) as desk:
        item = await content.get(desk.db, desk.tenant_id, frame.part(request, "content_id"))
        newer = frame.number(request.query.get("to")) or item.latest_number
        older = frame.number(request.query.get("from")) or max(newer - 1, 1)
        old = await content.get_version(desk.db, desk.tenant_id, item.id, older)
        new = await content.get_version(desk.db, desk.tenant_id, item.id, newer)
        versions = await content.list_versions(desk.db, desk.tenant_id, item.id, limit=VERSIONS_SHOWN)
    parts = await asyncio.to_thread(_compare, old, new)
    return desk.page(
        "content/diff.html",
        item=item,
        old=old,
        new=new,
        versions=versions,
        parts=parts,
        added=sum(part.found.words_added for part in parts),
        removed=sum(part.found.words_removed for part in parts),
        complete=all(part.found.complete for part in parts),
    )


@routes.get("/desk/content/{content_id}/edit", name="desk.content_edit")
async def ask_edit(request: web.Request) -> web.Response:
    """The latest version in a form; an older one may be edited into a new one through restoring it."""
    async with frame.open_desk(request, "author") as desk:
        item = await content.get(desk.db, desk.tenant_id, frame.part(request, "content_id"))
        version = await content.get_version(desk.db, desk.tenant_id, item.id, item.latest_number)
        review = await reviews.find_pending(desk.db, desk.tenant_id, item.id)
    form = {
        "base": version.number,
        "title": version.title,
        "slug": version.slug,
        "summary": version.summary,
        "tags": ", ".join(version.tags),
        "body_md": version.body_md,
        "note": "",
    }
    return desk.page("content/edit.html", item=item, form=form, review=review, faults_found=[])


@routes.post("/desk/content/{content_id}/edit")
async def edit(request: web.Request) -> web.Response:
    """Save a new version; with a fault the form comes back as it was typed."""
    form = {
        **dict.fromkeys(("base", "title", "slug", "summary", "tags", "body_md", "note"), ""),
        **await frame.fields(request),
    }
    base = frame.number(form["base"]) or 0
    changes = Changes(
        title=form["title"],
        slug=form["slug"] or None,
        summary=form["summary"],
        body_md=form["body_md"],
        tags=tuple(tag.strip() for tag in form["tags"].split(",") if tag.strip()),
    )
    async with frame.open_desk(request, "author") as desk:
        item = await content.get(desk.db, desk.tenant_id, frame.part(request, "content_id"))
        try:
            version = await content.edit(
                desk.db, desk.principal, item.id, base_version=base, changes=changes, note=form["note"]
            )
        except GalleyError as exc:
            status = 412 if isinstance(exc, PreconditionFailed) else 422
            review = await reviews.find_pending(desk.db, desk.tenant_id, item.id)
            return desk.page(
                "content/edit.html",
                status=status,
                item=item,
                form=form,
                review=review,
                faults_found=frame.told(exc),
            )
    done = "saved" if version.number != base else "unchanged"
    return frame.go(request, "desk.content_item", content_id=item.id, done=done)


@routes.post("/desk/content/{content_id}/restore", name="desk.content_restore")
async def restore(request: web.Request) -> web.Response:
    """Make the words of an older version the next version."""
    form = await frame.fields(request)
    async with frame.open_desk(request, "author") as desk:
        content_id = frame.part(request, "content_id")
        number, base = frame.number(form.get("number")) or 0, frame.number(form.get("base")) or 0
        await content.restore(desk.db, desk.principal, content_id, number=number, base_version=base)
    return frame.go(request, "desk.content_item", content_id=content_id, done="restored")


@routes.post("/desk/content/{content_id}/submit", name="desk.content_submit")
async def submit(request: web.Request) -> web.Response:
    """Ask for a decision about the latest version."""
    form = await frame.fields(request)
    async with frame.open_desk(request, "author") as desk:
        content_id = frame.part(request, "content_id")
        await reviews.submit(
            desk.db, desk.principal, content_id, version=frame.number(form.get("version")) or 0
        )
    return frame.go(request, "desk.content_item", content_id=content_id, done="submitted")


@routes.post("/desk/content/{content_id}/withdraw", name="desk.content_withdraw")
async def withdraw(request: web.Request) -> web.Response:
    """Take the text off the site."""
    async with frame.open_desk(request, "reviewer") as desk:
        content_id = frame.part(request, "content_id")
        await publications.withdraw(desk.db, desk.principal, content_id)
    return frame.go(request, "desk.content_item", content_id=content_id, done="withdrawn")


@routes.post("/desk/content/{content_id}/publish", name="desk.content_publish")
async def publish(request: web.Request) -> web.Response:
    """Put the approved version on the site again."""
    async with frame.open_desk(request, "reviewer") as desk:
        content_id = frame.part(request, "content_id")
        await publications.publish(desk.db, desk.principal, content_id)
    return frame.go(request, "desk.content_item", content_id=content_id, done="published")


def _compare(old: ContentVersion, new: ContentVersion) -> list[Part]:
    parts = []
    for name, field in _PARTS:
        before, after = _as_text(getattr(old, field)), _as_text(getattr(new, field))
        found = diff.compare(before, after)
        parts.append(Part(name, after, found, diff.fold(found.segments)))
    return parts


def _as_text(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)
