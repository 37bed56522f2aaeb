"""Random histories on a real database never leave the table of transitions, and reach all of it (E7: P3-P8, P16, P21).

Two parts of 200 examples of 40 steps (MACHINE_EXAMPLES for another number); `python -m tests.chaos machine` plays 20,000 (MACHINE_SECONDS at most). CHAOS_SEED takes other dice,
MACHINE_SHRINK=1 looks for the fewest steps that lead to a violation.
"""

from __future__ import annotations

import os

import pytest

from services.task_states import TRANSITIONS
from tests.conftest import Cluster
from tests.engine_machine import play

SEED = int(os.environ.get("CHAOS_SEED", "20261122"))
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "200"))
SHRINK = "MACHINE_SHRINK" in os.environ
ANSWERS = {"claim claimed", "claim paused", "claim limited", "claim unregistered", "ended", "refused"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(2))
def test_no_order_of_events_breaks_a_promise_and_every_transition_is_made(
    cluster: Cluster, database_name: str, part: int
) -> None:
    seed = SEED + part

    coverage, answers = play(
        cluster.admin(database_name), cluster.web(database_name), seed=seed, examples=EXAMPLES, shrink=SHRINK
    )

    print(f"seed {seed}: {dict(answers)}")
    for one in TRANSITIONS:
        print(f"{coverage[one]:6} {one.before} -> {one.after} by {one.by} ({one.event})")
    assert [one for one in TRANSITIONS if not coverage[one]] == []
    assert set(answers) >= ANSWERS
