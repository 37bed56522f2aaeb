"""Everything that can happen to tasks, in any order: the rules of a hypothesis state machine over a real database (E7: P3-P8, P16, P21).

Several executors on replicas in different time zones claim, work, write, end, wait and stop (tests/engine_executors.py); some sleep
past their lease and go on as if nothing had happened. Callers create, cancel, signal and requeue; queues are paused and limited; time
passes. What each step may do is `look`ed at by tests/engine_world.py against the table of services/task_states.py. After the last step
all faults end and every task must end too.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from services import tasks
from services.errors import Conflict
from services.task_context import TaskContext
from services.task_states import Transition, is_final
from services.task_types import Retry
from services.tasks import NewTask
from sql import SQL
from tests.engine import task_type
from tests.engine_executors import LEASE, MOVES, PICKS, QUEUES, SIGNALS, Choices, Executors, draw, move, pick
from tests.engine_world import Replica, World, make_world, require

OVERDUE = 30
KEYS = {"one at a time": 1, "two at a time": 2}
TYPES = (
    "machine_retry",
    "machine_fail",
    "machine_hold",
)  # they differ in on_crash and in the delay of a retry
STEPS = 40
MOST_LIVE = 9  # more tasks than this only dilute what happens to each
ACTOR = "user:ada"

SPEC: dict[str, Choices] = {
    "type": (*TYPES, "machine_retry"),
    "queue": ("default", "default", "content"),
    "priority": (2, 2, 0),
    "delay": (0, 0, 0, 5, 60),
    "key": (None, "one at a time", "one at a time", "one at a time", "two at a time"),
    "max_attempts": (5, 5, 5, 2, 1),
    "start_before": (None, None, 30),
    "total_timeout_seconds": (None, None, 45),
    "timeout_seconds": (300, 10),
}
LIMITS: dict[str, Choices] = {
    "max_running": (None, None, 1, 3),
    "max_running_per_tenant": (None, None, 1, 2),
    "rate_per_second": (None, None, None, 0.2),
    "burst": (2,),
    "fair": (True, False),
}


class Machine(Executors):
    """See the module."""

    @invariant()
    def look(self) -> None:
        self._do(self.eye.look(self.movers))
        self.movers, self.sound = (), True

    @rule(dice=st.randoms(use_true_random=True))
    def step(self, dice: random.Random) -> None:
        possible = [one for one in MOVES if one.when(self)]
        (chosen,) = dice.choices(possible, [self.weights[one.name] for one in possible])
        self._make(chosen.name, **draw(chosen.arguments, dice))

    def _make(self, name: str, /, **arguments: Any) -> None:
        hypothesis.note(f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})")
        self.world.answers[f"move {name}"] += 1
        getattr(self, name)(**arguments)

    @initialize(dice=st.randoms(use_true_random=True))
    def begin(self, dice: random.Random) -> None:
        self.weights = {one.name: one.weight * dice.choice((0.2, 1, 1, 4)) for one in MOVES}
        self._make("open", limits=draw(LIMITS, dice), executors=dice.randint(1, 2))
        self._make("enqueue", where=0, tenant=0, specs=[draw(SPEC, dice) for _ in range(3)])

    def open(self, limits: dict[str, Any], executors: int) -> None:
        if limits["rate_per_second"] is None:
            limits = {**limits, "burst": None}
        names = ", ".join(f"{name} = ${place}" for place, name in enumerate(limits, 1))
        statement = f"UPDATE queues SET {names} WHERE name = 'content'"
        self._do(self.world.admin.execute(statement, *limits.values()))
        self.eye.limits = {"content": limits}
        for number in range(executors):
            self._register(number)

    # Callers -----------------------------------------------------------------------------------------------------------

    @move(
        4,
        lambda self: len(self._live()) < MOST_LIVE,
        where=PICKS,
        tenant=range(2),
        specs=lambda dice: [draw(SPEC, dice) for _ in range(dice.randint(1, 3))],
    )
    def enqueue(self, where: int, tenant: int, specs: list[dict[str, Any]]) -> None:
        self._movers("caller")
        replica, tenant_id = self._replica(where), self.world.tenants[tenant]
        new = [self._new(**spec) for spec in specs]

        async def create() -> list[tasks.Task]:
            async with replica.tenant(tenant_id, ACTOR) as db:
                return await tasks.enqueue_many(db, tenant_id, new, actor=ACTOR)

        self.eye.known |= {task.id for task in self._do(create())}

    def _new(self, *, delay: float, key: str | None, start_before: float | None, **more: Any) -> NewTask:
        now = self.world.clock.now
        return NewTask(
            payload={},
            run_at=now + timedelta(seconds=delay) if delay else None,
            concurrency_key=key,
            concurrency_limit=KEYS[key] if key else None,
            start_before=None if start_before is None else now + timedelta(seconds=delay + start_before),
            **more,
        )

    @move(2, lambda self: self.eye.rows, where=PICKS, which=PICKS, held=(True, False))
    def cancel(self, where: int, which: int, held: bool) -> None:
        """*held*: one that runs or waits for another's end, if there is one."""
        row = pick((held and self._live("running", "blocked")) or list(self.eye.rows.values()), which)
        live, replica = not is_final(row["state"]), self._replica(where)
        self._movers(*(("operator", "release") if live else ()))

        async def cancel() -> Any:
            async with replica.tenant(row["tenant_id"], ACTOR) as db:
                return await tasks.cancel(db, row["tenant_id"], row["id"], actor=ACTOR, reason="a rule")

        try:
            task, stopped = self._do(cancel())
        except Conflict:
            require(is_final(row["state"]) and row["state"] != "cancelled", f"cancelling {row} was refused")
            return
        require(task.state == "cancelled", f"the cancel was answered with {task.state}")
        require(len(stopped) == live, f"{len(stopped)} runs are to be stopped")
        self.eye.cancelled.add(task.id)

    @move(1, lambda self: self._live("scheduled"), where=PICKS, which=PICKS)
    def hurry(self, where: int, which: int) -> None:
        row, replica = pick(self._live("scheduled"), which), self._replica(where)
        self._movers("operator")

        async def hurry() -> tasks.Task:
            async with replica.tenant(row["tenant_id"], ACTOR) as db:
                return await tasks.run_now(db, row["tenant_id"], row["id"], actor=ACTOR)

        task = self._do(hurry())
        require((task.state, task.fence) == ("queued", row["fence"]), f"hurried, {row} became {task}")

    @move(2, lambda self: self._live(), where=PICKS, which=PICKS, name=SIGNALS)
    def signal(self, where: int, which: int, name: str) -> None:
        """Sent to who waits for it, or early."""
        self._signal(self._replica(where), pick([*self._live("waiting"), *self._live()], which), name)

    def _signal(self, replica: Replica, row: asyncpg.Record, name: str) -> None:
        self._movers("signal")
        name = row["waiting_for"] if row["state"] == "waiting" and row["waiting_for"] == "operator" else name

        async def send() -> str | None:
            async with replica.tenant(row["tenant_id"], ACTOR) as db:
                return await tasks.send_signal(
                    db, row["tenant_id"], row["id"], name=name, data={}, actor=ACTOR
                )

        queue = self._do(send())
        awaited = row["state"] == "waiting" and row["waiting_for"] == name
        require((queue is not None) == awaited, f"signal {name} woke {queue}: {row}")
        self.signals.add((row["id"], name))

    @move(1, lambda self: self.eye.rows, where=PICKS, which=PICKS)
    def requeue(self, where: int, which: int) -> None:
        row = pick(list(self.eye.rows.values()), which)
        replica = self._replica(where)
        self._movers(*(("caller",) if is_final(row["state"]) else ()))

        async def requeue() -> tasks.Task:
            async with replica.tenant(row["tenant_id"], ACTOR) as db:
                return await tasks.requeue(db, row["tenant_id"], row["id"], actor=ACTOR)

        try:
            task = self._do(requeue())
        except Conflict:
            require(not is_final(row["state"]), f"requeueing {row} was refused")
            return
        require(task.retry_of == row["id"], "the new task does not say what it was made from")
        self.eye.known.add(task.id)

    # Time and loops ----------------------------------------------------------------------------------------------------

    @move(3, lambda _: True, seconds=(1, 4, 6, 8, 15, 25, 60), beating=(True, True, False))
    def pass_time(self, seconds: float, beating: bool) -> None:
        """Without heartbeats the leases run out."""
        self._movers()
        end = self.world.clock.now + timedelta(seconds=seconds)
        while beating and self.world.clock.now + timedelta(seconds=15) < end and self._registered():
            self.world.clock.advance(timedelta(seconds=15))
            for executor in self._registered():
                self._heartbeat(executor)
        self.world.clock.now = end

    @move(4, lambda self: self._due(), where=PICKS)
    def promote(self, where: int) -> None:
        self._promote(self._replica(where))

    def _promote(self, replica: Replica) -> None:
        self._movers("scheduler")
        (answer,) = self._do(self._ask(replica, SQL["executors.promote"], 100))
        due = len(self._due())
        require(answer["promoted"] == due, f"{answer['promoted']} of {due} that are due were queued")

    def _due(self) -> list[asyncpg.Record]:
        now = self.world.clock.now
        due = [row for row in self._live("scheduled") if row["run_at"] <= now]
        return due + [row for row in self._live("waiting") if row["wait_until"] and row["wait_until"] <= now]

    @move(2, lambda self: self._live(), where=PICKS, late=(True, False))
    def sweep(self, where: int, late: bool) -> None:
        """*late*: when those that had to start soon are too late."""
        if late:
            self.world.clock.advance(timedelta(seconds=46))
        self._movers("scheduler", "release")
        replica = self._replica(where)
        self._do(self._ask(replica, SQL["executors.time_out"], 100))
        self._do(self._ask(replica, SQL["executors.wake_keys"], 100, None, None, None))
        self._do(self._ask(replica, SQL["executors.clear_expired"], 100))

    @move(8, lambda self: self._live("running"), where=PICKS, late=(True, False))
    def rescue(self, where: int, late: bool) -> None:
        """*late*: when every lease has run out."""
        if late:
            self.world.clock.advance(timedelta(seconds=LEASE + 1))
        self._rescue(self._replica(where))

    def _rescue(self, replica: Replica) -> None:
        self._movers("rescuer", "release")
        now = self.world.clock.now
        lost = {
            row["id"]
            for row in self._live("running")
            if self.leases.get(row["executor_id"], now) <= now
            or row["deadline_at"] + timedelta(seconds=OVERDUE) < now
        }
        rows = self._do(self._ask(replica, SQL["executors.rescue"], 100, OVERDUE))
        require({row["id"] for row in rows} == lost, f"rescued {rows} instead of {lost}")
        self._forget()

    @move(1, lambda _: True, queue=QUEUES, resume=(None, None, 30))
    def pause(self, queue: str, resume: float | None) -> None:
        """Pause a queue, or let it go on."""
        self._movers()
        now = self.world.clock.now
        until = None if resume is None else now + timedelta(seconds=resume)
        statement = (
            "UPDATE queues SET paused_at = CASE WHEN paused_at IS NULL THEN $2::timestamptz END,"
            " resume_at = CASE WHEN paused_at IS NULL THEN $3::timestamptz END WHERE name = $1"
        )
        self._do(self.world.admin.execute(statement, queue, now, until))

    # The end -----------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Faults end; every task must end as well, and history must tell how."""
        if not self.sound:
            return
        self._do(self.world.admin.execute("UPDATE queues SET paused_at = NULL, resume_at = NULL"))
        for _ in range(30):
            if not self._live():
                break
            self._settle()
        require(not self._live(), f"still live after all faults have ended: {self._live()}")
        self._do(self.eye.confirm())

    def _settle(self) -> None:
        """One round of a healthy installation."""
        self.world.clock.advance(timedelta(minutes=1))
        replica = self.world.replicas[0]
        executor = self._register(0)
        for work in (self._promote, self._rescue):
            work(replica)
            self.look()
        self.sweep(0, late=False)
        self.look()
        for row in self._live("waiting"):
            self._signal(replica, row, row["waiting_for"])
            self.look()
        for queue in QUEUES:
            while self._claim(executor, queue, 10) == "claimed":
                self.look()
                for hand in [one for one in self.hands if one.executor == executor]:
                    self._end(hand, "returned")
                    self.look()
            self.look()


