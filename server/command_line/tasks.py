"""`task list|show|create|run|cancel|requeue|release|signal`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from routes.api import reading
from server.command_line import bulk, output
from server.command_line.session import Session, options, perform
from services import holds, task_history, task_timeline, tasks
from services.errors import GalleyError
from services.task_states import STATES
from services.tasks import NewTask, Task

COLUMNS = ("id", "type", "state", "queue", "attempt", "by", "created", "took")
_SIGNAL = re.compile(r"[a-z0-9_-]{1,100}")


@click.group("task")
def group() -> None:
    """Tasks: list, show, create, run now, cancel, requeue, release, signal."""


def filters(command: Any) -> Any:
    """Add the options that choose tasks."""
    command = click.option("--q", metavar="TEXT", help="Start of an id or a type, or a concurrency key.")(
        command
    )
    command = click.option("--queue", metavar="NAME")(command)
    command = click.option("--type", "type_", metavar="TYPE")(command)
    return click.option("--state", type=click.Choice(STATES))(command)


@group.command("list")
@filters
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@options
def list_(*, tenant: str | None, as_json: bool, limit: int, type_: str | None, **wanted: Any) -> None:
    """List tasks, newest first."""

    async def work(session: Session) -> None:
        found = await session.do(
            lambda db: tasks.list_tasks(db, session.tenant.id, limit=limit, type=type_, **wanted)
        )
        if session.json:
            output.machine(found)
            return
        output.table(COLUMNS, [_row(task) for task in found], nothing="no such tasks")

    perform(tenant, as_json, work)


@group.command()
@click.argument("task_id", type=click.UUID)
@options
def show(*, tenant: str | None, as_json: bool, task_id: UUID) -> None:
    """Show one task and everything that happened to it."""

    async def work(session: Session) -> None:
        task = await session.do(lambda db: tasks.get(db, session.tenant.id, task_id))
        timeline = await session.do(lambda db: task_timeline.read(db, session.tenant.id, task))
        if session.json:
            events = await session.do(lambda db: task_history.list_events(db, session.tenant.id, task_id))
            output.machine({"task": task, "events": events})
            return
        output.facts(_facts(task))
        output.lines("the error came from", (task.error or {}).get("trace", []))
        click.echo()
        rows = [
            (entry.event.at, entry.event.event, entry.event.fence or None, output.length(entry.took), entry.event.actor, _why(entry.event.detail))
            for entry in timeline.entries
        ]  # fmt: skip
        output.table(("at", "event", "run", "after", "by", "why"), rows, nothing="nothing happened yet")

    perform(tenant, as_json, work)


@group.command()
@click.argument("ids", nargs=-1)
@filters
@click.option("--reason", help="Kept in the history of each task.")
@click.option("--yes", is_flag=True, help="Do it; without, a filter only shows what it would meet.")
@options
def cancel(*, tenant: str | None, as_json: bool, ids: tuple[str, ...], reason: str | None, yes: bool, type_: str | None, **wanted: Any) -> None:  # fmt: skip
    """Cancel tasks, finally and at once: those named, or all that a filter finds."""
    wanted["type"] = type_
    bulk.require_one_way(ids, wanted)
    chosen = bulk.read_ids(ids)

    async def work(session: Session) -> None:
        if not ids:
            await bulk.perform(session, "cancel", "tasks", wanted, yes=yes, reason=reason)
            return
        ended = [await _cancel(session, UUID(one), reason) for one in chosen]
        _tell(session, ended, "cancelled")

    perform(tenant, as_json, work)


@group.command()
@click.argument("ids", nargs=-1)
@filters
@click.option("--to-queue", metavar="NAME", help="Into another queue than before.")
@click.option("--priority", type=click.IntRange(0, 9), help="0 runs first.")
@click.option(
    "--again", is_flag=True, help="Do finished steps once more, instead of keeping what they returned."
)
@click.option("--yes", is_flag=True, help="Do it; without, a filter only shows what it would meet.")
@options
def requeue(*, tenant: str | None, as_json: bool, ids: tuple[str, ...], to_queue: str | None, priority: int | None, again: bool, yes: bool, type_: str | None, **wanted: Any) -> None:  # fmt: skip
    """Make new tasks from ended ones: those named, or all that a filter finds."""
    wanted["type"] = type_
    bulk.require_one_way(ids, wanted)
    chosen = bulk.read_ids(ids)
    changes = {
        name: value for name, value in (("queue", to_queue), ("priority", priority)) if value is not None
    }

    async def work(session: Session) -> None:
        if not ids:
            more = changes | {"reuse_steps": not again}
            await bulk.perform(session, "requeue", "tasks", wanted, yes=yes, changes=more)
            return
        made = [await _requeue(session, UUID(one), changes, reuse_steps=not again) for one in chosen]
        await session.tell(queues=[task.queue for task in made])
        _tell(session, made, "made")

    perform(tenant, as_json, work)


@group.command()
@click.argument("type_", metavar="TYPE")
@click.option("--payload", metavar="JSON", default="{}", help="An object; left out: an empty one.")
@click.option("--queue", metavar="NAME", help="Left out: that of the type.")
@click.option("--priority", type=click.IntRange(0, 9), default=2, show_default=True, help="0 runs first.")
@click.option("--run-at", type=click.DateTime(), help="In UTC; left out: at once.")
@options
def create(*, tenant: str | None, as_json: bool, type_: str, payload: str, run_at: datetime | None, **given: Any) -> None:  # fmt: skip
    """Create a task of TYPE and print its id."""
    due = run_at.replace(tzinfo=UTC) if run_at else None
    new = NewTask(type=type_, payload=_read_object("--payload", payload), run_at=due, **given)

    async def work(session: Session) -> None:
        task = await session.do(lambda db: tasks.enqueue(db, session.tenant.id, new, actor=session.actor))
        await session.tell(queues=[task.queue])
        _tell(session, [task], "made")

    perform(tenant, as_json, work)


@group.command()
@click.argument("task_id", type=click.UUID)
@options
def run(*, tenant: str | None, as_json: bool, task_id: UUID) -> None:
    """Run a scheduled task now: one for later, or one that waits for its next try."""

    async def work(session: Session) -> None:
        task = await session.do(lambda db: tasks.run_now(db, session.tenant.id, task_id, actor=session.actor))
        await session.tell(queues=[task.queue])
        _tell(session, [task], "is due now")

    perform(tenant, as_json, work)


@group.command()
@click.argument("task_id", type=click.UUID)
@options
def release(*, tenant: str | None, as_json: bool, task_id: UUID) -> None:
    """Let a task run again that is held for an operator since its executor died."""

    async def work(session: Session) -> None:
        queue = await session.do(
            lambda db: holds.release(db, session.tenant.id, task_id, actor=session.actor)
        )
        await session.tell(queues=[queue])
        _tell(session, [await session.do(lambda db: tasks.get(db, session.tenant.id, task_id))], "released")

    perform(tenant, as_json, work)


@group.command()
@click.argument("task_id", type=click.UUID)
@click.argument("name")
@click.option("--data", metavar="JSON", default="{}", help="An object that the task gets with it.")
@options
def signal(*, tenant: str | None, as_json: bool, task_id: UUID, name: str, data: str) -> None:
    """Send a live task the signal NAME; the first of a name wins."""
    given = _read_object("--data", data)
    if not _SIGNAL.fullmatch(name):
        raise click.BadParameter(f"{name!r} is no signal's name: small letters, digits, _ and -")

    async def work(session: Session) -> None:
        queue = await session.do(
            lambda db: tasks.send_signal(
                db, session.tenant.id, task_id, name=name, data=given, actor=session.actor
            )
        )
        await session.tell(queues=[queue] if queue else [])
        resumed = "goes on" if queue else "keeps it until it waits for it"
        _tell(session, [await session.do(lambda db: tasks.get(db, session.tenant.id, task_id))], resumed)

    perform(tenant, as_json, work)


def _read_object(option: str, text: str) -> dict[str, Any]:
    """Return a JSON object, read as strictly as the API reads. Raises: click.BadParameter."""
    try:
        value = reading.parse_json(text.encode(errors="surrogatepass"))
    except GalleyError as exc:
        raise click.BadParameter(f"{option}: {exc}") from None
    if not isinstance(value, dict):
        raise click.BadParameter(f"{option} must be a JSON object")
    return value


async def _cancel(session: Session, task_id: UUID, reason: str | None) -> Task:
    task, stopped = await session.do(
        lambda db: tasks.cancel(db, session.tenant.id, task_id, actor=session.actor, reason=reason)
    )
    await session.tell(cancelled=stopped)
    return task


async def _requeue(session: Session, task_id: UUID, changes: dict[str, Any], *, reuse_steps: bool) -> Task:
    return await session.do(
        lambda db: tasks.requeue(
            db, session.tenant.id, task_id, actor=session.actor, changes=changes, reuse_steps=reuse_steps
        )
    )


def _tell(session: Session, changed: list[Task], what: str) -> None:
    if session.json:
        output.machine(changed)
        return
    for task in changed:
        click.echo(f"{task.id} {what}")


def _row(task: Task) -> tuple[object, ...]:
    took = task.finished_at - task.started_at if task.finished_at and task.started_at else None
    running = datetime.now(UTC) - task.started_at if task.state == "running" and task.started_at else None
    attempt = f"{task.attempt}/{task.max_attempts}"
    return (
        task.id, task.type, task.state, task.queue, attempt, task.created_by, task.created_at, output.length(took or running),
    )  # fmt: skip


def _facts(task: Task) -> dict[str, object]:
    return {
        "id": task.id,
        "type": task.type,
        "state": task.state,
        "queue": f"{task.queue}, priority {task.priority}",
        "attempt": f"{task.attempt} of {task.max_attempts}, run {task.fence}",
        "created": f"{task.created_at:%Y-%m-%d %H:%M:%SZ} by {task.created_by}",
        "started": task.started_at,
        "finished": task.finished_at,
        "executor": task.executor_id,
        "waits for": task.waiting_for,
        "made from": task.retry_of,
        "reason": task.reason,
        "error": _told(task.error),
        "progress": task.progress,
        "payload": task.payload,
        "result": task.result,
    }


def _told(error: object) -> str | None:
    return f"{error.get('class', 'error')}: {error.get('message', '')}" if isinstance(error, dict) else None


def _why(detail: dict[str, Any]) -> str | None:
    if told := _told(detail.get("error")):
        return told
    return detail.get("reason") or detail.get("signal") or detail.get("key")
