"""The states of a task and every legal transition, as data.

The CHECK constraints of the two tables, the diagram in the documentation and the tests are held against this table.
`by` is who makes the transition; `guard` is what its statement requires; `event` is what history records, None where the
task's own row already tells it (created, started, finished).
"""

from __future__ import annotations

from dataclasses import dataclass

LIVE = ("scheduled", "queued", "blocked", "running", "waiting")
FINAL = ("succeeded", "failed", "timed_out", "cancelled")
STATES = LIVE + FINAL


@dataclass(frozen=True, slots=True)
class Transition:
    """One legal step of a task's life. `before` is None for a task that does not exist yet."""

    before: str | None
    after: str
    by: str
    guard: str
    event: str | None


TRANSITIONS = (
    Transition(None, "queued", "caller", "idempotency insert won", None),
    Transition(None, "scheduled", "caller", "run_at lies ahead", None),
    Transition("scheduled", "queued", "scheduler", "due, row lock", None),
    Transition("queued", "running", "executor", "queue lock, lease, limits", None),
    Transition("queued", "blocked", "executor", "queue lock, key is full", "blocked"),
    Transition("blocked", "queued", "release", "key has room", None),
    Transition("running", "succeeded", "executor", "fence", None),
    Transition("running", "failed", "executor", "fence", None),
    Transition("running", "timed_out", "executor", "fence", None),
    Transition("running", "scheduled", "executor", "fence, retryable", "retry_scheduled"),
    Transition("running", "scheduled", "executor", "fence, throttled; attempt refunded", "snoozed"),
    Transition("running", "waiting", "executor", "fence; attempt refunded, key freed", "waiting"),
    Transition("running", "queued", "drain", "fence; attempt refunded", "interrupted"),
    Transition("running", "queued", "rescuer", "lease dead", "rescued"),
    Transition("running", "waiting", "rescuer", "lease dead, on_crash hold", "held"),
    Transition("running", "failed", "rescuer", "lease dead, no attempts left or on_crash fail", "failed"),
    Transition("running", "failed", "rescuer", "lease dead for the third time", "crash_limit"),
    Transition("waiting", "queued", "signal", "row lock, it waits for this name", "signalled"),
    Transition("waiting", "queued", "scheduler", "wait_until has passed", "wait_expired"),
    *(
        Transition(state, "timed_out", "scheduler", "start_before or total time has passed", "timed_out")
        for state in ("scheduled", "queued", "blocked")
    ),
    *(
        Transition(state, "cancelled", "operator", "row lock; the fence goes with the row", "cancelled")
        for state in LIVE
    ),
)


def is_final(state: str) -> bool:
    """Whether a task in *state* has ended for good."""
    return state in FINAL
