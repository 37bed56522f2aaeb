"""Schedules: what is taken, which ticks make a task, and that nothing makes two."""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg
import pytest

from server.ticker import Ticker
from services import schedules, task_types, tasks, ticks
from services.errors import Conflict, Invalid, NotFound, PreconditionFailed
from services.schedules import NewSchedule, Schedule
from tests.conftest import Cluster, make_tenant
from tests.engine import task_type
from tests.schedules import ADA, World, at


@pytest.fixture
def world(cluster: Cluster, admin: asyncpg.Connection, database_name: str, tenant: UUID) -> World:
    return World(cluster, admin, database_name, tenant)


async def test_a_tick_makes_one_task_with_what_the_schedule_says(world: World) -> None:
    schedule = await world.create(
        "2027-03-01 11:59:30",
        payload={"seconds": 0.5},
        queue="content",
        priority=4,
        timeout_seconds=60,
        max_attempts=2,
    )
    assert schedule.next_tick_at == at("2027-03-01 12:00")

    assert await world.tick("2027-03-01 11:59:59") == 1.0
    assert await world.tasks() == []
    assert await world.tick("2027-03-01 12:00:00.4") == 0.0
    assert await world.tick("2027-03-01 12:00:00.4") == pytest.approx(3599.6)

    (task,) = await world.tasks()
    made = (
        task.type,
        task.payload["seconds"],
        task.queue,
        task.priority,
        task.timeout_seconds,
        task.max_attempts,
    )
    assert made == ("noop", 0.5, "content", 4, 60, 2)
    assert task.created_by == f"schedule:{schedule.id}"
    (tick,) = await world.ticks(schedule)
    assert (tick.tick_at, tick.outcome, tick.task_id, tick.task_state, tick.actor, tick.manual) == (
        at("2027-03-01 12:00"), "enqueued", task.id, "queued", "system:scheduler", False,
    )  # fmt: skip
    after = await world.get(schedule)
    assert (after.next_tick_at, after.last_tick) == (at("2027-03-01 13:00"), tick)
    assert world.woken == ["content"]


async def test_an_interval_is_counted_from_when_the_schedule_was_made(world: World) -> None:
    schedule = await world.create("2027-03-01 12:00:07.9", interval_seconds=90)

    for moment in ("12:01:37", "12:03:09", "12:04:36"):
        await world.tick(f"2027-03-01 {moment}")

    assert [f"{tick.tick_at:%H:%M:%S}" for tick in await world.ticks(schedule)] == ["12:01:37", "12:03:07"]
    assert (await world.get(schedule)).next_tick_at == at("2027-03-01 12:04:37")


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("skip", [("01 06:00 – 01 09:00", "missed")]),
        ("once", [("01 06:00 – 01 08:00", "missed"), ("01 09:00", "enqueued")]),
        ("all", [("01 06:00", "enqueued"), ("01 07:00", "enqueued"), ("01 08:00", "enqueued"), ("01 09:00", "enqueued")]),
    ],
)  # fmt: skip
async def test_ticks_that_nobody_was_there_for_follow_the_policy(
    world: World, policy: str, told: list[object]
) -> None:
    schedule = await world.create("2027-03-01 05:10", missed=policy)

    await world.tick("2027-03-01 09:30")

    assert await world.told(schedule) == told
    assert len(await world.tasks()) == sum(outcome == "enqueued" for _, outcome in told)
    assert (await world.get(schedule)).next_tick_at == at("2027-03-01 10:00")


async def test_a_tick_a_minute_late_is_not_missed_and_two_at_once_are_one_too_many(world: World) -> None:
    schedule = await world.create("2027-03-01 05:10", interval_seconds=30, missed="skip")

    await world.tick("2027-03-01 05:11:29")

    assert [(f"{tick.tick_at:%M:%S}", tick.outcome) for tick in await world.ticks(schedule)] == [
        ("10:30", "missed"),
        ("11:00", "enqueued"),
    ]


async def test_after_an_outage_of_a_month_at_most_a_hundred_ticks_are_made_up_for(world: World) -> None:
    schedule = await world.create("2027-03-01 00:00", cron="* * * * *", missed="all")

    await world.tick("2027-04-01 00:00:30")

    told = await world.told(schedule)
    assert told[0] == ("01 00:01 – 31 22:20", "missed")
    assert [outcome for _, outcome in told[1:]] == ["enqueued"] * ticks.CATCH_UP
    assert told[-1][0] == "01 00:00"
    assert len(await world.tasks()) == ticks.CATCH_UP


