"""Alerts: what opens them, what keeps them open, what closes them, and who is told."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server.alarm import Alarm
from services import alerts
from services.alerts import NewRule, Rule, Setting
from services.errors import Conflict, Invalid, NotFound, PreconditionFailed
from tests.conftest import Cluster, make_tenant
from tests.schedules import ADA, World, at

NOON = at("2027-03-01 12:00")


class Watch(World):
    """A tenant whose dead letters, ready tasks and ends the test makes."""

    async def evaluate(self, moment: str) -> list[str]:
        """Move the clock, let a replica look once and return what is open, in words."""
        await self.move_to(moment)
        async with self.database() as database:
            await Alarm(database).evaluate()
        return await self.open()

    async def open(self) -> list[str]:
        async with self.db() as db:
            return [alert.text for alert in await alerts.list_open(db, self.tenant)]

    async def rule(self, kind: str, **changes: Any) -> Rule:
        """Change the tenant's own rule of a kind."""
        async with self.db() as db:
            rule = next(
                one for one in await alerts.list_rules(db, self.tenant) if one.kind == kind and one.general
            )
            setting = Setting(
                threshold=rule.threshold, window_seconds=rule.window_seconds, minimum=rule.minimum
            )
            return await alerts.change_rule(
                db, self.tenant, rule.id, replace(setting, **changes), version=rule.version, actor=ADA
            )

    async def dead_letters(self, count: int, minutes_ago: float = 0, **more: str) -> None:
        """Let so many tasks have failed, so long before noon."""
        await self.admin.execute(
            "INSERT INTO dead_letters (task_id, tenant_id, queue, type, state, error_class, failed_at)"
            " SELECT app.uuid7(), $1, $4, $5, 'failed', 'x', $3 FROM generate_series(1, $2)",
            self.tenant, count, NOON - timedelta(minutes=minutes_ago), more.get("queue", "default"), more.get("type", "noop"),
        )  # fmt: skip

    async def handle(self, count: int) -> None:
        """Let somebody discard so many dead letters, the oldest first."""
        await self.admin.execute(
            "UPDATE dead_letters SET handled_at = app.now(), handled_as = 'discarded', handled_by = 'x' WHERE task_id IN"
            " (SELECT task_id FROM dead_letters WHERE handled_at IS NULL ORDER BY failed_at, task_id LIMIT $1)",
            count,
        )

    async def ready(
        self, queue: str, minutes_ago: float, priority: int = 2, tenant: UUID | None = None
    ) -> None:
        """Let a task of a queue be ready since so long before noon."""
        await self.admin.execute(
            "INSERT INTO tasks (tenant_id, queue, type, state, priority, run_at, created_by, payload) VALUES ($1, $2, 'noop', 'queued', $3, $4, 'x', '{}')",
            tenant or self.tenant, queue, priority, NOON - timedelta(minutes=minutes_ago),
        )  # fmt: skip

    async def ends(self, outcome: str, count: int, minutes_ago: float = 1, **more: str) -> None:
        """Let so many tasks have ended so."""
        await self.admin.execute(
            "INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms)"
            " VALUES ($1, $2, $3, $4, $5, $6, 0, 0, 0, 0)",
            self.tenant, NOON - timedelta(minutes=minutes_ago), more.get("queue", "default"), more.get("type", "noop"), outcome, count,
        )  # fmt: skip


@pytest.fixture
def watch(cluster: Cluster, admin: asyncpg.Connection, database_name: str, tenant: UUID) -> Watch:
    return Watch(cluster, admin, database_name, tenant)


async def test_a_quiet_tenant_has_its_rules_and_no_alert(watch: Watch) -> None:
    assert await watch.evaluate("2027-03-01 12:00") == []
    async with watch.db() as db:
        rules = await alerts.list_rules(db, watch.tenant)
        assert await alerts.find_evaluated_at(db) == NOON

    assert [(rule.kind, rule.text) for rule in rules] == [
        ("dead_letters", "10 or more dead letters are open"),
        ("dead_letter_age", "the oldest dead letter is 1 d old"),
        ("ready_age", "a ready task in any queue waits for 15 min"),
        ("failure_rate", "50 % or more of the tasks that ended in 15 min failed, given 20 ends"),
    ]


