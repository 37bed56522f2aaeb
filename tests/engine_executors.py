"""What executors do with tasks, in moves of a machine that plays them in any order: claim, run, write, wait, end, stop, be late.

The machine is tests/engine_machine.py. A move is taken when it makes sense and draws its arguments; what it does goes to the real
database, and `_movers` says who may have changed tasks by it, for tests/engine_world.py to hold against the table of transitions.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from hypothesis.stateful import RuleBasedStateMachine

from server.finisher import Outcome
from server.outcomes import outcome_of
from services.errors import StaleAttempt
from services.task_context import Run, Signal, Suspended, TaskContext
from services.task_states import is_final
from services.task_types import Permanent, Retryable, Throttled
from sql import SQL
from tests.engine_world import Eye, Replica, World, require

LEASE = 20.0
UNKNOWN = 5.0
QUEUES = ("default", "content")
SIGNALS = ("go", "stop")

CLAIM = "SELECT * FROM app.claim($1, $2, $3)"
HEARTBEAT = "SELECT alive, draining, lost FROM app.heartbeat($1, $2, $3, $4)"

Choices = Sequence[Any] | Callable[[random.Random], Any]
PICKS = range(12)
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
    when: Callable[[Any], Any]
    arguments: dict[str, Choices]


MOVES: list[Move] = []


def move(weight: int, when: Callable[[Any], Any], **arguments: Choices) -> Any:
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


class Executors(RuleBasedStateMachine):
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

    # Executors ---------------------------------------------------------------------------------------------------------

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

    @move(9, lambda self: self._live("queued") and self.leases, who=PICKS, which=PICKS, want=(10, 2, 1))
    def claim(self, who: int, which: int, want: int) -> None:
        """Mostly by somebody who may."""
        executor = pick([*self._registered() * 3, *self.leases], who)
        self._claim(executor, pick(self._live("queued"), which)["queue"], want)

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
        executor = pick(list(self.leases), who)

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
        self._heartbeat(pick(list(self.leases), who))

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
        executor = pick(sorted(self.leases, key=lambda one: -self._held(one)), who % 2)
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
        executor = pick(self._live("running"), who)["executor_id"]
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
        self._end(pick(self.hands, which), how)

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
            retried = (outcome.retry_event, outcome.error, outcome.delay, outcome.counts)
            rows = await self._ask(replica, SQL["runs.retry"], run.id, run.fence, *retried)
            return bool(rows[0][0])
        ended = ([outcome.state], [outcome.result], [outcome.error])
        rows = await self._ask(replica, SQL["executors.finish"], [run.id], [run.fence], *ended)
        return all(row["outcome"] == "done" for row in rows)  # what was simply done is not sent back

    @move(1, lambda self: self.sent, which=PICKS)
    def send_again(self, which: int) -> None:
        """The answer was lost: the same end is written once more, recognised, and changes nothing."""
        self._movers()
        replica, outcome = pick(self.sent, which)
        require(self._do(self._send(replica, outcome)), "an end that was written is not recognised")

    @move(1, lambda self: any(map(self._owns, self.hands)), which=PICKS)
    def end_while_locked(self, which: int) -> None:
        self._movers()
        run = pick([hand for hand in self.hands if self._owns(hand)], which).run

        async def end() -> Any:
            async with self.world.admin.transaction():
                await self.world.admin.execute("SELECT FROM tasks WHERE id = $1 FOR NO KEY UPDATE", run.id)
                ended = ([run.id], [run.fence], ["succeeded"], ["1"], [None])
                rows = await self._ask(self.world.replicas[0], SQL["executors.finish"], *ended)
                return rows[0]["outcome"]

        require(self._do(end()) == "busy", "the end of a locked row was not told to come again")

    @move(3, lambda self: self.hands, which=PICKS, how=("write", "step", "progress"))
    def write(self, which: int, how: str) -> None:
        """A write in the middle of a run: refused when the task has gone on without it."""
        hand = pick(self.hands, which)
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

    @move(4, lambda self: self.hands, which=PICKS, name=SIGNALS, seconds=(None, 15))
    def wait(self, which: int, name: str, seconds: float | None) -> None:
        hand = pick(self.hands, which)
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


def pick(choices: list[Any], number: int) -> Any:
    return choices[number % len(choices)]


def _kept(fence: int, hand: Hand) -> Any:
    """What a checkpoint of an earlier run answers; a run never gets its own that way."""
    return "kept" if fence != hand.run.fence else "written by a run that does not own the task"
