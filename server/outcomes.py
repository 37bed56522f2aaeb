"""Decides what the end of a run means for its task: succeeded, try again, come back later, or failed."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from datetime import timedelta
from typing import Any

import orjson

from server import traces
from server.finisher import Outcome
from services import task_types
from services.errors import GalleyError, StaleAttempt
from services.task_context import Run, Suspended
from services.task_types import NotKnownHere, Retry

log = logging.getLogger(__name__)

MAX_RESULT_BYTES = 1 << 20
MAX_MESSAGE_CHARACTERS = 2000
POISON_ATTEMPTS = 2
SNOOZE_SECONDS = (0.01, 3600.0)  # whatever a provider asks for, the task comes back within the hour
# While two releases run, a task of the newer one may be claimed by the older one again and again.
UNKNOWN_RETRY, UNKNOWN_SNOOZES = Retry(base=timedelta(seconds=1), cap=timedelta(seconds=30)), 150
# NUL as JSON has it. Behind another backslash it is four digits of text.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# What a run that was stopped for a reason is said to have failed of.
STOPPED = {
    "timeout": "the run took longer than its time-out",
    "stalled": "the run showed no sign of progress for longer than its type allows",
}


def outcome_of(run: Run, ended: Any, *, stop_reason: str, dice: random.Random) -> Outcome | None:
    """Return what to write down, or None when the run has already moved its task on or no longer owns it.

    ended: what the code returned, or the exception it ended with.
    """
    try:
        return _judged(run, ended, stop_reason=stop_reason, dice=dice)
    except Exception as exc:  # a type's own policy takes part, and without an end a task would hang
        log.exception("end of a run could not be judged", extra={"task_id": str(run.id), "type": run.type})
        message = f"how it ended could not be judged: {type(exc).__name__}"
        return _error(run, "failed", {"class": _class_of(ended), "message": message})


def _judged(run: Run, ended: Any, *, stop_reason: str, dice: random.Random) -> Outcome | None:
    if stop_reason == "timeout" and run.deadline_is_total:
        error = {"class": "total_timeout", "message": "its total time is up"}
        return _error(run, "timed_out", error)
    if stop_reason in STOPPED:
        limit = f" of {max(1, round(run.seconds_left))} s" if stop_reason == "timeout" else ""
        error = {"class": stop_reason, "message": STOPPED[stop_reason] + limit}
        return _failed(run, error, dice=dice, final="timed_out")
    if isinstance(ended, Suspended | StaleAttempt):
        return None
    if isinstance(ended, asyncio.CancelledError):
        return _failed(run, {"class": "interrupted", "message": "the code cancelled itself"}, dice=dice)
    if isinstance(ended, BaseException):
        return _raised(run, ended, dice=dice)
    return _succeeded(run, ended)


def _succeeded(run: Run, result: Any) -> Outcome:
    try:
        data = orjson.dumps(result)
    except TypeError as exc:
        return _unkept(run, f"the result is not JSON: {exc}")
    if len(data) > MAX_RESULT_BYTES:
        return _unkept(run, f"the result has {len(data)} bytes; at most {MAX_RESULT_BYTES} are kept")
    if b"\\u0000" in data and _NUL.search(data):
        return _unkept(run, "the result holds the character NUL, which cannot be kept")
    return Outcome(run=run, state="succeeded", result=data.decode())


def _unkept(run: Run, message: str) -> Outcome:
    return _error(run, "failed", {"class": "result", "message": message})


def _raised(run: Run, exc: BaseException, *, dice: random.Random) -> Outcome:
    name = _class_of(exc)
    error: dict[str, Any] = {"class": name, "message": _message(exc) or name}
    if isinstance(exc, NotKnownHere):
        return _left_to_others(run, error, dice=dice)
    kind, _ = _policy(run)[0].judge(name, exc)
    if kind == "throttled":
        return _throttled(run, exc, error, dice=dice)
    if trace := traces.of(exc):
        error["trace"] = trace
    extra = {
        "task_id": str(run.id),
        "type": run.type,
        "fence": run.fence,
        "attempt": run.attempt,
        "error_class": name,
    }
    if isinstance(exc, GalleyError):
        log.warning("run failed", extra=extra)
    else:
        log.error("run failed", extra=extra, exc_info=exc)
    return _failed(run, error, exc, dice=dice)


def _class_of(exc: Any) -> str:
    return exc.slug if isinstance(exc, GalleyError) else type(exc).__name__


def _message(exc: BaseException) -> str:
    """Return what an error says, as far as it can say it and PostgreSQL can keep it."""
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - the error's own code
        return ""
    return text.replace("\x00", "").encode(errors="replace").decode()[:MAX_MESSAGE_CHARACTERS]


def _left_to_others(run: Run, error: dict[str, Any], *, dice: random.Random) -> Outcome:
    """Come back for a process that knows the type: for about an hour, then nobody is going to."""
    if run.snoozes >= UNKNOWN_SNOOZES:
        return _error(run, "failed", error)
    delay = UNKNOWN_RETRY.delay(run.snoozes + 1, dice=dice).total_seconds()
    return Outcome(run=run, retry_event="snoozed", error=error, delay=delay, counts=False)


def _throttled(run: Run, exc: BaseException, error: dict[str, Any], *, dice: random.Random) -> Outcome:
    """Come back without using the attempt up, but not for ever."""
    retry, max_snoozes = _policy(run)
    if run.snoozes >= max_snoozes:
        message = f"asked to wait {run.snoozes + 1} times, once more than the type allows: {error['message']}"
        return _error(run, "failed", error | {"message": message[:MAX_MESSAGE_CHARACTERS]})
    asked: float | None = getattr(exc, "retry_after", None)
    if asked is None:
        delay = retry.delay(run.snoozes + 1, dice=dice).total_seconds()
    else:
        delay = asked * dice.uniform(1.0, 1.1)  # a tenth apart, so that not all come back at once
    least, most = SNOOZE_SECONDS
    delay = min(max(delay, least), most)
    return Outcome(run=run, retry_event="snoozed", error=error, delay=delay, counts=False)


def _failed(
    run: Run,
    error: dict[str, Any],
    exc: BaseException | None = None,
    *,
    dice: random.Random,
    final: str = "failed",
) -> Outcome:
    """Try again as the type's policy has it while attempts last, else end in *final*."""
    kind, policy = _policy(run)[0].judge(error["class"], exc)
    most = min(run.max_attempts, POISON_ATTEMPTS) if kind == "poison" else run.max_attempts
    if kind == "permanent" or run.attempt >= most:
        return _error(run, final, error)
    delay = policy.delay(run.attempt, dice=dice).total_seconds()
    return Outcome(
        run=run, retry_event="retry_scheduled", error=error | {"attempt": run.attempt}, delay=delay
    )


def _error(run: Run, state: str, error: dict[str, Any]) -> Outcome:
    return Outcome(run=run, state=state, error=error | {"attempt": run.attempt})


def _policy(run: Run) -> tuple[Retry, int]:
    """Return the retry policy of the run's type and how often it may snooze; the usual ones for a type this release lacks."""
    task_type = task_types.load_all().get(run.type)
    return (task_type.retry, task_type.max_snoozes) if task_type else (Retry(), 0)
