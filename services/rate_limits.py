"""How often something may happen, counted in this process (a leaky bucket kept as one number per key: GCRA)."""

from __future__ import annotations

import time
from collections.abc import Callable

_MOST_KEYS = 20_000


class RateLimit:
    """At most *burst* hits at once and one more every *seconds* after that, for each key by itself.

    Counted in memory: each replica counts for itself, and a restart forgets.
    """

    def __init__(self, *, burst: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._slack = (burst - 1) * seconds
        self._clock = clock
        self._full_until: dict[str, float] = {}  # when the bucket of a key will have run empty

    def wait(self, key: str) -> float:
        """Return in how many seconds *key* may be hit again; 0 for now."""
        now = self._clock()
        return max(0.0, self._full_until.get(key, now) - self._slack - now)

    def hit(self, key: str) -> None:
        """Count one hit."""
        now = self._clock()
        if len(self._full_until) >= _MOST_KEYS:
            self._full_until = {name: until for name, until in self._full_until.items() if until > now}
        if key in self._full_until or len(self._full_until) < _MOST_KEYS:
            self._full_until[key] = max(self._full_until.get(key, now), now) + self._seconds
