"""Schedules: what is made by the clock, when next, and what became of each tick."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from routes import keys
from routes.pages import frame, live
from services import schedules, task_types, tasks, ticks, timings
from services.errors import Fault, GalleyError, Invalid
from services.schedules import NewSchedule, Schedule
from services.timings import Timing

routes = web.RouteTableDef()

_LIVE_SECONDS = 2.0
_LIST_FRAGMENTS = {"schedules-list": "schedules/_list.html"}
_FRAGMENTS = {"schedule-now": "schedules/_now.html", "schedule-ticks": "schedules/_ticks.html"}
_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}
_NUMBERS = ("timeout_seconds", "max_attempts", "concurrency_limit")
_EMPTY = {
    "name": "", "type": "", "payload": "{}", "by": "cron", "cron": "", "time_zone": "UTC", "every": "15", "unit": "minutes", "missed": "once",
    "overlap": "allow", "queue": "", "priority": "2", "timeout_seconds": "", "max_attempts": "", "concurrency_key": "", "concurrency_limit": "",
}  # fmt: skip


@routes.get("/desk/schedules", name="desk.schedules")
async def list_(request: web.Request) -> web.Response:
    """The list, by name."""
    async with frame.open_desk(request) as desk:
        values = await _read_list(desk)
    return desk.page("schedules/list.html", **values)


@routes.get("/desk/schedules/live", name="desk.schedules_live", allow_head=False)
async def watch_list(request: web.Request) -> web.StreamResponse:
    """The list, again and again."""
    return await live.watch(request, _read_list, _LIST_FRAGMENTS, poll_seconds=_LIVE_SECONDS)


@routes.get("/desk/schedules/new", name="desk.schedule_new")
async def ask_new(request: web.Request) -> web.Response:
    """The empty form."""
    async with frame.open_desk(request, "operator") as desk:
        return await _form(desk, _EMPTY)


@routes.post("/desk/schedules/new")
async def create(request: web.Request) -> web.Response:
    """Make the schedule, or show when it would tick; with a fault the form comes back as it was typed."""
    form = _EMPTY | await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        try:
            if "preview" in form:
                return await _form(desk, form, preview=await _preview(desk, form))
            made = await schedules.create(
                desk.db, desk.tenant_id, NewSchedule(**_read_form(form)), actor=desk.principal.actor
            )
        except GalleyError as exc:
            return await _form(desk, form, fault=exc)
    return frame.go(request, "desk.schedule", schedule_id=made.id, done="schedule-created")


@routes.get("/desk/schedules/{schedule_id}", name="desk.schedule")
async def show(request: web.Request) -> web.Response:
    """One schedule, a deleted one too."""
    async with frame.open_desk(request) as desk:
        return await _page(desk)


@routes.get("/desk/schedules/{schedule_id}/live", name="desk.schedule_live", allow_head=False)
async def watch(request: web.Request) -> web.StreamResponse:
    """What moves on its page."""
    return await live.watch(request, _read, _FRAGMENTS, poll_seconds=_LIVE_SECONDS, may_be_missing=True)


@routes.get("/desk/schedules/{schedule_id}/edit", name="desk.schedule_edit")
async def ask_edit(request: web.Request) -> web.Response:
    """The form, filled with what the schedule says."""
    async with frame.open_desk(request, "operator") as desk:
        schedule = await _in_address(desk)
        return await _form(desk, _written(schedule), schedule=schedule)


@routes.post("/desk/schedules/{schedule_id}/edit")
async def edit(request: web.Request) -> web.Response:
    """Change the schedule, unless somebody has since the form was shown."""
    form = _EMPTY | {"version": ""} | await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        schedule = await _in_address(desk)
        try:
            if "preview" in form:
                return await _form(desk, form, schedule=schedule, preview=await _preview(desk, form))
            await schedules.change(
                desk.db,
                desk.tenant_id,
                schedule.id,
                _read_form(form),
                version=frame.number(form["version"]) or 0,
                actor=desk.principal.actor,
            )
        except GalleyError as exc:
            return await _form(desk, form, schedule=schedule, fault=exc)
    return frame.go(request, "desk.schedule", schedule_id=schedule.id, done="schedule-saved")


@routes.post("/desk/schedules/{schedule_id}/pause", name="desk.schedule_pause")
async def pause(request: web.Request) -> web.Response:
    """Let it tick no more for now."""
    form = await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        schedule_id = frame.part(request, "schedule_id")
        try:
            await schedules.pause(
                desk.db,
                desk.tenant_id,
                schedule_id,
                actor=desk.principal.actor,
                resume_at=frame.read_moment(form.get("until", ""), "until"),
            )
        except Invalid as exc:
            return await _page(desk, fault=exc, until=form.get("until", ""))
    return frame.go(request, "desk.schedule", schedule_id=schedule_id, done="schedule-paused")


@routes.post("/desk/schedules/{schedule_id}/resume", name="desk.schedule_resume")
async def resume(request: web.Request) -> web.Response:
    """Let it tick again."""
    await frame.fields(request)
    schedule_id = frame.part(request, "schedule_id")
    async with frame.open_desk(request, "operator") as desk:
        await schedules.resume(desk.db, desk.tenant_id, schedule_id)
    return frame.go(request, "desk.schedule", schedule_id=schedule_id, done="schedule-resumed")


@routes.post("/desk/schedules/{schedule_id}/run", name="desk.schedule_run")
async def run(request: web.Request) -> web.Response:
    """Make its task now, and show it."""
    await frame.fields(request)
    async with frame.open_desk(request, "operator") as desk:
        try:
            task = await schedules.run_now(
                desk.db,
                desk.tenant_id,
                frame.part(request, "schedule_id"),
                actor=desk.principal.actor,
                request_id=keys.request_id(request),
            )
        except Invalid as exc:
            return await _page(desk, fault=exc)
    request.app[keys.WAKE](task.queue)
    return frame.go(request, "desk.task", task_id=task.id, done="schedule-run")


@routes.post("/desk/schedules/{schedule_id}/delete", name="desk.schedule_delete")
async def delete(request: web.Request) -> web.Response:
    """Delete it; its page stays for what became of its ticks."""
    await frame.fields(request)
    schedule_id = frame.part(request, "schedule_id")
    async with frame.open_desk(request, "operator") as desk:
        await schedules.delete(desk.db, desk.tenant_id, schedule_id, actor=desk.principal.actor)
    return frame.go(request, "desk.schedule", schedule_id=schedule_id, done="schedule-deleted")


async def _read_list(desk: frame.Desk) -> dict[str, Any]:
    after = desk.request.query.get("after", "").replace("\x00", "") or None
    rows = await schedules.list_schedules(desk.db, desk.tenant_id, after=after, limit=frame.PAGE_SIZE + 1)
    shown = rows[: frame.PAGE_SIZE]
    return {
        "schedules": shown,
        "local": {one.id: local(one.timing, [one.next_tick_at])[0] for one in shown if one.next_tick_at},
        "newest": frame.link(desk.request, after=None) if after else None,
        "older": frame.link(desk.request, after=shown[-1].name) if len(rows) > frame.PAGE_SIZE else None,
    }


async def _read(desk: frame.Desk) -> dict[str, Any]:
    """Return everything the page and its fragments show. Raises: NotFound."""
    schedule = await _in_address(desk)
    cursor = desk.request.query.get("before", "")
    moment, _, manual = cursor.partition("~")
    before = (_read_instant(moment), manual == "manual") if cursor else None
    rows = await ticks.list_ticks(
        desk.db, desk.tenant_id, schedule.id, before=before, limit=frame.PAGE_SIZE + 1
    )
    shown = rows[: frame.PAGE_SIZE]
    older = (
        f"{shown[-1].tick_at.isoformat()}~{'manual' if shown[-1].manual else ''}"
        if len(rows) > len(shown)
        else None
    )
    return {
        "schedule": schedule,
        "next_ticks": local(schedule.timing, schedules.list_next(schedule)),
        "ticks": shown,
        "local": dict(zip(shown, local(schedule.timing, [tick.tick_at for tick in shown]), strict=True)),
        "newest": frame.link(desk.request, before=None) if cursor else None,
        "older": frame.link(desk.request, before=older) if older else None,
    }


async def _page(desk: frame.Desk, *, fault: GalleyError | None = None, until: str = "") -> web.Response:
    return desk.page(
        "schedules/schedule.html",
        status=422 if fault else 200,
        faults_found=frame.told(fault) if fault else [],
        until=until,
        **await _read(desk),
    )


async def _form(
    desk: frame.Desk,
    form: dict[str, str],
    *,
    schedule: Schedule | None = None,
    preview: dict[str, Any] | None = None,
    fault: GalleyError | None = None,
) -> web.Response:
    return desk.page(
        "schedules/form.html",
        status=422 if fault else 200,
        form=form,
        schedule=schedule,
        preview=preview,
        faults_found=frame.told(fault) if fault else [],
        types=sorted(task_types.load_all()),
        queues=await tasks.list_queues(desk.db),
        zones=timings.zones(),
        units=_UNITS,
    )


async def _preview(desk: frame.Desk, form: dict[str, str]) -> dict[str, Any]:
    """Return when the schedule in the form would tick, once all of it has been found valid. Raises: Invalid."""
    said = _read_form(form)
    timing, found = await schedules.preview(
        desk.db, cron=said["cron"], time_zone=said["time_zone"], interval_seconds=said["interval_seconds"]
    )
    return {"explanation": timing.explain(), "ticks": local(timing, found)}


def local(timing: Timing, moments: Sequence[datetime]) -> list[dict[str, Any]]:
    """Return moments with their words in the schedule's zone: Sun 29 Mar 2026, 03:00 CEST."""
    zone = timing.zone if timing.time_zone in timings.zones() else UTC
    return [{"at": moment, "words": _words(moment.astimezone(zone))} for moment in moments]


