"""The states of a task and every legal transition, as data.

The CHECK constraints of the two tables, the events that SQL writes and docs/task_states.md are held against this table by
tests/services/test_task_states.py; `python -m services.task_states > docs/task_states.md` writes the document again.
tests/services/test_state_machine.py makes random moves on a real database, allows none that is not here and wants all that are.
`by` is who makes the transition; `guard` is what its statement requires; `event` is what history records, None where the
task's own row already tells it (created, started, finished).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

LIVE = ("scheduled", "queued", "blocked", "running", "waiting")
FINAL = ("succeeded", "failed", "timed_out", "cancelled")
STATES = LIVE + FINAL


@dataclass(frozen=True, slots=True)
class Transition:
    """One legal step of a task's life. `before` is None for a task that does not exist yet.

    `attempts` is what it adds to the attempts used: a claim takes one, and what was no attempt gives it back (RULINGS 11).
    """

    before: str | None
    after: str
    by: str
    guard: str
    event: str | None
    attempts: int = 0

    @property
    def raises_fence(self) -> bool:
        """Whether the fence is raised: each run has a number of its own, and one that loses the task no longer knows it."""
        return self.after == "running" or (self.before == "running" and self.after in LIVE)


TRANSITIONS = (
    Transition(None, "queued", "caller", "idempotency insert won", None),
    Transition(None, "scheduled", "caller", "run_at lies ahead", None),
    Transition("scheduled", "queued", "scheduler", "due, row lock", None),
    Transition("scheduled", "queued", "operator", "row lock", "hurried"),
    Transition("queued", "running", "executor", "queue lock, lease, limits", None, +1),
    Transition("queued", "blocked", "executor", "queue lock, key is full", "blocked"),
    Transition("blocked", "queued", "release", "key has room", None),
    Transition("running", "succeeded", "executor", "fence", None),
    Transition("running", "failed", "executor", "fence", None),
    Transition("running", "timed_out", "executor", "fence", None),
    Transition("running", "scheduled", "executor", "fence, retryable", "retry_scheduled"),
    Transition("running", "queued", "executor", "fence, retryable at once", "retry_scheduled"),
    Transition("running", "scheduled", "executor", "fence, throttled", "snoozed", -1),
    Transition("running", "waiting", "executor", "fence; the key is freed", "waiting", -1),
    Transition("running", "queued", "drain", "fence", "interrupted", -1),
    Transition("running", "queued", "rescuer", "lease dead, or long past its deadline", "rescued"),
    Transition("running", "waiting", "rescuer", "the same, on_crash hold", "held"),
    Transition("running", "failed", "rescuer", "the same, no attempts left or on_crash fail", "failed"),
    Transition("running", "failed", "rescuer", "the same for the third time", "crash_limit"),
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


def after_silent_moves(states: Iterable[str]) -> set[str]:
    """Return *states* and all that lead on from them without an event: what a reader of history must reckon with."""
    reached = set(states)
    while more := {one.after for one in TRANSITIONS if one.event is None and one.before in reached} - reached:
        reached |= more
    return reached


def diagram() -> str:
    """Return the transitions as a Mermaid state diagram, one arrow for each pair of states."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for one in TRANSITIONS:
        label = one.by if one.event in {None, one.after} else f"{one.by}: {one.event}"
        arrows.setdefault((one.before or "[*]", one.after), []).append(label)
    lines = ["stateDiagram-v2", "  direction LR"]
    lines += [
        f"  {before} --> {after}: {', '.join(dict.fromkeys(labels))}"
        for (before, after), labels in arrows.items()
    ]
    lines += [f"  {state} --> [*]" for state in FINAL]
    return "\n".join(lines)


def document() -> str:
    """Return docs/task_states.md: the diagram and the table."""
    rows = [
        f"| {one.before or '–'} | {one.after} | {one.by} | {one.guard} | {_signed(one.attempts)} |"
        f" {one.event or 'told by the row'} |"
        for one in TRANSITIONS
    ]
    return "\n".join(
        (
            "# The states of a task",
            "",
            "Made from `services/task_states.py` by `python -m services.task_states > docs/task_states.md`; a test compares them.",
            "",
            f"Live states are rows of `tasks`: {', '.join(LIVE)}. Final states are rows of `task_history`: {', '.join(FINAL)}.",
            "Nothing leads out of a final state: to run such a task again is to create a new one that points to it (`retry_of`).",
            "",
            "```mermaid",
            diagram(),
            "```",
            "",
            "| from | to | by | what its statement requires | attempts | what history records |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        )
    )


def _signed(number: int) -> str:
    return f"{number:+d}".replace("-", "−") if number else ""


if __name__ == "__main__":
    sys.stdout.write(document())
