"""Tasks: the list, one task with everything it did, cancel and requeue."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any
from uuid import UUID

from aiohttp import web

from routes import keys
from routes.pages import frame, live, subjects
from services import (
    content,
    dead_letters,
    holds,
    llm_calls,
    overview,
    queues,
    reviews,
    task_history,
    task_timeline,
    task_types,
    tasks,
)
from services.errors import Fault, GalleyError, Invalid
from services.task_context import Connection
from services.task_states import LIVE, STATES
from services.task_timeline import Timeline
from services.tasks import Task

routes = web.RouteTableDef()

ENTRIES_SHOWN = 100  # of the timeline, at its begin and at its end
OUTPUT_SHOWN = 20_000  # characters, the latest
_BLANK_LINES = re.compile(r"\n\s*\n")
_LIST_FRAGMENTS = {"tasks-states": "tasks/_states.html", "tasks-rows": "tasks/_rows.html"}
_LIST_SECONDS = 2.0
_LIST_REST = 20  # times as long as reading it took: a watcher takes a twentieth of a core at most, however long the list takes
_AGES_SECONDS = 15.0
_FRAGMENTS = {
    f"task-{name}": f"tasks/_{name}.html"
    for name in ("actions", "status", "output", "result", "steps", "calls", "timeline", "facts")
}


@routes.get("/desk/tasks", name="desk.tasks")
async def list_(request: web.Request) -> web.Response:
    """The list, newest first."""
    async with frame.open_desk(request) as desk:
        values = await _read_list(desk)
    return desk.page("tasks/list.html", **values)


@routes.get("/desk/tasks-live", name="desk.tasks_live", allow_head=False)
async def watch_list(request: web.Request) -> web.StreamResponse:
    """The newest page of the list, whenever a task on it does something, and now and then for how long ago that was."""
    keys.principal(request)
    templates = request.app[keys.TEMPLATES]
    sent, sent_at = "", -math.inf

    async def read() -> live.Fragments:
        nonlocal sent, sent_at
        async with frame.open_desk(request) as desk:
            values = {**desk.frame(), **await _read_list(desk)}
        moved = repr([(one.id, one.state, one.fence, one.run_at, one.progress) for one in values["tasks"]])
        moved += repr((values["counts"], values["ended"]))
        if moved == sent and time.monotonic() - sent_at < _AGES_SECONDS:
            return {}
        sent, sent_at = moved, time.monotonic()
        return {name: templates.render(request, path, **values) for name, path in _LIST_FRAGMENTS.items()}

    return await live.stream(request, live.sparing(read, rest=_LIST_REST), poll_seconds=_LIST_SECONDS)


@routes.get("/desk/tasks/{task_id}", name="desk.task")
async def show(request: web.Request) -> web.Response:
    """One task."""
    async with frame.open_desk(request) as desk:
        values = await _read(desk.db, desk.tenant_id, frame.part(request, "task_id"))
    return desk.page("tasks/task.html", **values)


@routes.get("/desk/tasks/{task_id}/live", name="desk.task_live", allow_head=False)
async def watch(request: web.Request) -> web.StreamResponse:
    """The parts of the page that change, until the task has ended."""
    principal, task_id = keys.principal(request), frame.part(request, "task_id")
    database, templates = request.app[keys.DATABASE], request.app[keys.TEMPLATES]
    seen: list[object] = [None]

    async def read() -> tuple[live.Fragments, bool]:
        async with database.tenant(principal.tenant_id, principal.actor) as db:
            pulse = await task_history.pulse(db, principal.tenant_id, task_id)
            if pulse == seen[0]:
                return {}, False
            seen[0] = pulse
            values = await _read(db, principal.tenant_id, task_id)
        fragments = {name: templates.render(request, path, **values) for name, path in _FRAGMENTS.items()}
        return fragments, values["task"].is_final

    await read()  # answers 404 before the stream begins
    seen[0] = None
    return await live.stream(request, read)


@routes.post("/desk/tasks/{task_id}/cancel", name="desk.task_cancel")
async def cancel(request: web.Request) -> web.Response:
    """Cancel it; its run is stopped once the transaction has committed."""
    form = await frame.fields(request)
    async with frame.open_desk(request, "author") as desk:
        task_id = (await _own(desk)).id
        _, stopped = await tasks.cancel(
            desk.db,
            desk.tenant_id,
            task_id,
            actor=desk.principal.actor,
            reason=form.get("reason", "").strip()[:500] or None,
        )
    request.app[keys.CANCELLED](stopped)
    return frame.go(request, "desk.task", task_id=task_id, done="cancelled")


@routes.post("/desk/tasks/{task_id}/run", name="desk.task_run")
async def run(request: web.Request) -> web.Response:
    """Let a scheduled task run before it is due."""
    await frame.fields(request)
    async with frame.open_desk(request, "author") as desk:
        task_id = (await _own(desk)).id
        task = await tasks.run_now(desk.db, desk.tenant_id, task_id, actor=desk.principal.actor)
    request.app[keys.WAKE](task.queue)
    return frame.go(request, "desk.task", task_id=task_id, done="hurried")


@routes.post("/desk/tasks/{task_id}/release", name="desk.task_release")
async def release(request: web.Request) -> web.Response:
    """Let a task that was held after a crash run again."""
    await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        task_id = frame.part(request, "task_id")
        queue = await holds.release(desk.db, desk.tenant_id, task_id, actor=desk.principal.actor)
    request.app[keys.WAKE](queue)
    return frame.go(request, "desk.task", task_id=task_id, done="released")


@routes.get("/desk/tasks/{task_id}/requeue", name="desk.task_requeue")
async def ask_requeue(request: web.Request) -> web.Response:
    """The form, filled with what the task had."""
    async with frame.open_desk(request, "author") as desk:
        task = await _own(desk)
        names = await tasks.list_queues(desk.db)
        subject = (await subjects.read(desk.db, desk.tenant_id, [task])).get(task.id, "")
    form = {
        "payload": json.dumps(task.payload, indent=2, ensure_ascii=False),
        "queue": task.queue,
        "priority": task.priority,
        "reuse_steps": True,
    }
    return desk.page(
        "tasks/requeue.html", task=task, subject=subject, queues=names, form=form, faults_found=[]
    )


@routes.post("/desk/tasks/{task_id}/requeue")
async def requeue(request: web.Request) -> web.Response:
    """Make the new task; with a fault the form comes back as it was typed."""
    form = {"payload": "", "priority": "", "queue": ""} | await frame.fields(request)
    reuse = "reuse_steps" in form
    async with frame.open_desk(request, "author") as desk:
        task = await _own(desk)
        names = await tasks.list_queues(desk.db)
        try:
            new = await tasks.requeue(
                desk.db,
                desk.tenant_id,
                task.id,
                actor=desk.principal.actor,
                request_id=keys.request_id(request),
                changes=_read_changes(form),
                reuse_steps=reuse,
            )
        except GalleyError as exc:
            again = {**form, "reuse_steps": reuse}
            return desk.page(
                "tasks/requeue.html",
                status=422,
                task=task,
                subject="",
                queues=names,
                form=again,
                faults_found=frame.told(exc),
            )
    request.app[keys.WAKE](new.queue)
    return frame.go(request, "desk.task", task_id=new.id, done="requeued")


async def _own(desk: frame.Desk) -> Task:
    """Return the task in the address. Raises: NotFound, Forbidden unless it is the caller's own or they are an operator."""
    task = await tasks.get(desk.db, desk.tenant_id, frame.part(desk.request, "task_id"))
    desk.principal.require_own(task.created_by, "operator")
    return task