async def test_with_overlap_skip_a_tick_waits_for_the_end_of_the_task_before(world: World) -> None:
    schedule = await world.create("2027-03-01 05:10", overlap="skip", missed="all")
    await world.tick("2027-03-01 06:00")

    await world.tick("2027-03-01 07:00")
    async with world.db() as db:
        await tasks.cancel(db, world.tenant, (await world.tasks())[0].id, actor=ADA)
    await world.tick("2027-03-01 10:00")

    assert await world.told(schedule) == [
        ("01 06:00", "enqueued"), ("01 07:00", "overlapped"), ("01 08:00", "enqueued"), ("01 09:00 – 01 10:00", "overlapped"),
    ]  # fmt: skip


async def test_with_overlap_allow_ticks_pile_up(world: World) -> None:
    await world.create("2027-03-01 05:10")
    for hour in ("06", "07", "08"):
        await world.tick(f"2027-03-01 {hour}:00")

    assert [task.state for task in await world.tasks()] == ["queued"] * 3


async def test_replicas_that_look_at_once_make_one_task_per_tick(world: World) -> None:
    made = [await world.create("2027-03-01 11:59", name=f"nr {n}", missed="all") for n in range(10)]
    for hour in range(12, 17):
        await world.move_to(f"2027-03-01 {hour}:00:01")
        async with world.database() as one, world.database() as two, world.database() as three:
            await asyncio.gather(
                *(Ticker(replica, on_work=lambda _: None).tick_due() for replica in (one, two, three) * 2)
            )

    told = [await world.told(schedule) for schedule in made]
    assert told == [[(f"01 {hour}:00", "enqueued") for hour in range(12, 17)]] * 10
    assert len(await world.tasks()) == 50


async def test_a_schedule_that_another_replica_holds_is_left_to_it(world: World) -> None:
    schedule = await world.create("2027-03-01 11:59")
    await world.move_to("2027-03-01 12:00:01")

    async with world.db() as first, world.db() as second:
        assert await ticks.decide(first, world.tenant, schedule.id) is not None
        async with asyncio.timeout(15):
            assert await ticks.decide(second, world.tenant, schedule.id) is None

    assert len(await world.tasks()) == 1


async def test_the_clock_of_the_database_decides_even_when_it_goes_back(world: World) -> None:
    schedule = await world.create("2027-03-01 11:59")
    await world.tick("2027-03-01 12:00")
    await world.tick("2027-03-01 11:00")
    async with world.db() as db:
        changed = await schedules.change(
            db, world.tenant, schedule.id, {"interval_seconds": 600}, version=1, actor=ADA
        )
    assert changed.next_tick_at == at("2027-03-01 12:10")

    await world.tick("2027-03-01 12:00:30")

    assert await world.told(schedule) == [("01 12:00", "enqueued")]


async def test_a_task_that_can_no_longer_be_made_is_a_failed_tick_and_stops_nothing_else(
    world: World,
) -> None:
    async def run(task: object, payload: object) -> None: ...

    with task_type("passing", run):
        gone = await world.create("2027-03-01 11:00", name="a", type="passing")
    queue = await world.create("2027-03-01 11:00", name="b", queue="content")
    await world.admin.execute("DELETE FROM queues WHERE name = 'content'")
    payload = await world.create("2027-03-01 11:00", name="c")
    await world.admin.execute("UPDATE schedules SET payload = '{\"seconds\": -1}' WHERE id = $1", payload.id)
    broken = await world.create("2027-03-01 11:00", name="d")
    await world.admin.execute("UPDATE schedules SET cron = 'gibberish' WHERE id = $1", broken.id)
    lost = await world.create("2027-03-01 11:00", name="dd")
    await world.admin.execute("UPDATE schedules SET time_zone = 'Mars/Olympus' WHERE id = $1", lost.id)
    sound = await world.create("2027-03-01 11:00", name="e")

    await world.move_to("2027-03-01 12:00")
    async with world.database() as database:
        ticker = Ticker(database, on_work=world.woken.append)
        for _ in range(3):
            await ticker.tick_due()

    reasons = [(await world.ticks(one))[0].reason for one in (gone, queue, payload, broken, lost)]
    assert reasons == [
        "type: there is no task type 'passing'; there are " + ", ".join(sorted(task_types.load_all())),
        'queue: must be one of default, documents, not "content"',
        "payload/seconds: should be greater than or equal to 0, not -1",
        "CronSimError: Wrong number of fields",
        "ZoneInfoNotFoundError: 'No time zone found with key Mars/Olympus'",
    ]
    async with world.db() as db:
        shown = {
            one.name: (one.explanation, len(schedules.list_next(one)))
            for one in await schedules.list_schedules(db, world.tenant)
        }
    assert (shown["d"], shown["dd"]) == (
        ("gibberish, UTC", 0),
        ("At the start of every hour, Mars/Olympus", 0),
    )
    assert await world.told(sound) == [("01 12:00", "enqueued")]
    assert [one.outcome for one in await world.ticks(gone)] == ["failed"]
    assert (await world.get(gone)).next_tick_at == at("2027-03-01 13:00")


