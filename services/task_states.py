"""The states of a task and every legal transition, as data.

The CHECK constraints of the two tables, the events that SQL writes and docs/task_states.md are held against this table by
tests/services/test_task_states.py; `python -m services.task_states > docs/task_states.md` writes the document again.
`by` is who makes the transition; `guard` is what its statement requires; `event` is what history records, None where the
task's own row already tells it (created, started, finished).
"""

from __future__ import annotations

import sys
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
        f"| {one.before or '–'} | {one.after} | {one.by} | {one.guard} | {one.event or 'told by the row'} |"
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
            "| from | to | by | what its statement requires | what history records |",
            "|---|---|---|---|---|",
            *rows,
            "",
        )
    )


if __name__ == "__main__":
    sys.stdout.write(document())
