"""When schedules tick: cron in zones whose clocks change, days that seldom come, and expressions that cannot be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services import timings
from services.errors import Invalid
from services.timings import Timing

START = datetime(2026, 1, 1, tzinfo=UTC)


def cron(text: str, zone: str = "Europe/Berlin") -> Timing:
    return timings.check(text, zone, None, anchor_at=START)


def local(timing: Timing, after: str, count: int) -> list[str]:
    """Return the first ticks after a moment as the clocks on the wall show them, with the distance to UTC in hours."""
    found = timing.first(datetime.fromisoformat(after).replace(tzinfo=UTC), count)
    return [f"{tick.astimezone(timing.zone):%m-%d %H:%M %z}"[:-2] for tick in found]


# Berlin: 29 March 2026 02:00 → 03:00, 25 October 2026 03:00 → 02:00.
@pytest.mark.parametrize(
    ("text", "after", "ticks"),
    [
        ("30 2 * * *", "2026-03-28T00:00", ["03-28 02:30 +01", "03-29 03:00 +02", "03-30 02:30 +02"]),
        ("0,30 2 * * *", "2026-03-29T00:00", ["03-29 03:00 +02", "03-30 02:00 +02", "03-30 02:30 +02"]),
        ("0 2,3 * * *", "2026-03-29T00:00", ["03-29 03:00 +02", "03-30 02:00 +02", "03-30 03:00 +02"]),
        ("0 * * * *", "2026-03-29T00:00", ["03-29 03:00 +02", "03-29 04:00 +02"]),
        ("*/30 2 * * *", "2026-03-29T00:00", ["03-30 02:00 +02", "03-30 02:30 +02"]),
        ("30 2 * * *", "2026-10-24T12:00", ["10-25 02:30 +02", "10-26 02:30 +01"]),
        ("30 2 * * *", "2026-10-25T01:10", ["10-26 02:30 +01"]),
        ("0 * * * *", "2026-10-24T23:30", ["10-25 02:00 +02", "10-25 02:00 +01", "10-25 03:00 +01"]),
        ("*/30 2 * * *", "2026-10-24T23:30", ["10-25 02:00 +02", "10-25 02:30 +02", "10-25 02:00 +01", "10-25 02:30 +01"]),
        ("0 3 * * *", "2026-10-24T12:00", ["10-25 03:00 +01", "10-26 03:00 +01"]),
    ],
)  # fmt: skip
def test_where_the_clocks_change(text: str, after: str, ticks: list[str]) -> None:
    assert local(cron(text), after, len(ticks)) == ticks


@pytest.mark.parametrize(
    ("text", "zone", "ticks"),
    [
        ("0 0 29 2 *", "UTC", ["2028-02-29", "2032-02-29", "2036-02-29"]),
        ("0 0 L * *", "UTC", ["2026-01-31", "2026-02-28", "2026-03-31"]),
        ("0 0 LW * *", "UTC", ["2026-01-30", "2026-02-27", "2026-03-31"]),
        ("0 0 * * 1#1", "UTC", ["2026-01-05", "2026-02-02", "2026-03-02"]),
        ("0 0 * * FRIL", "UTC", None),
        ("0 0 * * 5L", "UTC", ["2026-01-30", "2026-02-27", "2026-03-27"]),
        ("0 0 13 * 5", "UTC", ["2026-01-02", "2026-01-09", "2026-01-13"]),
        ("0 0 */13 * 5", "UTC", ["2026-02-27", "2026-03-27", "2026-05-01"]),
        ("0 0 * 2 MON#5", "UTC", ["2044-02-29", "2072-02-29"]),
        ("0 23 31 12 *", "Pacific/Auckland", ["2026-12-31", "2027-12-31"]),
    ],
)  # fmt: skip
def test_days_that_seldom_come(text: str, zone: str, ticks: list[str] | None) -> None:
    if ticks is None:
        with pytest.raises(Invalid):
            cron(text, zone)
        return
    timing = cron(text, zone)
    assert [f"{tick.astimezone(timing.zone):%Y-%m-%d}" for tick in timing.first(START, len(ticks))] == ticks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("61 * * * *", "'61' is no minute"),
        ("0 24 * * *", "'24' is no hour"),
        ("0 0 32 * *", "'32' is no day-of-month"),
        ("0 0 1 13 *", "'13' is no month"),
        ("0 0 * * someday", "'SOMEDAY' is no day-of-week"),
        ("*/0 * * * *", "'*/0' is no minute"),
        ("0 0 * * 1L/2", "'1L/2' is no day-of-week"),
        ("0 0 31 2 *", "'0 0 31 2 *' names a day that never comes"),
        ("0 0 30 2 */2", "'0 0 30 2 */2' names a day that never comes"),
        ("0 0 * *", "needs five fields (minute, hour, day-of-month, month, day-of-week), not 4"),
        ("0 0 0 * * *", "needs five fields (minute, hour, day-of-month, month, day-of-week), not 6"),
        ("  ", "needs five fields (minute, hour, day-of-month, month, day-of-week), not none"),
        ("@daily", "needs five fields (minute, hour, day-of-month, month, day-of-week), not 1"),
        ("0 0 * * \u0663", "'\u0663' is no day-of-week"),
        ("0," * 150 + "0 * * * *", "is 309 characters long; at most 200 are read"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_expression_is_named(text: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        cron(text)

    assert [(fault.pointer, fault.message) for fault in caught.value.faults] == [("/cron", message)]


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../../etc/passwd", "localtime", "/etc/localtime"])
def test_zones_are_those_of_the_database_of_zones(zone: str) -> None:
    with pytest.raises(Invalid, match="is no time zone"):
        cron("0 0 * * *", zone)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "Every second"), (60, "Every minute"), (90, "Every 1 minute and 30 seconds"), (7200, "Every 2 hours"), (90_000, "Every 1 day and 1 hour")],
)  # fmt: skip
def test_intervals_in_words(seconds: int, words: str) -> None:
    assert timings.check(None, "UTC", seconds, anchor_at=START).explain() == words


@pytest.mark.parametrize(
    "timing",
    [
        cron("0 3 * * *"),
        cron("0 0 29 2 *", "Pacific/Auckland"),
        timings.check(None, "UTC", timings.LONGEST_INTERVAL, anchor_at=START),
    ],
)
def test_ticks_end_before_time_does(timing: Timing) -> None:
    last = datetime.max.replace(tzinfo=UTC)

    assert timing.next(last) is None
    assert timing.first(last.replace(year=timings.LAST_YEAR + 1), 5) == []
    assert len(timing.first(last.replace(year=timings.LAST_YEAR), 5)) == 5


@given(
    timing=st.one_of(
        st.sampled_from(["* * * * *", "*/7 * * * *", "0,30 2 * * *", "15 1-3 * * *", "0 2,3 * * 0", "59 23 L * *", "0 12 * * 1#1"]).map(cron),
        st.integers(1, 100_000).map(lambda n: timings.check(None, "UTC", n, anchor_at=START)),
    ),
    day=st.integers(0, 400),
    second=st.integers(0, 86_399),
    outage=st.integers(0, 40 * 86_400),
    most=st.integers(1, 20),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_the_latest_ticks_are_the_last_of_all_and_where_one_begins_makes_no_difference(
    timing: Timing, day: int, second: int, outage: int, most: int
) -> None:
    first = timing.next(START + timedelta(days=day, seconds=second))
    assert first is not None
    now = first + timedelta(seconds=outage)
    every = []
    for tick in timing.after(first - timedelta(microseconds=1)):
        if tick > now or len(every) > 20_000:
            break
        every.append(tick)
    if len(every) > 20_000:
        return

    assert timing.latest(first, now, most=most) == every[-most:]
    assert every == sorted(set(every))
    for tick in every[-3:]:
        assert timing.next(tick - timedelta(seconds=1)) == tick
