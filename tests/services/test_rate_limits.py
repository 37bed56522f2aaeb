"""No key is ever hit more often than its burst and its rate allow, and nobody is held back for another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services import rate_limits
from services.rate_limits import RateLimit


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(
    burst=st.integers(1, 20),
    seconds=st.floats(0.01, 60),
    pauses=st.lists(st.floats(0, 120), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_the_rate(burst: int, seconds: float, pauses: list[float]) -> None:
    clock = Clock()
    limit = RateLimit(burst=burst, seconds=seconds, clock=clock)
    begun, hits = clock.now, 0

    for pause in pauses:
        clock.now += pause
        if limit.wait("a") == 0:
            limit.hit("a")
            hits += 1
        assert hits <= burst + (clock.now - begun) / seconds + 1e-6


def test_after_the_wait_one_more_is_allowed() -> None:
    clock = Clock()
    limit = RateLimit(burst=3, seconds=10, clock=clock)
    for _ in range(3):
        assert limit.wait("a") == 0
        limit.hit("a")

    assert limit.wait("a") == 10
    assert limit.wait("b") == 0
    clock.now += 10
    assert limit.wait("a") == 0
    limit.hit("a")
    assert limit.wait("a") == 10


def test_a_flood_of_keys_does_not_fill_the_memory() -> None:
    clock = Clock()
    limit = RateLimit(burst=1, seconds=1000, clock=clock)

    for number in range(rate_limits._MOST_KEYS + 500):
        limit.hit(str(number))

    assert len(limit._full_until) <= rate_limits._MOST_KEYS
    clock.now += 2000
    limit.hit("new")
    assert list(limit._full_until) == ["new"]
