"""Decides what the end of a run means for its task: succeeded, try again, come back later, or failed."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import orjson
from pydantic import ValidationError

from server.finisher import Outcome
from services import task_types
from services.errors import Forbidden, GalleyError, Invalid, NotFound, StaleAttempt
from services.task_context import Run, Suspended
from services.task_types import Permanent, Throttled

log = logging.getLogger(__name__)

MAX_RESULT_BYTES = 1 << 20
MAX_MESSAGE_CHARACTERS = 2000
DEFAULT_SNOOZE_SECONDS = 10.0
# These would fail in the same way again.
NOT_RETRIED = (Permanent, Invalid, NotFound, Forbidden, ValidationError)


def outcome_of(run: Run, ended: Any, *, stop_reason: str, dice: random.Random) -> Outcome | None:
    """Return what to write down, or None when the run has already moved its task on or no longer owns it.

    ended: what the code returned, or the exception it ended with.
    """
    if stop_reason == "timeout":
        return _failed(
            run,
            {"class": "timeout", "message": "the run took longer than its time-out"},
            dice=dice,
            final="timed_out",
        )
    if isinstance(ended, Suspended | StaleAttempt):
        return None
    if isinstance(ended, Throttled):
        return _throttled(run, ended, dice=dice)
    if isinstance(ended, asyncio.CancelledError):
        return _failed(run, {"class": "interrupted", "message": "the code cancelled itself"}, dice=dice)
    if isinstance(ended, BaseException):
        return _raised(run, ended, dice=dice)
    return _succeeded(run, ended)


def _succeeded(run: Run, result: Any) -> Outcome:
    try:
        data = orjson.dumps(result)
    except TypeError as exc:
        return _error(run, "failed", {"class": "result", "message": f"the result is not JSON: {exc}"})
    if len(data) > MAX_RESULT_BYTES or b"\\u0000" in data:
        return _error(
            run,
            "failed",
            {
                "class": "result",
                "message": f"the result has {len(data)} bytes or holds a NUL; at most {MAX_RESULT_BYTES} are kept",
            },
        )
    return Outcome(run=run, state="succeeded", result=data.decode())


def _raised(run: Run, exc: BaseException, *, dice: random.Random) -> Outcome:
    name = exc.slug if isinstance(exc, GalleyError) else type(exc).__name__
    error = {"class": name, "message": str(exc).replace("\x00", "")[:MAX_MESSAGE_CHARACTERS] or name}
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
    if isinstance(exc, NOT_RETRIED):
        return _error(run, "failed", error)
    return _failed(run, error, dice=dice)


def _throttled(run: Run, exc: Throttled, *, dice: random.Random) -> Outcome:
    error = {"class": exc.slug, "message": str(exc)}
    if run.attempt > run.max_attempts:  # snoozed so often that snoozes began to count
        return _error(run, "failed", error)
    delay = (exc.retry_after or DEFAULT_SNOOZE_SECONDS) * dice.uniform(1.0, 1.1)
    return Outcome(run=run, retry_event="snoozed", error=error, delay=delay, counts=False)


def _failed(run: Run, error: dict[str, Any], *, dice: random.Random, final: str = "failed") -> Outcome:
    """Try again while attempts last, else end in *final*."""
    if run.attempt >= run.max_attempts:
        return _error(run, final, error)
    policy = (
        task_types.load_all()[run.type].retry if run.type in task_types.load_all() else task_types.Retry()
    )
    delay = policy.delay(run.attempt, dice=dice).total_seconds()
    return Outcome(
        run=run, retry_event="retry_scheduled", error=error | {"attempt": run.attempt}, delay=delay
    )


def _error(run: Run, state: str, error: dict[str, Any]) -> Outcome:
    return Outcome(run=run, state=state, error=error | {"attempt": run.attempt})
