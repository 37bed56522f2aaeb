"""The large history that is measured is what it says: so many tasks over its days, and numbers that agree with them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench import scale


async def test_a_small_one_has_the_tasks_and_the_numbers_of_a_large_one(admin: Any) -> None:
    await scale.fill(admin, 10_000, minutes=5)
    filled = await scale.look(admin, 0.0)

    days = "SELECT max(app.now() - created_at)::text, count(*) FROM task_history"
    oldest, finished = await admin.fetchrow(days)
    assert (filled.finished, filled.of_largest) == (finished, 7_000)
    assert oldest.startswith((f"{scale.DAYS} days", f"{scale.DAYS - 1} days"))
    assert 9_990 <= finished <= 10_000
    in_default = "SELECT count(*) FROM task_history_default"
    assert await admin.fetchval(in_default) == 0
    recent = "SELECT count(*) FROM task_history WHERE finished_at > app.now() - interval '30 days'"
    counted = "SELECT sum(tasks)::int FROM task_statistics_hours"
    assert await admin.fetchval(counted) == pytest.approx(await admin.fetchval(recent), abs=5)
    letters = "SELECT count(*) FROM dead_letters"
    badly = "SELECT count(*) FROM task_history WHERE state IN ('failed', 'timed_out')"
    assert await admin.fetchval(letters) == await admin.fetchval(badly) > 0


async def test_a_machine_that_is_too_slow_is_told_so(admin: Any) -> None:
    with pytest.raises(scale.Slow, match="10,000 finished tasks take more than 0 minutes here"):
        await scale.fill(admin, 10_000, minutes=0)