def _words(moment: datetime) -> str:
    seconds = f":{moment:%S}" if moment.second else ""
    return f"{moment:%a} {moment.day} {moment:%b %Y, %H:%M}{seconds} {moment:%Z}"


async def _in_address(desk: frame.Desk) -> Schedule:
    return await schedules.get(desk.db, desk.tenant_id, frame.part(desk.request, "schedule_id"))


def _written(schedule: Schedule) -> dict[str, str]:
    """Return a schedule as its form shows it."""
    seconds = schedule.interval_seconds or 900
    unit = next(name for name in ("days", "hours", "minutes", "seconds") if seconds % _UNITS[name] == 0)
    texts = {
        name: "" if value is None else str(value)
        for name, value in ((name, getattr(schedule, name)) for name in _EMPTY if hasattr(schedule, name))
    }
    return {
        **_EMPTY,
        **texts,
        "payload": json.dumps(schedule.payload, indent=2, ensure_ascii=False),
        "by": "cron" if schedule.cron else "interval",
        "every": str(seconds // _UNITS[unit]),
        "unit": unit,
        "version": str(schedule.version),
    }


def _read_form(form: dict[str, str]) -> dict[str, Any]:
    """Return what the form says of a schedule. Raises: Invalid with every fault in the form itself."""
    faults: list[Fault] = []
    by_cron = form["by"] == "cron"
    every = frame.number(form["every"].strip())
    if not by_cron and (every is None or form["unit"] not in _UNITS):
        faults.append(Fault("/every", "must be a whole number"))
    numbers: dict[str, int | None] = {}
    for name in ("priority", *_NUMBERS):
        text = form[name].strip()
        numbers[name] = frame.number(text)
        if numbers[name] is None and (text or name == "priority"):
            faults.append(Fault(f"/{name}", "must be a whole number"))
    payload: dict[str, Any] = {}
    try:
        payload = frame.read_object(form["payload"] or "{}", "payload")
    except Invalid as exc:
        faults.extend(exc.faults)
    if faults:
        raise Invalid(faults[0].message, faults=tuple(faults))
    return {
        "name": form["name"].strip(),
        "type": form["type"],
        "payload": payload,
        "cron": form["cron"] if by_cron else None,
        "time_zone": form["time_zone"].strip(),
        "interval_seconds": None if by_cron else (every or 0) * _UNITS[form["unit"]],
        "missed": form["missed"],
        "overlap": form["overlap"],
        "queue": form["queue"] or None,
        "concurrency_key": form["concurrency_key"].strip() or None,
        **numbers,
    }


def _read_instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return datetime.max.replace(tzinfo=UTC)