# What chance meets too seldom to rely on, as (move, arguments); each tour is an example of its own.
PLAIN: dict[str, Any] = {
    "type": "machine_retry",
    "queue": "default",
    "priority": 2,
    "delay": 0,
    "key": None,
    "max_attempts": 5,
    "start_before": None,
    "total_timeout_seconds": None,
    "timeout_seconds": 300,
}
KEYED = {**PLAIN, "key": "one at a time", "start_before": 30}
CLAIM_ALL = ("claim", {"who": 0, "which": 0, "want": 10})
CRASH = (("rescue", {"where": 1, "late": True}), ("register", {"number": 0}))
WAIT = (("wait", {"which": 0, "name": "go", "seconds": 15}),) * 2
TOURS: dict[str, tuple[dict[str, Any], tuple[tuple[str, dict[str, Any]], ...]]] = {
    "three crashes": (PLAIN, (CLAIM_ALL, *CRASH, CLAIM_ALL, *CRASH, CLAIM_ALL, *CRASH)),
    "too late behind a key": (KEYED, (CLAIM_ALL, ("sweep", {"where": 2, "late": True}))),
    "cancelled behind a key": (
        KEYED,
        (CLAIM_ALL, *(("cancel", {"where": 0, "which": n, "held": True}) for n in (1, 0))),
    ),
    "cancelled while it waits": (
        PLAIN,
        (CLAIM_ALL, *WAIT, *(("cancel", {"where": 0, "which": n, "held": False}) for n in (0, 1))),
    ),
    "nobody comes": (
        PLAIN,
        (CLAIM_ALL, *WAIT, ("pass_time", {"seconds": 15, "beating": True}), ("promote", {"where": 2})),
    ),
    "somebody comes": (PLAIN, (CLAIM_ALL, *WAIT, ("signal", {"where": 1, "which": 0, "name": "go"}))),
    "held": ({**PLAIN, "type": "machine_hold"}, (CLAIM_ALL, *CRASH)),
    "snoozed": (
        PLAIN,
        (CLAIM_ALL, ("end", {"which": 0, "how": "throttled"}), ("end", {"which": 0, "how": "for good"})),
    ),
    "hurried": ({**PLAIN, "delay": 60}, (("hurry", {"where": 1, "which": 0}),)),
    "given back": (PLAIN, (CLAIM_ALL, ("drain", {"who": 0}))),
    "timed out": ({**PLAIN, "max_attempts": 1}, (CLAIM_ALL, ("end", {"which": 0, "how": "timeout"}))),
    "again at once": ({**PLAIN, "type": "machine_fail"}, (CLAIM_ALL, ("end", {"which": 0, "how": "raised"}))),
}


