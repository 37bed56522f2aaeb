"""How an executor behaves, as the settings say."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from server.lease import Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How an executor behaves."""

    slots: int = 200
    poll_min: timedelta = timedelta(seconds=0.05)
    poll_max: timedelta = timedelta(seconds=1)
    grace: timedelta = timedelta(seconds=5)  # for code to end after it was cancelled
    drain: timedelta = timedelta(seconds=5)  # for runs to end by themselves when the process stops
    timing: Timing = field(default_factory=Timing)
    release: str = "0"
    worker_processes: int = 2  # at the same time, for code that computes, blocks or may crash