async def test_dead_letters_open_an_alert_that_does_not_flap(watch: Watch) -> None:
    await watch.dead_letters(9)
    assert await watch.evaluate("2027-03-01 12:00:00") == []
    await watch.dead_letters(2)
    assert await watch.evaluate("2027-03-01 12:00:15") == ["11 dead letters wait for a person"]
    await watch.handle(3)
    assert await watch.evaluate("2027-03-01 12:02:00") == ["8 dead letters wait for a person"]
    assert await watch.evaluate("2027-03-01 12:10:00") == ["8 dead letters wait for a person"]
    await watch.handle(1)
    assert await watch.evaluate("2027-03-01 12:11:00") == ["7 dead letters wait for a person"]
    await watch.dead_letters(1)
    assert await watch.evaluate("2027-03-01 12:11:45") == ["8 dead letters wait for a person"]
    await watch.handle(8)
    assert await watch.evaluate("2027-03-01 12:12:15") == ["0 dead letters wait for a person"]
    assert await watch.evaluate("2027-03-01 12:13:15") == []

    async with watch.db() as db:
        (alert,) = await alerts.list_alerts(db, watch.tenant, is_open=False)
    assert (alert.opened_at, alert.opened_value, alert.worst, alert.closed_at) == (
        at("2027-03-01 12:00:15"),
        11,
        11,
        at("2027-03-01 12:13:15"),
    )
    assert alert.text == "11 dead letters wait for a person"


async def test_what_was_counted_no_further_says_or_more(watch: Watch) -> None:
    await watch.dead_letters(99)
    assert await watch.evaluate("2027-03-01 12:00:00") == ["99 dead letters wait for a person"]
    await watch.dead_letters(30)
    assert await watch.evaluate("2027-03-01 12:00:15") == ["100 or more dead letters wait for a person"]


async def test_the_oldest_dead_letter_grows_old(watch: Watch) -> None:
    await watch.dead_letters(1, minutes_ago=23 * 60)
    assert await watch.evaluate("2027-03-01 12:00") == []
    assert await watch.evaluate("2027-03-01 13:00") == ["the oldest dead letter has waited for 1 d"]
    await watch.handle(1)
    await watch.evaluate("2027-03-01 13:01")
    assert await watch.evaluate("2027-03-01 13:02") == []


async def test_ready_tasks_that_wait_too_long_are_told_of_by_queue(watch: Watch) -> None:
    other = await make_tenant(watch.admin, "globex")
    await watch.ready("content", 20, priority=9)
    await watch.ready("content", 1, priority=0)
    await watch.ready("default", 14)
    await watch.ready("documents", 60)
    await watch.ready("default", 600, tenant=other)

    assert await watch.evaluate("2027-03-01 12:00") == [
        "tasks in queue content have been ready for 20 min",
        "tasks in queue documents have been ready for 1 h",
    ]
    await watch.admin.execute("DELETE FROM tasks WHERE queue = 'documents'")
    await watch.evaluate("2027-03-01 12:00:30")
    assert await watch.evaluate("2027-03-01 12:01:30") == [
        "tasks in queue content have been ready for 22 min",
        "tasks in queue default have been ready for 16 min",
    ]


async def test_failures_count_within_their_window_and_above_their_minimum(watch: Watch) -> None:
    await watch.ends("failed", 12)
    await watch.ends("timed_out", 3)
    await watch.ends("cancelled", 500)
    await watch.ends("retry_scheduled", 500)
    await watch.ends("failed", 500, minutes_ago=16)
    assert await watch.evaluate("2027-03-01 12:00:00") == []
    await watch.ends("succeeded", 5)
    assert await watch.evaluate("2027-03-01 12:00:15") == ["75 % of the tasks that end fail"]
    await watch.ends("succeeded", 100)
    await watch.evaluate("2027-03-01 12:00:30")
    assert await watch.evaluate("2027-03-01 12:01:30") == []


