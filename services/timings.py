"""When a schedule ticks: cron expressions in a time zone, and intervals. Nothing here asks what time it is.

Cron is that of Debian. With a fixed minute and hour, a tick in the hour that a time zone leaves out in spring happens when the
clocks have gone forward (02:30 → 03:00; several there become one), and one in the hour that comes twice in autumn happens the
first time. Where minute or hour begin with `*`, ticks follow the hours as they really pass. Day of month and day of week must
both fit if one of them begins with `*`, else either will do. `L` is the last day of the month, `LW` its last weekday, `5L` the
last Friday, `1#1` the first Monday.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import asyncpg
from cronsim import CronSim, CronSimError

from services.errors import Fault, Invalid

FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
LONGEST_CRON = 200
LONGEST_INTERVAL = 31_536_000  # a year
LAST_YEAR = 9900  # the search for a tick goes up to 50 years ahead, and there is no year 10000
# What a stored expression or zone raises that this installation cannot read any more, say after a change of libraries.
UNREADABLE = (CronSimError, LookupError, ValueError, AssertionError)
_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)  # to read an expression by; any moment would do
_UNITS = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))
_SPACE = re.compile(r"\s+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Either `cron` with a zone of the IANA database, or every `interval_seconds` from `anchor_at` on."""

    cron: str | None
    time_zone: str
    interval_seconds: int | None
    anchor_at: datetime

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Timing:
        """Build the timing of a schedule from its row."""
        return cls(
            cron=row["cron"],
            time_zone=row["time_zone"],
            interval_seconds=row["interval_seconds"],
            anchor_at=row["anchor_at"],
        )

    @property
    def zone(self) -> ZoneInfo:
        """The zone, in which its ticks are shown as well."""
        return ZoneInfo(self.time_zone)

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks later than *moment*, ascending, in UTC. It ends where there are none for 50 years, and has none after LAST_YEAR."""
        if moment.year > LAST_YEAR:
            return
        if self.interval_seconds is not None:
            step = timedelta(seconds=self.interval_seconds)
            tick = self.anchor_at + step * max((moment - self.anchor_at) // step + 1, 1)
            while True:
                yield tick
                tick += step
        assert self.cron is not None
        latest = moment
        for local in CronSim(self.cron, moment.astimezone(self.zone)):
            tick = local.astimezone(UTC)
            # In the hour that comes twice the first answers lie before *moment*; in the one left out several are the same.
            if tick > latest:
                latest = tick
                yield tick

    def next(self, moment: datetime) -> datetime | None:
        """Return the first tick later than *moment*, None when there is none for 50 years."""
        return next(self.after(moment), None)

    def first(self, moment: datetime, wanted: int) -> list[datetime]:
        """Return the first *wanted* ticks later than *moment*."""
        return [tick for tick, _ in zip(self.after(moment), range(wanted), strict=False)]

    def latest(self, first: datetime, now: datetime, *, most: int) -> list[datetime]:
        """Return the last *most* ticks from the tick *first* until *now*, ascending; what a long outage left is not walked through."""
        back = timedelta(seconds=60 * most)
        while True:
            start = max(now - back, first - timedelta(microseconds=1))
            found = []
            for tick in self.after(start):
                if tick > now:
                    break
                found.append(tick)
            if len(found) >= most or start < first:
                return found[-most:]
            back *= 4

    def explain(self) -> str:
        """Say in words when it ticks."""
        if self.interval_seconds is not None:
            return f"Every {_every(self.interval_seconds)}"
        assert self.cron is not None
        try:
            text = CronSim(self.cron, _SOME_TIME).explain()
        except UNREADABLE:
            text = self.cron
        return f"{text}, {self.time_zone}"


def check(cron: str | None, time_zone: str, interval_seconds: int | None, *, anchor_at: datetime) -> Timing:
    """Return the timing that was asked for, its expression tidied up. Raises: Invalid naming each fault."""
    faults = []
    if (cron is None) == (interval_seconds is None):
        faults.append(Fault("/cron", "give either cron or interval_seconds"))
    if interval_seconds is not None and not 1 <= interval_seconds <= LONGEST_INTERVAL:
        faults.append(Fault("/interval_seconds", f"must be from 1 to {LONGEST_INTERVAL}"))
    if time_zone not in zones():
        faults.append(
            Fault(
                "/time_zone", f"{time_zone[:60]!r} is no time zone; there are UTC, Europe/Berlin and the like"
            )
        )
    if cron is not None:
        cron = _SPACE.sub(" ", cron.strip()).upper()
        if wrong := _fault(cron):
            faults.append(Fault("/cron", wrong))
    if faults:
        raise Invalid(faults[0].message, faults=tuple(faults))
    anchor_at = anchor_at.replace(microsecond=0)
    return Timing(cron=cron, time_zone=time_zone, interval_seconds=interval_seconds, anchor_at=anchor_at)


@cache
def zones() -> tuple[str, ...]:
    """Return the names of all time zones, in order."""
    return tuple(sorted(zoneinfo.available_timezones() - {"localtime", "Factory"}))


def _fault(cron: str) -> str | None:
    """Say what is wrong with a cron expression, and where in it."""
    parts = cron.split(" ")
    if len(cron) > LONGEST_CRON:
        return f"is {len(cron)} characters long; at most {LONGEST_CRON} are read"
    if len(parts) != len(FIELDS):
        return f"needs five fields ({', '.join(FIELDS)}), not {len(parts) if cron else 'none'}"
    for at, (name, part) in enumerate(zip(FIELDS, parts, strict=True)):
        alone = ["*"] * len(FIELDS)
        alone[at] = part
        if not _reads(" ".join(alone)):
            return f"{part!r} is no {name}"
    comes = _reads(cron) and next(CronSim(cron, _SOME_TIME), None) is not None
    return None if comes else f"{cron!r} names a day that never comes"


def _reads(cron: str) -> bool:
    try:
        CronSim(cron, _SOME_TIME)
    except (
        CronSimError,
        AssertionError,
        ValueError,
    ):  # it asserts where a step follows something without a number
        return False
    return True


def _every(seconds: int) -> str:
    """Return a length of time in whole units: 1 hour and 30 minutes."""
    parts: list[str] = []
    for name, length in _UNITS:
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(
                name
                if count == 1 and not parts and not seconds
                else f"{count} {name}{'s' if count > 1 else ''}"
            )
    return " and ".join(parts)
