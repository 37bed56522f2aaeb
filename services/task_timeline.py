"""A task's life to look at: which state it was in for how long, and every event with the length of the run that it ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from services import task_history
from services.task_history import Event
from services.tasks import Task
from sql import SQL, Connection

# What takes a task out of running, beside its end.
GIVEN_UP = ("retry_scheduled", "snoozed", "waiting", "interrupted", "rescued", "held")
ENDS = ("succeeded", "failed", "timed_out", "cancelled", "crash_limit")
# The state after an event, where it does not depend on more; a wait for the next try is looked at by itself.
_AFTER = {
    "created": "queued", "hurried": "queued", "started": "running", "blocked": "blocked", "waiting": "waiting", "held": "waiting", "signalled": "queued",
    "wait_expired": "queued", "interrupted": "queued", "rescued": "queued", "retry_scheduled": "queued", "snoozed": "queued",
}  # fmt: skip
MOVES_DUE = (
    "hurried",
    "retry_scheduled",
    "snoozed",
    "signalled",
    "wait_expired",
)  # the row's run_at is no longer the first one
LEAST = 0.006  # of the whole width: a span that is shorter could not be seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time in one state. `fence` is the run, for running."""

    state: str
    began_at: datetime
    ended_at: datetime
    fence: int = 0

    @property
    def length(self) -> timedelta:
        """How long it lasted, or has lasted so far."""
        return max(self.ended_at - self.began_at, timedelta(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An event. `took` is the length of the run that it ended, `next_at` when the next try was due."""

    event: Event
    took: timedelta | None = None
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Entries and spans, oldest first; the last span of a live task ends now."""

    entries: tuple[Entry, ...]
    spans: tuple[Span, ...]

    @property
    def totals(self) -> dict[str, timedelta]:
        """How long the task was in each state, in the order in which it came to them."""
        found: dict[str, timedelta] = {}
        for span in self.spans:
            found[span.state] = found.get(span.state, timedelta(0)) + span.length
        return found

    def shares(self) -> list[tuple[Span, float, float]]:
        """Return each span with its begin and its width as parts of the whole, none too narrow to be seen."""
        whole = sum((span.length for span in self.spans), timedelta(0)).total_seconds()
        widths = [max(span.length.total_seconds() / whole, LEAST) if whole else 1.0 for span in self.spans]
        total, at, found = sum(widths), 0.0, []
        for span, width in zip(self.spans, widths, strict=True):
            found.append((span, at / total, width / total))
            at += width
        return found


async def read(db: Connection, tenant_id: UUID, task: Task) -> Timeline:
    """Return the timeline of a task up to now."""
    events = await task_history.list_events(db, tenant_id, task.id)
    return build(task, events, await db.fetchval(SQL["task_history.now"]))


def build(task: Task, events: Sequence[Event], now: datetime) -> Timeline:
    """Return the timeline of a task out of its whole history, as task_history.list_events has it."""
    complete = _with_starts(events)
    entries = tuple(_entry(event, complete) for event in complete)
    return Timeline(entries=entries, spans=tuple(_spans(task, entries, task.finished_at or now)))


def _with_starts(events: Sequence[Event]) -> list[Event]:
    """Add when each run began: the latest is told by the task's row, the others by the events that ended them."""
    known = {event.fence for event in events if event.event == "started"}
    added = []
    for event in events:
        began = _began(event)
        if began is not None and event.fence not in known:
            known.add(event.fence)
            added.append(replace(event, at=began, event="started", actor="executor", detail={}))
    order = {
        "created": 0,
        "started": 2,
    }  # of one moment: what ended something comes before the next start, and both after the creation
    return sorted([*events, *added], key=lambda event: (event.at, order.get(event.event, 1)))


def _began(event: Event) -> datetime | None:
    text = event.detail.get("started_at") if event.event in GIVEN_UP else None
    return datetime.fromisoformat(text) if isinstance(text, str) else None


def _entry(event: Event, events: Iterable[Event]) -> Entry:
    took = None
    if event.event in GIVEN_UP or event.event in ENDS:
        began = [e.at for e in events if e.event == "started" and e.fence == event.fence and e.at <= event.at]
        ran = event.event in GIVEN_UP or event.detail.get("from", "running") == "running"
        took = event.at - began[-1] if began and ran else None
    delay = event.detail.get("delay_seconds")
    if event.event not in {"retry_scheduled", "snoozed"} or not isinstance(delay, int | float):
        return Entry(event=event, took=took)
    return Entry(event=event, took=took, next_at=event.at + timedelta(seconds=delay))


def _spans(task: Task, entries: Sequence[Entry], end: datetime) -> Iterable[Span]:
    """Yield the stretches between the events that change the state."""
    moves = [entry for entry in entries if entry.event.event in _AFTER]
    keeps_first_due = not any(entry.event.event in MOVES_DUE for entry in entries)
    for index, entry in enumerate(moves):
        event, began = entry.event, entry.event.at
        until = moves[index + 1].event.at if index + 1 < len(moves) else end
        due = task.run_at if event.event == "created" and keeps_first_due else entry.next_at
        if index + 1 < len(moves) and moves[index + 1].event.event == "hurried":
            due = until  # it was scheduled all the while
        if due is not None and due > began and _AFTER[event.event] == "queued":
            yield Span(state="scheduled", began_at=began, ended_at=min(due, until))
            began = min(due, until)
        if until > began or event.event == "started":
            fence = event.fence if event.event == "started" else 0
            yield Span(state=_AFTER[event.event], began_at=began, ended_at=until, fence=fence)