async def test_a_window_of_a_minute_does_not_begin_anew_with_each_minute(watch: Watch) -> None:
    await watch.rule("failure_rate", window_seconds=60)
    await watch.ends("failed", 20, minutes_ago=1)

    assert await watch.evaluate("2027-03-01 12:00:05") == ["100 % of the tasks that end fail"]
    assert await watch.evaluate("2027-03-01 12:01:00") == ["0 % of the tasks that end fail"]


async def test_a_rule_about_one_queue_or_type_looks_at_nothing_else(watch: Watch) -> None:
    await watch.move_to("2027-03-01 12:00")
    async with watch.db() as db:
        for new in (
            NewRule(kind="dead_letters", threshold=2, queue="content"),
            NewRule(kind="dead_letters", threshold=2, type="ingest_document"),
            NewRule(kind="ready_age", threshold=60, queue="content"),
            NewRule(
                kind="failure_rate", threshold=0.1, type="generate_content", window_seconds=300, minimum=2
            ),
        ):
            await alerts.create_rule(db, watch.tenant, new, actor=ADA)
        with pytest.raises(Conflict, match="about just this"):
            await alerts.create_rule(
                db, watch.tenant, NewRule(kind="dead_letters", threshold=9, queue="content"), actor=ADA
            )
    await watch.dead_letters(5)
    await watch.ready("default", 10)
    await watch.ends("failed", 5)
    assert await watch.evaluate("2027-03-01 12:00:00") == []
    await watch.dead_letters(2, queue="content")
    await watch.dead_letters(3, type="ingest_document")
    await watch.ready("content", 3)
    await watch.ends("failed", 2, type="generate_content")

    assert sorted(await watch.evaluate("2027-03-01 12:00:15")) == [
        "10 dead letters wait for a person",
        "100 % of the tasks of type generate_content that end fail",
        "2 dead letters in queue content wait for a person",
        "3 dead letters of type ingest_document wait for a person",
        "tasks in queue content have been ready for 3 min",
    ]


async def test_a_muted_rule_opens_nothing_and_shows_nothing_until_the_mute_ends(watch: Watch) -> None:
    await watch.dead_letters(20)
    await watch.evaluate("2027-03-01 12:00")
    await watch.rule("dead_letters", muted_until=at("2027-03-01 13:00"))
    await watch.rule("dead_letter_age", threshold=60, muted_until=at("2027-03-01 13:00"))
    assert await watch.evaluate("2027-03-01 12:30") == []

    assert await watch.evaluate("2027-03-01 13:00") == [
        "20 dead letters wait for a person",
        "the oldest dead letter has waited for 1 h",
    ]


async def test_a_rule_that_is_switched_off_closes_its_alert(watch: Watch) -> None:
    await watch.dead_letters(20)
    await watch.evaluate("2027-03-01 12:00")
    await watch.rule("dead_letters", enabled=False)
    await watch.evaluate("2027-03-01 12:01")
    assert await watch.evaluate("2027-03-01 12:02") == []


async def test_opening_is_a_warning_in_the_log_and_closing_is_none(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="server.alarm")
    await watch.dead_letters(20)
    for moment in ("12:00", "12:01"):
        await watch.evaluate(f"2027-03-01 {moment}")
    await watch.handle(20)
    for moment in ("12:02", "12:03"):
        await watch.evaluate(f"2027-03-01 {moment}")

    told = [(record.levelname, record.message, record.__dict__["value"]) for record in caplog.records]
    assert told == [("WARNING", "alert opened", 20), ("INFO", "alert closed", 0)]


async def test_replicas_share_the_rounds(watch: Watch) -> None:
    await watch.dead_letters(20)
    await watch.move_to("2027-03-01 12:00")
    async with watch.database() as one, watch.database() as two:
        await asyncio.gather(*(Alarm(replica).evaluate() for replica in (one, two) * 3))
    await watch.handle(15)
    assert await watch.evaluate("2027-03-01 12:00:09") == ["20 dead letters wait for a person"]
    assert await watch.evaluate("2027-03-01 12:00:10") == ["5 dead letters wait for a person"]

    async with watch.db() as db:
        assert len(await alerts.list_alerts(db, watch.tenant)) == 1


