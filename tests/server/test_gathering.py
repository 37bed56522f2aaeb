"""What is asked for at the same time goes together, and everybody gets their own answer, or what they would have got alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from server.gathering import MOST, OVERTAKERS, SINGLES, Gathering
from services.errors import Invalid, Unavailable


class Work:
    """Doubles numbers. Rounds wait for the gate; the numbers in `stuck` never come to an end, negative ones are refused, 666 breaks the link."""

    def __init__(self, *, seconds: float = 10.0) -> None:
        self.rounds: list[tuple[str, list[int]]] = []
        self.gate = asyncio.Event()
        self.stuck: set[int] = set()
        self.gathering: Gathering[int, int] = Gathering(
            self._double, refused=lambda exc: isinstance(exc, Invalid), seconds=seconds
        )

    async def _double(self, key: str, numbers: Sequence[int]) -> list[int]:
        self.rounds.append((key, list(numbers)))
        await self.gate.wait()
        if self.stuck & set(numbers):
            await asyncio.Event().wait()
        if any(number == 666 for number in numbers):
            raise ConnectionError("the link broke")
        if any(number < 0 for number in numbers):
            raise Invalid("below nought")
        return [2 * number for number in numbers]

    def ask(self, numbers: Sequence[int], key: str = "a") -> list[asyncio.Task[int]]:
        return [asyncio.create_task(self.gathering.ask(key, number)) for number in numbers]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_those_who_come_meanwhile_go_together_and_each_gets_their_own() -> None:
    work = Work()
    asked = work.ask(range(30))
    await until(lambda: len(work.rounds) == SINGLES)
    work.gate.set()

    assert await asyncio.gather(*asked) == [2 * number for number in range(30)]
    assert work.rounds == [("a", [0]), ("a", [1]), ("a", list(range(2, 30)))]


async def test_one_round_takes_no_more_than_its_most() -> None:
    work = Work()
    asked = work.ask(range(2 * MOST + 10))
    await until(lambda: len(work.rounds) == SINGLES)
    work.gate.set()

    assert await asyncio.gather(*asked) == [2 * number for number in range(2 * MOST + 10)]
    assert max(len(numbers) for _, numbers in work.rounds) == MOST


async def test_only_what_has_the_same_key_goes_together() -> None:
    work = Work()
    asked = work.ask(range(10), "a") + work.ask(range(10, 20), "b")
    await until(lambda: len(work.rounds) == 2 * SINGLES)
    work.gate.set()

    assert await asyncio.gather(*asked) == [2 * number for number in range(20)]
    assert all((key == "a") == (max(numbers) < 10) for key, numbers in work.rounds)


async def test_what_is_refused_costs_nobody_else_their_answer() -> None:
    work = Work()
    asked = work.ask([1, 2, 3, -4, 5, -6])
    await until(lambda: len(work.rounds) == SINGLES)
    work.gate.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert [answers[place] for place in (0, 1, 2, 4)] == [2, 4, 6, 10]
    assert isinstance(answers[3], Invalid)
    assert isinstance(answers[5], Invalid)


async def test_nothing_is_tried_again_when_it_may_have_been_done() -> None:
    work = Work()
    asked = work.ask([1, 2, 3, 666, 5])
    await until(lambda: len(work.rounds) == SINGLES)
    work.gate.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert answers[:2] == [2, 4]
    assert all(isinstance(answer, ConnectionError) for answer in answers[2:])
    assert work.rounds[SINGLES:] == [("a", [3, 666, 5])]


async def test_a_caller_that_goes_away_takes_only_its_own_along() -> None:
    work = Work()
    asked = work.ask(range(10))
    await until(lambda: len(work.rounds) == SINGLES)
    asked[0].cancel()
    asked[5].cancel()
    await asyncio.sleep(0)
    work.gate.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert [place for place, answer in enumerate(answers) if isinstance(answer, asyncio.CancelledError)] == [
        0,
        5,
    ]
    assert [answer for answer in answers if isinstance(answer, int)] == [
        2 * n for n in range(10) if n not in (0, 5)
    ]


async def test_what_does_not_end_is_overtaken() -> None:
    work = Work()
    work.stuck = {0}
    asked = work.ask(range(10))
    await until(lambda: len(work.rounds) == SINGLES)
    work.gate.set()

    async with asyncio.timeout(5):
        assert await asyncio.gather(*asked[1:]) == [2 * number for number in range(1, 10)]
    assert not asked[0].done()
    asked[0].cancel()


async def test_who_cannot_begin_is_told_so_and_nothing_was_done_for_them() -> None:
    work = Work(seconds=0.5)
    first = work.ask(range(5))
    for rounds in range(SINGLES, OVERTAKERS + 1):
        await until(lambda rounds=rounds: len(work.rounds) >= rounds)  # type: ignore[misc]
        first += work.ask([100 + rounds])
    late = work.ask([200, 201])
    answers = await asyncio.gather(*late, return_exceptions=True)

    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert {200, 201}.isdisjoint(number for _, numbers in work.rounds for number in numbers)
    assert len(work.rounds) == OVERTAKERS
    for task in first:
        task.cancel()


async def test_a_key_that_nobody_asks_for_is_forgotten() -> None:
    work = Work()
    work.gate.set()
    for key in "abc":
        await asyncio.gather(*work.ask(range(10), key))

    with pytest.raises(Invalid):
        await work.ask([-1], "d")[0]
    assert work.gathering.groups == 0
