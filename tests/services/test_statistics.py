"""The numbers and lengths of runs: percentiles out of counted ranges, folded and not, per minute and per hour."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from server.database import Database
from services import statistics
from services.errors import Forbidden
from services.statistics import WINDOWS, Report
from sql import SQL
from tests import engine
from tests.conftest import make_tenant

NOW = datetime(2026, 11, 20, 14, 30, 30, tzinfo=UTC)
WIDTH = 2 ** (1 / statistics.PER_DOUBLING)
INSERT = """
    INSERT INTO tasks (tenant_id, queue, type, state, fence, executor_id, attempt, created_by, payload, created_at, run_at, started_at)
    SELECT $1, $2, $3, 'running', 1, $4, 1, 'test', '{}', $5, $5::timestamptz - (waited + ran) * interval '1 ms', $5::timestamptz - ran * interval '1 ms'
    FROM unnest($6::float8[], $7::float8[]) AS lengths (waited, ran)
    RETURNING id"""


async def end(
    admin: Any,
    tenant: UUID,
    waits: Sequence[float],
    runs: Sequence[float],
    *,
    at: datetime = NOW,
    state: str = "succeeded",
    queue: str = "default",
    type: str = "noop",  # noqa: A002 - the column is called so
    batch: int = 500,
) -> None:
    """Let runs end at a moment that had waited and taken so many milliseconds, in batches as an executor sends them."""
    await admin.execute(f"SET app.now = '{at.isoformat()}'")
    for first in range(0, len(runs), batch):
        rows = await admin.fetch(
            INSERT,
            tenant,
            queue,
            type,
            uuid4(),
            at,
            waits[first : first + batch],
            runs[first : first + batch],
        )
        ids = sorted(row["id"] for row in rows)
        many = len(ids)
        refused = await admin.fetch(
            SQL["executors.finish"], ids, [1] * many, [state] * many, [None] * many, [None] * many
        )
        assert refused == []


async def fold(admin: Any, *, at: datetime, days: int = 30) -> int:
    """Fold as housekeeping does, at a moment."""
    await admin.execute(f"SET app.now = '{at.isoformat()}'")
    written: int = await admin.fetchval(SQL["executors.fold_statistics"], days)
    return written


async def report_of(
    database: Database,
    tenant: UUID,
    window: str = "24h",
    *,
    at: datetime = NOW,
    installation: bool = False,
    **more: str,
) -> Report:
    """Return what the page shows at a moment."""
    async with database.tenant(tenant, "test") as db:
        await db.execute("SELECT set_config('app.now', $1, true)", at.isoformat())
        return await statistics.report(db, WINDOWS[window], installation=installation, **more)


def true_percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that *share* of all do not exceed."""
    return sorted(values)[max(round(share * len(values)) - 1, 0)]


