"""Random histories of tasks, as many as time allows (E7). The machine is tests/engine_machine.py; here it plays batch after batch."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter

from services.task_states import TRANSITIONS, Transition
from tests.chaos.history import Report
from tests.chaos.processes import Place
from tests.engine_machine import play

EXAMPLES = 20_000
BATCH = 400
LONGEST_SECONDS = float(os.environ.get("MACHINE_SECONDS", "900"))  # 20,000 examples take more than an hour


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Play 20,000 examples, or for MACHINE_SECONDS; one batch in the short form, which the suite plays elsewhere."""
    report = Report()
    coverage: Counter[Transition] = Counter()
    played = 0
    until = time.monotonic() + LONGEST_SECONDS
    while not report.violations and played < (EXAMPLES if long else BATCH) and time.monotonic() < until:
        dice = seed + played // BATCH
        place.history.add("batch", seed=dice, examples=BATCH)
        try:
            made, _ = await asyncio.to_thread(
                play, place.admin_dsn, place.web_dsn, seed=dice, examples=BATCH, shrink=long
            )
        except AssertionError as exc:
            steps = "\n    ".join(getattr(exc, "__notes__", []))
            report.violations.append(f"seed {dice}: {exc}\n    {steps}")
        else:
            coverage += made
            played += BATCH
    report.figures = {"examples": played, "transitions made": coverage.total()}
    report.figures |= {
        f"{one.before} to {one.after} by {one.by}, {one.event or 'no event'}": coverage[one]
        for one in TRANSITIONS
    }
    report.expect(
        bool(report.violations) or all(coverage[one] for one in TRANSITIONS), "not every transition was made"
    )
    return report