async def test_run_now_makes_a_task_and_moves_no_tick(world: World) -> None:
    schedule = await world.create("2027-03-01 11:59", overlap="skip")
    async with world.db() as db:
        first = await schedules.run_now(db, world.tenant, schedule.id, actor=ADA)
        await schedules.run_now(db, world.tenant, schedule.id, actor=ADA)
    await world.tick("2027-03-01 12:00")

    told = [(tick.manual, tick.outcome, tick.actor) for tick in await world.ticks(schedule)]
    assert told == [(True, "enqueued", ADA), (True, "enqueued", ADA), (False, "enqueued", "system:scheduler")]
    assert (first.created_by, len(await world.tasks())) == (ADA, 3)


async def test_a_paused_schedule_does_not_tick_and_makes_up_for_nothing(world: World) -> None:
    schedule = await world.create("2027-03-01 11:59", missed="all")
    async with world.db() as db:
        paused = await schedules.pause(db, world.tenant, schedule.id, actor=ADA)
    assert (paused.paused, paused.paused_by, paused.next_tick_at) == (True, ADA, None)
    await world.tick("2027-03-01 15:30")
    async with world.db() as db:
        resumed = await schedules.resume(db, world.tenant, schedule.id)
    await world.tick("2027-03-01 16:00")

    assert (resumed.paused, resumed.next_tick_at) == (False, at("2027-03-01 16:00"))
    assert await world.told(schedule) == [("01 16:00", "enqueued")]


async def test_a_pause_with_an_end_ends_by_itself(world: World) -> None:
    schedule = await world.create("2027-03-01 11:59", missed="all")
    async with world.db() as db:
        paused = await schedules.pause(
            db, world.tenant, schedule.id, actor=ADA, resume_at=at("2027-03-01 14:00")
        )
    assert paused.next_tick_at == at("2027-03-01 14:00")
    await world.tick("2027-03-01 13:00")
    assert (await world.get(schedule)).paused
    await world.tick("2027-03-01 15:00")

    after = await world.get(schedule)
    assert (after.paused, after.paused_by, after.resume_at) == (False, None, None)
    assert await world.told(schedule) == [("01 14:00", "enqueued"), ("01 15:00", "enqueued")]


async def test_a_pause_that_would_end_in_the_past_is_refused(world: World) -> None:
    schedule = await world.create("2027-03-01 11:59")
    async with world.db() as db:
        with pytest.raises(Invalid, match="resume_at has passed"):
            await schedules.pause(db, world.tenant, schedule.id, actor=ADA, resume_at=at("2027-03-01 11:00"))


async def test_another_timing_counts_from_now_and_anything_else_leaves_the_next_tick_alone(
    world: World,
) -> None:
    schedule = await world.create("2027-03-01 11:59")
    await world.move_to("2027-03-01 12:30")
    async with world.db() as db:
        same = await schedules.change(
            db, world.tenant, schedule.id, {"name": "other", "priority": 0}, version=1, actor="user:bob"
        )
        other = await schedules.change(
            db, world.tenant, schedule.id, {"interval_seconds": 60}, version=2, actor="user:bob"
        )

    assert (same.name, same.priority, same.next_tick_at, same.version) == (
        "other",
        0,
        at("2027-03-01 12:00"),
        2,
    )
    assert (other.cron, other.interval_seconds, other.next_tick_at) == (None, 60, at("2027-03-01 12:31"))
    assert (other.created_by, other.updated_by) == (ADA, "user:bob")


async def test_a_change_of_what_has_been_changed_since_is_refused(world: World) -> None:
    schedule = await world.create("2027-03-01 11:59")
    async with world.db() as db:
        await schedules.change(db, world.tenant, schedule.id, {"priority": 1}, version=1, actor=ADA)
        with pytest.raises(PreconditionFailed):
            await schedules.change(db, world.tenant, schedule.id, {"priority": 9}, version=1, actor=ADA)

    assert (await world.get(schedule)).priority == 1


async def test_names_are_unique_among_those_that_are_there(world: World) -> None:
    first = await world.create("2027-03-01 11:59", name="nightly")
    second = await world.create("2027-03-01 11:59", name="weekly")
    with pytest.raises(Conflict, match="'nightly' already"):
        await world.create("2027-03-01 11:59", name="nightly")
    async with world.db() as db:
        with pytest.raises(Conflict, match="'nightly' already"):
            await schedules.change(db, world.tenant, second.id, {"name": "nightly"}, version=1, actor=ADA)
        await schedules.delete(db, world.tenant, first.id, actor=ADA)

    assert (await world.create("2027-03-01 11:59", name="nightly")).name == "nightly"


