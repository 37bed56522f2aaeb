"""What the end of a run means: kinds of errors, waits, policies of single types, and what may be kept as a result."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ValidationError

from server.finisher import Outcome
from server.outcomes import MAX_RESULT_BYTES, UNKNOWN_SNOOZES, outcome_of
from services.errors import Forbidden, Invalid, NotFound, StaleAttempt, Unavailable
from services.task_context import Run, Suspended
from services.task_types import (
    NotKnownHere,
    Permanent,
    Poison,
    ProcessCrashed,
    ProcessLimit,
    Retry,
    Retryable,
    StepMismatch,
    Throttled,
)
from tests.engine import AnyPayload, task_type

RUN = Run(
    id=UUID(int=1), tenant_id=UUID(int=2), type="trial", type_version=1, fence=1, attempt=1, max_attempts=5, seconds_left=60.0,
    created_by="user:ada", request_id=None, payload={},
)  # fmt: skip
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class Wrong(BaseModel):
    number: int


def unreadable() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Wrong(number="many")
    return caught.value


@contextmanager
def trial(**more: Any) -> Iterator[None]:
    async def run(task: Any, payload: AnyPayload) -> None: ...

    with task_type("trial", run, **more):
        yield


def judge(ended: Any, run: Run = RUN, *, stop_reason: str = "", seed: int = 7) -> Outcome:
    outcome = outcome_of(run, ended, stop_reason=stop_reason, dice=random.Random(seed))
    assert outcome is not None
    return outcome


def verdict(ended: Any, run: Run = RUN, **more: Any) -> str:
    outcome = judge(ended, run, **more)
    return outcome.state or outcome.retry_event


@pytest.mark.parametrize(
    ("error", "first", "second", "last"),
    [
        (ValueError("x"), "retry_scheduled", "retry_scheduled", "failed"),
        (Retryable("x"), "retry_scheduled", "retry_scheduled", "failed"),
        (Unavailable("x"), "retry_scheduled", "retry_scheduled", "failed"),
        (asyncio.CancelledError(), "retry_scheduled", "retry_scheduled", "failed"),
        (Poison("x"), "retry_scheduled", "failed", "failed"),
        (ProcessCrashed("x"), "retry_scheduled", "failed", "failed"),
        (Permanent("x"), "failed", "failed", "failed"),
        (ProcessLimit("x"), "failed", "failed", "failed"),
        (StepMismatch("x"), "failed", "failed", "failed"),
        (Invalid("x"), "failed", "failed", "failed"),
        (NotFound("x"), "failed", "failed", "failed"),
        (Forbidden("x"), "failed", "failed", "failed"),
        (unreadable(), "failed", "failed", "failed"),
        (Throttled("x"), "snoozed", "snoozed", "snoozed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_every_error_has_a_kind_and_the_kind_says_what_becomes_of_the_task(
    error: BaseException, first: str, second: str, last: str
) -> None:
    with trial():
        verdicts = tuple(verdict(error, RUN._replace(attempt=attempt)) for attempt in (1, 2, 5))

    assert verdicts == (first, second, last)


def test_a_type_gives_single_errors_another_kind_or_other_waits() -> None:
    retry = Retry(
        base=SECOND,
        by_error={
            OSError: "permanent",
            ConnectionError: Retry(base=HOUR, cap=HOUR),
            "BadZipFile": "poison",
            "quota": "throttled",
            Invalid: "retryable",
            "timeout": "permanent",
        },
    )

    class BadZipFile(Exception):
        pass

    again = RUN._replace(attempt=2)
    with trial(retry=retry, max_snoozes=2):
        assert verdict(FileNotFoundError("no")) == "failed", "a subclass of what is named"
        assert HOUR / 2 <= timedelta(seconds=judge(ConnectionResetError("no")).delay) <= HOUR, (
            "the nearer class"
        )
        assert (verdict(BadZipFile("no")), verdict(BadZipFile("no"), again)) == ("retry_scheduled", "failed")
        assert verdict(Permanent("no", slug="quota")) == "snoozed", "a name counts before a class"
        assert verdict(Permanent("no")) == "failed"
        assert verdict(Invalid("no")) == "retry_scheduled"
        assert judge(ValueError("no")).delay <= 1
        assert verdict(None, stop_reason="timeout") == "timed_out"
        assert verdict(None, stop_reason="stalled") == "retry_scheduled"


def test_waits_double_up_to_the_cap_and_are_half_random() -> None:
    retry, dice = Retry(base=2 * SECOND, cap=MINUTE), random.Random(1)

    for attempt, full in ((1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (40, 60)):
        waits = [retry.delay(attempt, dice=dice).total_seconds() for _ in range(200)]
        assert full / 2 <= min(waits) < full * 0.55
        assert full * 0.95 < max(waits) <= full


def test_the_same_dice_give_the_same_waits() -> None:
    with trial(retry=Retry(base=MINUTE)):
        waits = [judge(ValueError("x"), seed=seed).delay for seed in (1, 1, 2)]

    assert waits[0] == waits[1] != waits[2]


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [(7.0, 7.0, 7.7), (0.0, 0.01, 0.01), (-5.0, 0.01, 0.01), (1e9, 3600.0, 3600.0), (None, 30.0, 60.0)],
)
def test_a_snooze_lasts_as_long_as_the_provider_asks_within_an_hour(
    retry_after: float | None, least: float, most: float
) -> None:
    with trial(retry=Retry(base=MINUTE)):
        outcome = judge(Throttled("wait", retry_after=retry_after))

    assert least <= outcome.delay <= most
    assert (outcome.counts, outcome.error) == (False, {"class": "throttled", "message": "wait"})


def test_snoozes_are_bounded_and_the_last_one_says_so() -> None:
    with trial(max_snoozes=3):
        assert verdict(Throttled("wait"), RUN._replace(snoozes=2)) == "snoozed"
        outcome = judge(Throttled("wait"), RUN._replace(snoozes=3))

    assert outcome.state == "failed"
    assert outcome.error == {
        "class": "throttled",
        "message": "asked to wait 4 times, once more than the type allows: wait",
        "attempt": 1,
    }


@pytest.mark.parametrize("reason", ["timeout", "stalled"])
def test_a_run_that_was_stopped_for_time_is_tried_again_then_timed_out(reason: str) -> None:
    with trial():
        first = judge(None, stop_reason=reason)
        last = judge(None, RUN._replace(attempt=5), stop_reason=reason)

    assert (first.retry_event, first.error["class"]) == ("retry_scheduled", reason)
    assert (last.state, last.error["class"]) == ("timed_out", reason)


def test_when_the_total_time_is_up_no_attempt_is_left_however_many_there_were() -> None:
    with trial():
        outcome = judge(None, RUN._replace(deadline_is_total=True), stop_reason="timeout")

    assert (outcome.state, outcome.error["class"]) == ("timed_out", "total_timeout")


def test_a_run_that_waits_or_lost_its_task_writes_nothing() -> None:
    dice = random.Random(1)
    with trial():
        assert outcome_of(RUN, Suspended("x"), stop_reason="", dice=dice) is None
        assert outcome_of(RUN, StaleAttempt("x"), stop_reason="", dice=dice) is None


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("x" * MAX_RESULT_BYTES, "the result has 1048578 bytes; at most 1048576 are kept"),
        ("a\x00b", "the result holds the character NUL, which cannot be kept"),
        ({1, 2}, "the result is not JSON: Type is not JSON serializable: set"),
    ],
    ids=["too large", "NUL", "no JSON"],
)
def test_a_result_that_cannot_be_kept_fails_the_task_and_says_why(result: Any, message: str) -> None:
    with trial():
        outcome = judge(result)

    assert (outcome.state, outcome.error) == (
        "failed",
        {"class": "result", "message": message, "attempt": 1},
    )


def test_a_result_of_exactly_the_limit_is_kept() -> None:
    with trial():
        outcome = judge("x" * (MAX_RESULT_BYTES - 2))

    assert (outcome.state, len(outcome.result or "")) == ("succeeded", MAX_RESULT_BYTES)


def test_a_type_that_this_release_does_not_know_is_left_to_others_for_about_an_hour() -> None:
    unknown = RUN._replace(type="unheard_of")
    waited = 0.0
    for snoozes in range(UNKNOWN_SNOOZES):
        outcome = judge(NotKnownHere("no such type"), unknown._replace(snoozes=snoozes))
        assert (outcome.retry_event, outcome.counts) == ("snoozed", False)
        waited += outcome.delay

    assert 0.5 < waited / 3600 < 1.5
    outcome = judge(NotKnownHere("no such type"), unknown._replace(snoozes=UNKNOWN_SNOOZES))
    assert (outcome.state, outcome.error["class"]) == ("failed", "unknown-task-type")


def test_a_text_about_nul_is_no_nul() -> None:
    with trial():
        outcome = judge("write \\u0000 for it")

    assert (outcome.state, outcome.result) == ("succeeded", '"write \\\\u0000 for it"')