def tour(loop: asyncio.AbstractEventLoop, world: World) -> None:
    """Make the moves of each tour. Raises: Violation."""
    for spec, moves in TOURS.values():
        machine = Machine(loop, world)
        machine.look()
        machine.open(dict.fromkeys(LIMITS) | {"fair": False}, 1)
        machine.look()
        for name, arguments in (("enqueue", {"where": 0, "tenant": 0, "specs": [spec, spec]}), *moves):
            getattr(machine, name)(**arguments)
            machine.look()
        machine.teardown()


@contextmanager
def task_types_of_the_machine() -> Iterator[None]:
    """Know the machine's task types, which differ in what follows a crash and in how soon they are tried again."""

    async def never(task: TaskContext, payload: Any) -> None:
        raise AssertionError("the machine plays the code of its tasks itself")

    with ExitStack() as stack:
        for name, on_crash, seconds in zip(TYPES, ("retry", "fail", "hold"), (4, 0, 2), strict=True):
            retry = Retry(base=timedelta(seconds=seconds), cap=timedelta(seconds=20))
            stack.enter_context(task_type(name, never, on_crash=on_crash, retry=retry))
        yield


def play(
    admin_dsn: str, web_dsn: str, *, seed: int, examples: int, shrink: bool = False
) -> tuple[Counter[Transition], Counter[str]]:
    """Run so many examples with these dice; returns how often each transition was made, and each answer given.

    Raises: Violation, with the steps that led to it. *shrink* looks for the fewest, which takes minutes.
    """
    loop = asyncio.new_event_loop()
    world = loop.run_until_complete(make_world(admin_dsn, web_dsn))
    logging.disable(logging.WARNING)  # runs fail by the thousand
    try:
        with task_types_of_the_machine():
            tour(loop, world)
            run_state_machine_as_test(
                hypothesis.seed(seed)(lambda: Machine(loop, world)),
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=STEPS,
                    phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
                    deadline=None,
                    database=None,
                    print_blob=False,
                    suppress_health_check=list(HealthCheck),
                ),
            )
    finally:
        logging.disable(logging.NOTSET)
        loop.run_until_complete(world.close())
        loop.close()
    return world.coverage, world.answers