def _read_changes(form: dict[str, str]) -> dict[str, Any]:
    """Return what the form asks for. Raises: Invalid."""
    payload = frame.read_object(form["payload"], "payload")
    priority = frame.number(form["priority"])
    if priority is None or priority > 9:
        raise Invalid("no such priority", faults=(Fault("/priority", "must be a whole number from 0 to 9"),))
    return {"payload": payload, "priority": priority, "queue": form["queue"]}


def _shown_timeline(timeline: Timeline) -> dict[str, Any]:
    """Return the timeline's values for the page; of a very long one the begin and the end."""
    entries = timeline.entries
    left_out = max(len(entries) - 2 * ENTRIES_SHOWN, 0)
    if left_out:
        entries = entries[:ENTRIES_SHOWN] + entries[-ENTRIES_SHOWN:]
    return {"timeline": timeline, "entries": entries, "left_out": left_out}


async def _read_list(desk: frame.Desk) -> dict[str, Any]:
    """Return what the list and its fragments show."""
    request = desk.request
    named = request.query.get("type", "").strip()[:100]
    types = sorted({*task_types.load_all(), named} - {""})  # one that was given up still has its history
    filters = {
        "state": frame.choice(request, "state", STATES),
        "type": named or None,
        "queue": request.query.get("queue") or None,
        "q": request.query.get("q", "").strip()[:200] or None,
    }
    rows = await tasks.list_tasks(
        desk.db, desk.tenant_id, before=frame.before(request), limit=frame.PAGE_SIZE + 1, **filters
    )
    shown, newest, older = frame.older(request, rows, "desk.tasks")
    live_counts = await queues.count_live(desk.db, cap=queues.GLANCE)
    return {
        "tasks": shown,
        "subjects": await subjects.read(desk.db, desk.tenant_id, shown),
        "filters": {**filters, "active": any(filters.values())},
        "counts": [(state, live_counts[state]) for state in LIVE],
        "ended": await overview.count_ended(desk.db, desk.tenant_id),
        "live_states": LIVE,
        "types": types,
        "queues": await tasks.list_queues(desk.db),
        "newest": newest,
        "older": older,
        "moves": "before" not in request.query,
    }


async def _read(db: Connection, tenant_id: UUID, task_id: UUID) -> dict[str, Any]:
    """Return everything the page and its fragments show. Raises: NotFound."""
    task = await tasks.get(db, tenant_id, task_id)
    made = await content.list_items(db, tenant_id, task_id=task_id, limit=1)
    output = "" if task.is_final else (await task_history.read_output(db, tenant_id, task_id, task.fence))[0]
    output = _BLANK_LINES.sub("\n\n", output)[-OUTPUT_SHOWN:].strip()
    return {
        "task": task,
        "subject": (await subjects.read(db, tenant_id, [task])).get(task_id, ""),
        **_shown_timeline(await task_timeline.read(db, tenant_id, task)),
        "steps": await task_history.list_steps(db, tenant_id, task_id),
        "calls": await llm_calls.list_of_task(db, tenant_id, task_id),
        "chain": await dead_letters.list_chain(db, tenant_id, task_id),
        "dead_letter": await dead_letters.find(db, tenant_id, task_id) if task.is_final else None,
        "output": output,
        "item": made[0] if made else None,
        "review": await reviews.find_pending(db, tenant_id, made[0].id) if made else None,
    }