async def test_a_schedule_is_found_by_its_name_before_the_id_of_another_and_only_while_it_is_there(
    world: World,
) -> None:
    other = await world.create("2027-03-01 11:59", name="nightly")
    confusing = await world.create("2027-03-01 11:59", name=str(other.id))
    async with world.db() as db:
        for text, found in (
            ("nightly", other),
            (str(confusing.id).upper(), confusing),
            (str(other.id), confusing),
        ):
            assert await schedules.find(db, world.tenant, text) == found.id
        await schedules.delete(db, world.tenant, other.id, actor=ADA)
        for text in ("nightly", "Nightly", ""):
            with pytest.raises(NotFound, match=f"there is no schedule {text}"):
                await schedules.find(db, world.tenant, text)


async def test_a_deleted_schedule_ticks_no_more_and_its_history_stays_readable(world: World) -> None:
    schedule = await world.create("2027-03-01 11:59")
    await world.tick("2027-03-01 12:00")
    async with world.db() as db:
        await schedules.delete(db, world.tenant, schedule.id, actor=ADA)
        await schedules.delete(db, world.tenant, schedule.id, actor=ADA)
        assert await schedules.list_schedules(db, world.tenant) == []
        with pytest.raises(Conflict, match="was deleted"):
            await schedules.resume(db, world.tenant, schedule.id)
    await world.tick("2027-03-01 13:00")

    assert (await world.get(schedule)).deleted_by == ADA
    assert await world.told(schedule) == [("01 12:00", "enqueued")]


async def test_old_ticks_go_when_their_tasks_are_gone(world: World) -> None:
    schedule = await world.create("2027-03-01 10:00", missed="skip")
    await world.tick("2027-03-01 11:30")
    await world.tick("2027-03-01 12:00")
    await world.move_to("2027-05-01 12:00")
    sweep = "SELECT app.sweep_schedule_ticks(30, 100)"
    async with world.database() as database, database.statement() as db:
        assert await db.fetchval(sweep) == 1
        assert await world.told(schedule) == [("01 12:00", "enqueued")]
        await world.admin.execute("DELETE FROM tasks")
        async with world.db() as own:
            await schedules.delete(own, world.tenant, schedule.id, actor=ADA)
        assert await db.fetchval(sweep) == 1

    assert (await world.get(schedule)).deleted_at == at("2027-05-01 12:00")


async def test_every_fault_of_a_new_schedule_is_named(world: World) -> None:
    new = NewSchedule(
        name=" ", type="noop", payload={"seconds": "long"}, cron="61 * * * *", time_zone="Mars/Olympus", missed="never", overlap="maybe",
        queue="nowhere", priority=10, timeout_seconds=0, concurrency_key="k",
    )  # fmt: skip
    async with world.db() as db:
        with pytest.raises(Invalid) as caught:
            await schedules.create(db, world.tenant, new, actor=ADA)

    assert [fault.pointer for fault in caught.value.faults] == [
        "/name", "/missed", "/overlap", "/priority", "/timeout_seconds", "/queue", "/time_zone", "/cron", "/payload/seconds", "/concurrency_limit",
    ]  # fmt: skip


async def test_nobody_sees_the_schedules_of_another_tenant(world: World) -> None:
    schedule = await world.create("2027-03-01 11:59")
    await world.tick("2027-03-01 12:00")
    other = await make_tenant(world.admin, "globex")

    async with world.database() as database, database.tenant(other, ADA) as db:
        assert await schedules.list_schedules(db, other) == []
        assert await ticks.list_ticks(db, other, schedule.id) == []
        for call in (schedules.get, schedules.resume):
            with pytest.raises(NotFound):
                await call(db, other, schedule.id)
        with pytest.raises(NotFound):
            await schedules.run_now(db, other, schedule.id, actor=ADA)


async def test_a_schedule_shows_its_next_ticks(world: World) -> None:
    schedule: Schedule = await world.create(
        "2027-03-01 11:59", cron="0 12 * * mon", time_zone="Europe/Berlin"
    )

    assert schedule.explanation == "At 12:00 on Monday, Europe/Berlin"
    shown = schedules.list_next(schedule)
    assert [f"{tick:%m-%d %H:%M}" for tick in shown] == [
        "03-08 11:00",
        "03-15 11:00",
        "03-22 11:00",
        "03-29 10:00",
        "04-05 10:00",
    ]
