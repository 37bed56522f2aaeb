"""Everything that can happen to tasks, in any order: the rules of a hypothesis state machine over a real database (E7: P3-P8, P16, P21).

Several executors on replicas in different time zones claim, work, write, end, wait and stop; some sleep past their lease and go on as
if nothing had happened; callers create, cancel, signal and requeue; queues are paused and limited; time passes. What each step may do
is `look`ed at by tests/engine_world.py against the table of services/task_states.py. After the last step all faults end and every
task must end too.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from server.finisher import Outcome
from server.outcomes import outcome_of
from services import tasks
from services.errors import Conflict, StaleAttempt
from services.task_context import Run, Signal, Suspended, TaskContext
from services.task_states import Transition, is_final
from services.task_types import Permanent, Retry, Retryable, Throttled
from services.tasks import NewTask
from sql import SQL
from tests.engine import task_type
from tests.engine_world import Eye, Replica, World, make_world, require

LEASE = 20.0
OVERDUE = 30
UNKNOWN = 5.0
QUEUES = ("default", "content")
KEYS = {"one at a time": 1, "two at a time": 2}
TYPES = (
    "machine_retry",
    "machine_fail",
    "machine_hold",
)  # they differ in on_crash and in the delay of a retry
SIGNALS = ("go", "stop")
STEPS = 40
MOST_LIVE = 9  # more tasks than this only dilute what happens to each
ACTOR = "user:ada"

CLAIM = "SELECT * FROM app.claim($1, $2, $3)"
HEARTBEAT = "SELECT alive, draining, lost FROM app.heartbeat($1, $2, $3, $4)"

Choices = Sequence[Any] | Callable[[random.Random], Any]
PICKS = range(12)
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
ENDINGS: dict[str, Any] = {
    "returned": None,
    "raised": Retryable("once more"),
    "for good": Permanent("never again"),
    "throttled": Throttled("later", retry_after=7.0),
}


@dataclass(slots=True)
class Hand:
    """A run as the code that does it sees it: it does not know whether the task is still its own."""

    run: Run
    executor: UUID
    replica: Replica
    context: TaskContext
    used: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Move:
    """One kind of step: how often it is taken, when it makes sense, and what it draws."""

    name: str
    weight: int
    when: Callable[[Machine], Any]
    arguments: dict[str, Choices]


MOVES: list[Move] = []


def move(weight: int, when: Callable[[Machine], Any], **arguments: Choices) -> Any:
    """Make a method one of the machine's moves. (Of as many rules hypothesis would switch half off in each example.)"""

    def add(method: Any) -> Any:
        MOVES.append(Move(method.__name__, weight, when, arguments))
        return method

    return add


def draw(arguments: dict[str, Choices], dice: random.Random) -> dict[str, Any]:
    """Choose a value for each argument."""
    return {
        name: choices(dice) if callable(choices) else dice.choice(choices)
        for name, choices in arguments.items()
    }