@pytest.mark.parametrize("batch", [1, 7, 500])
async def test_percentiles_are_right_within_the_width_of_a_range(
    database: Database, admin: Any, tenant: UUID, batch: int
) -> None:
    dice = random.Random(batch)
    waits = [dice.lognormvariate(4, 2) for _ in range(400)]
    runs = [dice.lognormvariate(7, 1.5) for _ in range(400)]
    await end(admin, tenant, waits, runs, batch=batch)

    fresh = await report_of(database, tenant)
    later = NOW + timedelta(minutes=1)
    assert await fold(admin, at=later) == 1
    folded = [await report_of(database, tenant, window, at=later) for window in WINDOWS]

    for report in (fresh, *folded):
        assert report.whole.summary.runs == 400
        for values, found in ((waits, report.whole.wait), (runs, report.whole.run)):
            assert found is not None
            for share, value in ((0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
                ratio = value / timedelta(milliseconds=true_percentile(values, share))
                assert 1 / WIDTH <= ratio <= WIDTH, (share, ratio)


async def test_folding_changes_no_number(database: Database, admin: Any, tenant: UUID) -> None:
    for back in (1, 30, 45, 59, 90, 600):
        at = NOW - timedelta(minutes=back)
        await end(admin, tenant, [3.0, 40.0, 0.2], [500.0, 20.0, 70_000.0], at=at)
        await end(admin, tenant, [9.0], [2.0], at=at, state="failed", type="other", queue="content")
    before = [await report_of(database, tenant, window) for window in WINDOWS]

    assert await fold(admin, at=NOW) == 12

    assert [await report_of(database, tenant, window) for window in WINDOWS] == before
    assert await fold(admin, at=NOW) == 0
    assert [await report_of(database, tenant, window) for window in WINDOWS] == before


async def test_what_comes_late_joins_an_hour_that_was_folded(
    database: Database, admin: Any, tenant: UUID
) -> None:
    await end(admin, tenant, [1.0], [10.0])
    await fold(admin, at=NOW + timedelta(minutes=2))
    await end(admin, tenant, [1.0, 1.0, 1.0], [9000.0, 9000.0, 9000.0])
    await fold(admin, at=NOW + timedelta(minutes=2))

    found = await report_of(database, tenant)

    assert found.whole.summary.succeeded == 4
    assert found.whole.run is not None
    assert found.whole.run.p50 > timedelta(seconds=7)
    hours = "SELECT sum(tasks)::int AS tasks, count(*) AS rows FROM task_statistics_hours"
    assert dict(await admin.fetchrow(hours)) == {"tasks": 4, "rows": 1}


async def test_a_window_holds_its_full_length_and_the_step_under_way(
    database: Database, admin: Any, tenant: UUID
) -> None:
    moments = [
        NOW.replace(second=0),
        datetime(2026, 11, 20, 13, 30, tzinfo=UTC),
        datetime(2026, 11, 20, 13, 29, 59, tzinfo=UTC),
        datetime(2026, 11, 19, 14, 0, tzinfo=UTC),
        datetime(2026, 11, 19, 13, 59, tzinfo=UTC),
        datetime(2026, 11, 13, 12, 0, tzinfo=UTC),
        datetime(2026, 11, 13, 11, 59, tzinfo=UTC),
    ]
    for at in moments:
        await end(admin, tenant, [1.0], [1.0], at=at)
    await fold(admin, at=NOW)

    found = {window: await report_of(database, tenant, window) for window in WINDOWS}

    assert {window: one.whole.summary.succeeded for window, one in found.items()} == {
        "1h": 2,
        "24h": 4,
        "7d": 6,
    }
    assert {window: len(one.whole.points) for window, one in found.items()} == {"1h": 61, "24h": 25, "7d": 29}
    for one in found.values():
        assert sum(point.succeeded for point in one.whole.points) == one.whole.summary.succeeded
        assert one.whole.points[0].at == one.since
        assert one.whole.points[-1].succeeded >= 1


async def test_each_type_in_each_queue_has_its_own_line(database: Database, admin: Any, tenant: UUID) -> None:
    other = await make_tenant(admin, "beside")
    await end(admin, tenant, [5.0] * 3, [100.0] * 3, type="quick")
    await end(admin, tenant, [5.0], [60_000.0], type="slow", queue="content")
    await end(admin, tenant, [5.0], [60_000.0], type="slow", queue="content", state="timed_out")
    await end(admin, other, [5.0] * 9, [1.0] * 9, type="theirs")

    found = await report_of(database, tenant)
    by_queue = await report_of(database, tenant, queue="content")
    by_type = await report_of(database, tenant, type="quick")

    lines = [
        (one.type, one.queue, one.summary.succeeded, one.summary.failed, one.summary.runs)
        for one in found.lines
    ]
    assert lines == [("quick", "default", 3, 0, 3), ("slow", "content", 1, 1, 2)]
    quick, slow = (one.run.p99 for one in found.lines if one.run)
    assert quick < timedelta(milliseconds=120) < timedelta(seconds=50) < slow
    assert by_queue.whole.summary == by_queue.lines[0].summary == found.lines[1].summary
    assert [one.type for one in by_type.lines] == ["quick"]


async def test_who_operates_the_installation_may_see_the_runs_of_all_tenants(
    database: Database, admin: Any, tenant: UUID
) -> None:
    other = await make_tenant(admin, "beside")
    await admin.execute("UPDATE tenants SET operates = id = $1", tenant)
    await end(admin, tenant, [5.0], [100.0])
    await fold(admin, at=NOW + timedelta(minutes=1))
    await end(admin, other, [5.0] * 3, [100.0] * 3)

    for window in WINDOWS:
        own, everybody = [
            await report_of(database, tenant, window, installation=all_) for all_ in (False, True)
        ]
        assert (own.whole.summary.runs, everybody.whole.summary.runs) == (1, 4)
    with pytest.raises(Forbidden):
        await report_of(database, other, installation=True)


async def test_runs_that_are_tried_again_are_timed_and_what_never_ran_is_not(
    database: Database, tenant: UUID
) -> None:
    async def fail(_task: object, _payload: object) -> None:
        raise ValueError("as asked")

    with engine.task_type("bad", fail, max_attempts=2):
        async with engine.running_executor(database):
            await engine.ended(database, await engine.enqueue(database, tenant, "bad"))
        await engine.cancel(database, await engine.enqueue(database, tenant, "bad"))

    async with database.tenant(tenant, "test") as db:
        found = await statistics.report(db, WINDOWS["1h"], installation=False)
        spreads = await db.fetch(SQL["statistics.spreads"], False, found.since, False, None, None)

    (line,) = found.lines
    assert (line.summary.failed, line.summary.retried, line.summary.cancelled) == (1, 1, 1)
    assert Counter(dict.fromkeys((True, False), 2)) == sum(
        (Counter({row["waited"]: row["runs"]}) for row in spreads), Counter()
    )


async def test_minutes_and_hours_go_when_their_days_are_over(admin: Any, tenant: UUID) -> None:
    await end(admin, tenant, [1.0], [1.0], at=NOW - timedelta(days=31, hours=1))
    await end(admin, tenant, [1.0], [1.0], at=NOW - timedelta(days=29))

    await fold(admin, at=NOW, days=30)

    for table in ("task_statistics", "task_statistics_hours"):
        assert await admin.fetchval(f"SELECT count(*) FROM {table}") == 1


async def test_nothing_that_ended_is_a_report_without_lengths(database: Database, tenant: UUID) -> None:
    found = await report_of(database, tenant)

    assert (found.lines, found.whole.wait, found.whole.run) == ((), None, None)
    assert found.whole.summary.mean_run is None
    assert {point.total for point in found.whole.points} == {0}


@pytest.mark.parametrize(
    ("runs", "share", "milliseconds"),
    [
        ({0: 1}, 0.5, 0.5),
        ({0: 99, 41: 1}, 0.99, 1.0),
        ({1: 100}, 1.0, 2**0.25),
        ({41: 4}, 0.5, 2 ** (40.5 / 4)),
        ({9: 50, 41: 50}, 0.95, 2 ** (40.9 / 4)),
    ],
)
def test_within_a_range_runs_are_taken_to_lie_evenly(
    runs: dict[int, int], share: float, milliseconds: float
) -> None:
    found = statistics.percentile(Counter(runs), share)

    assert found / timedelta(milliseconds=1) == pytest.approx(milliseconds, rel=0.001, abs=0.001)


async def test_no_percentile_lies_beyond_the_longest_run(
    database: Database, tenant: UUID, admin: Any
) -> None:
    await end(admin, tenant, [400_000.0] * 40, [390_000.0] * 40)

    found = (await report_of(database, tenant)).whole

    assert found.wait is not None
    assert found.run is not None
    assert found.wait.p99 <= timedelta(milliseconds=400_001)
    assert timedelta(milliseconds=380_000) <= found.run.p99 <= timedelta(milliseconds=390_001)


async def test_runs_that_took_too_long_count_with_the_length_they_had(
    database: Database, tenant: UUID, admin: Any
) -> None:
    await end(admin, tenant, [1.0] * 10, [1000.0] * 10)
    await end(admin, tenant, [1.0] * 30, [300_000.0] * 30, state="timed_out")

    found = (await report_of(database, tenant)).whole

    assert found.run is not None
    assert found.run.p50 >= timedelta(milliseconds=300_000 / WIDTH)


async def test_however_much_is_left_to_fold_it_is_folded_in_parts_and_every_run_counted_once(
    database: Database, admin: Any, tenant: UUID
) -> None:
    first = NOW.replace(second=0)
    minutes = {first: 15_000, first + timedelta(minutes=1): 8_000, first + timedelta(minutes=70): 1_000}
    for minute, rows in minutes.items():
        await admin.execute(
            """
            INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms)
            SELECT $1, $2, 'default', 'noop', 'succeeded', 2, 1, 1, 1, 1 FROM generate_series(1, $3)
            """,
            tenant,
            minute,
            rows,
        )
    later = NOW + timedelta(minutes=90)

    made = [await fold(admin, at=later) for _ in range(3)]

    assert made == [2, 1, 0]
    found = await admin.fetch("SELECT minute, tasks FROM task_statistics ORDER BY minute")
    assert {row["minute"]: row["tasks"] for row in found} == {at: 2 * rows for at, rows in minutes.items()}
    for window in WINDOWS:
        report = await report_of(database, tenant, window, at=later)
        assert report.whole.summary.runs == (48_000 if window != "1h" else 2_000)