async def test_who_acknowledges_first_stays(watch: Watch) -> None:
    await watch.dead_letters(20)
    await watch.evaluate("2027-03-01 12:00")
    async with watch.db() as db:
        (alert,) = await alerts.list_open(db, watch.tenant)
        first = await alerts.acknowledge(db, watch.tenant, alert.id, actor=ADA)
        second = await alerts.acknowledge(db, watch.tenant, alert.id, actor="user:bob")

    assert first == second
    assert (first.acknowledged_by, first.acknowledged_at) == (ADA, NOON)


async def test_rules_are_changed_by_version_deleted_when_they_are_special_and_checked(watch: Watch) -> None:
    async with watch.db() as db:
        general = (await alerts.list_rules(db, watch.tenant))[0]
        special = await alerts.create_rule(
            db, watch.tenant, NewRule(kind="dead_letters", threshold=1, type="noop"), actor=ADA
        )
        await alerts.change_rule(db, watch.tenant, general.id, Setting(threshold=5), version=1, actor=ADA)
        with pytest.raises(PreconditionFailed):
            await alerts.change_rule(db, watch.tenant, general.id, Setting(threshold=6), version=1, actor=ADA)
        with pytest.raises(Conflict, match="switch it off"):
            await alerts.delete_rule(db, watch.tenant, general.id)
        await alerts.delete_rule(db, watch.tenant, special.id)
        with pytest.raises(NotFound):
            await alerts.delete_rule(db, watch.tenant, special.id)
        for kind, wrong, pointers in (
            ("dead_letters", {"threshold": 0, "minimum": 3}, ["/threshold", "/minimum"]),
            ("failure_rate", {"threshold": 1.5}, ["/threshold", "/window_seconds", "/minimum"]),
            ("ready_age", {"threshold": 60, "type": "noop", "queue": "nowhere"}, ["/queue", "/type"]),
            ("hunger", {"threshold": 1, "type": "nope"}, ["/kind", "/type"]),
        ):
            with pytest.raises(Invalid) as caught:
                await alerts.create_rule(db, watch.tenant, NewRule(kind=kind, **wrong), actor=ADA)
            assert [fault.pointer for fault in caught.value.faults] == pointers

    assert (await watch.rule("dead_letters")).threshold == 5


async def test_nobody_sees_the_alerts_of_another_tenant(watch: Watch) -> None:
    await watch.dead_letters(20)
    await watch.evaluate("2027-03-01 12:00")
    other = await make_tenant(watch.admin, "globex")
    async with watch.db() as db:
        (alert,) = await alerts.list_open(db, watch.tenant)
    async with watch.database() as database, database.tenant(other, ADA) as db:
        assert await alerts.list_alerts(db, other) == []
        with pytest.raises(NotFound):
            await alerts.acknowledge(db, other, alert.id, actor=ADA)
        with pytest.raises(NotFound):
            await alerts.change_rule(db, other, alert.rule_id, Setting(threshold=1), version=1, actor=ADA)


async def test_a_round_reads_indexes_whatever_has_piled_up(watch: Watch) -> None:
    await watch.move_to("2027-03-01 12:00")
    await watch.admin.execute(
        "INSERT INTO tasks (tenant_id, queue, type, state, priority, run_at, created_by, payload)"
        " SELECT $1, q, 'noop', 'queued', n % 3, $2, 'x', '{}' FROM unnest(ARRAY['default', 'content']) q, generate_series(1, 15000) n",
        watch.tenant, NOON,
    )  # fmt: skip
    await watch.dead_letters(20_000)
    await watch.admin.execute("ANALYZE tasks; ANALYZE dead_letters; ANALYZE task_statistics")
    await watch.evaluate("2027-03-01 12:00")

    async with watch.database() as database, database.statement() as db:
        for _ in range(2):  # the first time reads what PostgreSQL needs to know of the tables
            plan = await db.fetchval(
                "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM app.evaluate_alerts(0)"
            )
    (explained,) = json.loads(plan)
    buffers = explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"]
    assert buffers < 250, f"{buffers} buffers"