class Machine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self, loop: asyncio.AbstractEventLoop, world: World) -> None:
        super().__init__()
        self.loop, self.world = loop, world
        self.eye: Eye = self._do(world.begin())
        self.leases: dict[UUID, Any] = {}  # executors by id: until when
        self.replica_of: dict[UUID, Replica] = {}
        self.hands: list[Hand] = []
        self.sent: list[tuple[Replica, Outcome]] = []
        self.signals: set[tuple[UUID, str]] = set()
        self.movers: tuple[str, ...] = ()
        self.sound = True
        self.weights: dict[str, float] = {}  # each example has its own mood
        self.dice = random.Random(0)

    # What rules are made of --------------------------------------------------------------------------------------------

    def _do(self, work: Awaitable[Any]) -> Any:
        async def done() -> Any:
            return await work

        return self.loop.run_until_complete(done())

    def _movers(self, *names: str) -> None:
        """Say who may move tasks in the present step."""
        self.movers, self.sound = names, False

    async def _ask(self, replica: Replica, statement: str, *arguments: Any) -> Any:
        async with replica.statement() as db:
            return await db.fetch(statement, *arguments)

    def _owns(self, hand: Hand) -> bool:
        """Whether the run still owns its task, by what the last look has seen."""
        row = self.eye.rows[hand.run.id]
        return bool(row["state"] == "running" and row["fence"] == hand.run.fence)

    def _live(self, *states: str) -> list[asyncpg.Record]:
        rows = [row for row in self.eye.rows.values() if not is_final(row["state"])]
        return [row for row in rows if not states or row["state"] in states]

    def _replica(self, number: int) -> Replica:
        return self.world.replicas[number % len(self.world.replicas)]

    def _is_registered(self, executor: UUID) -> bool:
        return bool(self.leases[executor] > self.world.clock.now)

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

    # Executors ---------------------------------------------------------------------------------------------------------

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

    def _register(self, number: int) -> UUID:
        executor, replica = uuid4(), self._replica(number)
        arguments = (executor, "here", number, "0", 10, LEASE)
        self._do(self._ask(replica, SQL["executors.register"], *arguments))
        self.leases[executor] = self.world.clock.now + timedelta(seconds=LEASE)
        self.replica_of[executor] = replica
        return executor

    @move(5, lambda self: not self._registered(), number=range(3))
    def register(self, number: int) -> None:
        self._movers()
        self._register(number)
        self._register(number + 1)

    def _registered(self) -> list[UUID]:
        return [one for one in self.leases if self._is_registered(one)]

    @move(
        9,
        lambda self: self._live("queued") and self.leases,
        who=PICKS,
        which=PICKS,
        want=(10, 2, 1),
    )
    def claim(self, who: int, which: int, want: int) -> None:
        """Mostly by somebody who may."""
        executor = _pick([*self._registered() * 3, *self.leases], who)
        self._claim(executor, _pick(self._live("queued"), which)["queue"], want)

    def _claim(self, executor: UUID, queue: str, want: int) -> str:
        self._movers("executor")
        replica = self.replica_of[executor]
        rows = self._do(self._ask(replica, CLAIM, executor, queue, want))
        outcome = str(rows[0]["outcome"])
        self.world.answers[f"claim {outcome}"] += 1
        if not self._is_registered(executor):
            require(outcome in {"unregistered", "paused"}, f"an executor without a lease was told {outcome}")
        if outcome == "claimed":
            require(len(rows) <= want, f"{len(rows)} instead of {want} were claimed")
            self._check_order(queue, {row["id"] for row in rows})
            self.hands += [self._hand(executor, replica, row) for row in rows]
        return outcome

    def _check_order(self, queue: str, claimed: set[UUID]) -> None:
        """Of one tenant's tasks without keys none is passed over for one behind it."""
        now = self.world.clock.now
        for tenant in self.world.tenants:
            mine = [
                row
                for row in self._live("queued")
                if row["queue"] == queue and row["tenant_id"] == tenant and row["concurrency_key"] is None
            ]
            mine.sort(key=lambda row: (row["priority"], row["run_at"], row["id"]))
            startable = [
                row["id"] in claimed
                for row in mine
                if row["fence"] or row["start_before"] is None or row["start_before"] > now
            ]
            require(startable == sorted(startable, reverse=True), f"out of turn: {mine} gave {claimed}")

    def _hand(self, executor: UUID, replica: Replica, row: asyncpg.Record) -> Hand:
        run = Run(
            id=row["id"],
            tenant_id=row["tenant_id"],
            type=row["type"],
            type_version=row["type_version"],
            fence=row["fence"],
            attempt=row["attempt"],
            max_attempts=row["max_attempts"],
            seconds_left=row["seconds_left"],
            created_by=row["created_by"],
            request_id=None,
            payload={},
        )
        return Hand(run, executor, replica, TaskContext(run, database=replica))

    @move(1, lambda self: self._live("queued") and self.leases, who=PICKS, queue=QUEUES)
    def claim_while_another_does(self, who: int, queue: str) -> None:
        self._movers()
        executor = _pick(list(self.leases), who)

        async def claim() -> list[asyncpg.Record]:
            async with self.world.admin.transaction():
                await self.world.admin.execute("SELECT FROM queues WHERE name = $1 FOR NO KEY UPDATE", queue)
                rows: list[asyncpg.Record] = await self._ask(
                    self.replica_of[executor], CLAIM, executor, queue, 5
                )
                return rows

        require([row["outcome"] for row in self._do(claim())] == ["contended"], "two claimed from one queue")

    @move(1, lambda self: self.leases, who=PICKS)
    def heartbeat(self, who: int) -> None:
        self._movers()
        self._heartbeat(_pick(list(self.leases), who))

    def _heartbeat(self, executor: UUID) -> None:
        mine = [hand for hand in self.hands if hand.executor == executor]
        ids, fences = [hand.run.id for hand in mine], [hand.run.fence for hand in mine]
        arguments = (executor, LEASE, ids, fences)
        (answer,) = self._do(self._ask(self.replica_of[executor], HEARTBEAT, *arguments))
        alive = self._is_registered(executor)
        require(answer["alive"] == alive, f"the lease lives: {answer['alive']}, not {alive}")
        lost = {hand.run.id for hand in mine if not alive or not self._owns(hand)}
        require(set(answer["lost"]) == lost, f"told of {answer['lost']}, lost are {lost}")
        if alive:
            self.leases[executor] = self.world.clock.now + timedelta(seconds=LEASE)

    @move(1, lambda self: any(map(self._owns, self.hands)), who=PICKS)
    def drain(self, who: int) -> None:
        """A process stops and gives its runs back; their code may not have noticed yet."""
        self._movers("drain", "release")
        executor = _pick(sorted(self.leases, key=lambda one: -self._held(one)), who % 2)
        mine = [hand for hand in self.hands if hand.executor == executor]
        ids, fences = [hand.run.id for hand in mine], [hand.run.fence for hand in mine]
        replica = self.replica_of[executor]
        (answer,) = self._do(self._ask(replica, SQL["executors.give_back"], executor, ids, fences))
        require(
            set(answer[0]) == {hand.run.id for hand in mine if self._owns(hand)}, f"gave back {answer[0]}"
        )
        self._do(self._ask(replica, SQL["executors.deregister"], executor))
        self.leases[executor] = self.world.clock.now
        self._forget()

    def _held(self, executor: UUID) -> int:
        return sum(hand.executor == executor for hand in self.hands)

    @move(1, lambda self: self._live("running"), who=PICKS)
    def give_back_unknown(self, who: int) -> None:
        """The answers to an executor's claims were lost: its heartbeat knows of none of its runs."""
        self._movers("drain", "release")
        executor = _pick(self._live("running"), who)["executor_id"]
        replica = self.replica_of.get(executor, self.world.replicas[0])
        self._do(self._ask(replica, SQL["executors.give_back_unknown"], executor, [], UNKNOWN))

    def _forget(self) -> None:
        """Drop the oldest of the executors that are gone, and of the hands that were late."""
        gone = [one for one in self.leases if not self._is_registered(one)]
        for one in gone[:-1]:
            del self.leases[one]
        self.hands = self.hands[-8:]

    # Runs --------------------------------------------------------------------------------------------------------------

    @move(9, lambda self: self.hands, which=PICKS, how=(*ENDINGS, "timeout"))
    def end(self, which: int, how: str) -> None:
        self._end(_pick(self.hands, which), how)

    def _end(self, hand: Hand, how: str) -> None:
        """Send what the executor would: a late one is refused and changes nothing."""
        owned = self._owns(hand)
        self._movers(*(("executor", "release") if owned else ()))
        self.hands.remove(hand)
        ended = {"fence": hand.run.fence} if how == "returned" else ENDINGS.get(how)
        reason = "timeout" if how == "timeout" else ""
        outcome = outcome_of(hand.run, ended, stop_reason=reason, dice=self.dice)
        assert outcome is not None
        accepted = self._do(self._send(hand.replica, outcome))
        require(accepted == owned, f"{how} of run {hand.run.fence} was accepted: {accepted}, owned: {owned}")
        self.world.answers["ended" if owned else "refused"] += 1
        if not outcome.retry_event and owned:
            self.sent = [*self.sent[-3:], (hand.replica, outcome)]

    async def _send(self, replica: Replica, outcome: Outcome) -> bool:
        run = outcome.run
        if outcome.retry_event:
            rows = await self._ask(
                replica,
                SQL["runs.retry"],
                run.id,
                run.fence,
                outcome.retry_event,
                outcome.error,
                outcome.delay,
                outcome.counts,
            )
            return bool(rows[0][0])
        rows = await self._ask(
            replica,
            SQL["executors.finish"],
            [run.id],
            [run.fence],
            [outcome.state],
            [outcome.result],
            [outcome.error],
        )
        return all(row["outcome"] == "done" for row in rows)  # what was simply done is not sent back

    @move(1, lambda self: self.sent, which=PICKS)
    def send_again(self, which: int) -> None:
        """The answer was lost: the same end is written once more, recognised, and changes nothing."""
        self._movers()
        replica, outcome = _pick(self.sent, which)
        require(self._do(self._send(replica, outcome)), "an end that was written is not recognised")

    @move(1, lambda self: any(map(self._owns, self.hands)), which=PICKS)
    def end_while_locked(self, which: int) -> None:
        self._movers()
        run = _pick([hand for hand in self.hands if self._owns(hand)], which).run

        async def end() -> Any:
            async with self.world.admin.transaction():
                await self.world.admin.execute("SELECT FROM tasks WHERE id = $1 FOR NO KEY UPDATE", run.id)
                rows = await self._ask(
                    self.world.replicas[0],
                    SQL["executors.finish"],
                    [run.id],
                    [run.fence],
                    ["succeeded"],
                    ["1"],
                    [None],
                )
                return rows[0]["outcome"]

        require(self._do(end()) == "busy", "the end of a locked row was not told to come again")

    @move(3, lambda self: self.hands, which=PICKS, how=("write", "step", "progress"))
    def write(self, which: int, how: str) -> None:
        """A write in the middle of a run: refused when the task has gone on without it."""
        hand = _pick(self.hands, which)
        if how in hand.used:
            return
        self._movers()
        hand.used.add(how)
        owned = self._owns(hand)
        try:
            written = self._do(getattr(self, f"_{how}")(hand))
        except StaleAttempt:
            written = False
        require(written in (owned, hand.run.fence, "kept"), f"{how} was {written}, but owned: {owned}")

    async def _write(self, hand: Hand) -> Any:
        async def insert(db: Any) -> int:
            await db.execute("INSERT INTO machine_marks VALUES ($1, $2)", hand.run.id, hand.run.fence)
            return hand.run.fence

        fence = await hand.context.write("write", insert)
        return fence if fence == hand.run.fence and self._owns(hand) else _kept(fence, hand)

    async def _step(self, hand: Hand) -> Any:
        async def work() -> int:
            return hand.run.fence

        fence = await hand.context.step("step", work)
        return fence if fence == hand.run.fence and self._owns(hand) else _kept(fence, hand)

    async def _progress(self, hand: Hand) -> Any:
        async with hand.replica.tenant(hand.run.tenant_id, "task") as db:
            arguments = (hand.run.tenant_id, hand.run.id, hand.run.fence, {"fraction": 0.5})
            return bool(await db.fetchval(SQL["runs.set_progress"], *arguments))

    @move(
        4,
        lambda self: self.hands,
        which=PICKS,
        name=SIGNALS,
        seconds=(None, 15),
    )
    def wait(self, which: int, name: str, seconds: float | None) -> None:
        hand = _pick(self.hands, which)
        if name in hand.used:
            return
        hand.used.add(name)
        owned, came = self._owns(hand), (hand.run.id, name) in self.signals
        self._movers(*(("executor", "release") if owned and not came else ()))
        timeout = None if seconds is None else timedelta(seconds=seconds)
        try:
            answer: Signal | None = self._do(hand.context.wait_for(name, timeout=timeout))
        except Suspended:
            require(owned and not came, f"a wait for {name} began: owned {owned}, sent {came}")
            self.hands.remove(hand)
            return
        except StaleAttempt:
            require(not owned, "a run that owns its task was called stale")
            return
        assert answer is not None
        require(answer.expired or came, f"a signal {name} came that nobody has sent")

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
            start_before=None if start_before is None else now + timedelta(seconds=start_before),
            **more,
        )

    @move(2, lambda self: self.eye.rows, where=PICKS, which=PICKS, held=(True, False))
    def cancel(self, where: int, which: int, held: bool) -> None:
        """*held*: one that runs or waits for another's end, if there is one."""
        row = _pick((held and self._live("running", "blocked")) or list(self.eye.rows.values()), which)
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

    @move(2, lambda self: self._live(), where=PICKS, which=PICKS, name=SIGNALS)
    def signal(self, where: int, which: int, name: str) -> None:
        """Sent to who waits for it, or early."""
        self._signal(self._replica(where), _pick([*self._live("waiting"), *self._live()], which), name)

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
        row = _pick(list(self.eye.rows.values()), which)
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

    @move(
        3,
        lambda _: True,
        seconds=(1, 4, 6, 8, 15, 25, 60),
        beating=(True, True, False),
    )
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


def _pick(choices: list[Any], number: int) -> Any:
    return choices[number % len(choices)]


def _kept(fence: int, hand: Hand) -> Any:
    """What a checkpoint of an earlier run answers; a run never gets its own that way."""
    return "kept" if fence != hand.run.fence else "written by a run that does not own the task"


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
