"""Keeps the background loops alive, and knows when each last proved that it works.

A loop is an endless coroutine that calls `beat()` after each proven round trip. One that ends or raises is started again
after n failures in min(2^n, 20) tenths of a second, give or take a half; a beat resets n. A loop that never beats turns readiness red, alive or not.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

Beat = Callable[[], None]
Loop = Callable[[Beat], Awaitable[None]]

MAX_BACKOFF_SECONDS = 2.0  # readiness turns green again within 5 s of PostgreSQL's return
MAX_SILENCE_SECONDS = 10.0  # readiness turns red after two intervals, at most this
MANUAL_AFTER_FAILURES = 10  # from here on a person should look


@dataclass(slots=True)
class _Watched:
    name: str
    loop: Loop
    interval: float
    failures: int = 0
    last_beat: float = field(default_factory=time.monotonic)
    last_error: str = ""
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopHealth:
    """How one loop is doing. `age` is the seconds since its last proven round trip."""

    name: str
    age: float
    limit: float
    failures: int
    last_error: str

    @property
    def fault(self) -> str | None:
        """None when well, else one sentence."""
        if self.age <= self.limit:
            return None
        return f"no proven round trip for {self.age:.0f} s ({self.failures} failures; {self.last_error or 'no error seen'})"


class Supervisor:
    """Runs loops until it is stopped."""

    def __init__(self) -> None:
        self._watched: list[_Watched] = []

    def start(self, name: str, loop: Loop, *, interval: float) -> None:
        """Run *loop* from now on. *interval*: seconds within which it promises to beat."""
        watched = _Watched(name, loop, interval)
        watched.task = asyncio.create_task(self._keep_alive(watched), name=name)
        self._watched.append(watched)

    async def stop(self, *names: str) -> None:
        """Stop the loops of these names, or all of them, and wait until they have ended."""
        chosen = [w for w in self._watched if not names or w.name in names]
        tasks = [w.task for w in chosen if w.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watched = [w for w in self._watched if w not in chosen]

    def health(self) -> list[LoopHealth]:
        """Return the health of every loop."""
        now = time.monotonic()
        return [
            LoopHealth(
                name=w.name,
                age=now - w.last_beat,
                limit=max(min(2 * w.interval, MAX_SILENCE_SECONDS), w.interval),
                failures=w.failures,
                last_error=w.last_error,
            )
            for w in self._watched
        ]

    async def _keep_alive(self, watched: _Watched) -> None:
        def beat() -> None:
            watched.last_beat = time.monotonic()
            watched.failures = 0

        while True:
            try:
                await watched.loop(beat)
                watched.last_error = "it ended"
            except Exception as exc:  # noqa: BLE001 - whatever it was, the loop has to run again
                watched.last_error = f"{type(exc).__name__}: {exc}"
            watched.failures += 1
            longest = min(0.1 * 2.0 ** min(watched.failures, 10), MAX_BACKOFF_SECONDS)
            delay = longest * random.uniform(0.5, 1.5)  # noqa: S311 - spreads restarts, guards nothing
            level = logging.CRITICAL if watched.failures == MANUAL_AFTER_FAILURES else logging.WARNING
            log.log(
                level,
                "background loop failed",
                extra={
                    "loop": watched.name,
                    "failures": watched.failures,
                    "error": watched.last_error,
                    "retry_in_seconds": round(delay, 2),
                },
            )
            await asyncio.sleep(delay)
