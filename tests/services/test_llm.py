"""Paying for model calls: every request to the server is one row, and what was paid for is not paid for again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from server.database import Database
from services import llm_calls
from services.errors import StaleAttempt
from services.llm import Price, Provider, TaskModel, read_json
from services.llm_calls import LlmCall
from services.task_types import Permanent, Retryable, Throttled
from tests.llm_server import ScriptedModel

QUESTION = [{"role": "user", "content": "What is compost?"}]
ANSWER = "This is a scripted answer. It says the same each time."


@dataclass(kw_only=True)
class Run:
    """A run of a task, as far as a model needs it."""

    id: UUID
    tenant_id: UUID
    fence: int = 1
    actor: str = "task:test"
    current_step: str | None = "draft:r1:1"
    heard: list[str] = field(default_factory=list)

    def emit(self, text: str) -> None:
        self.heard.append(text)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@pytest.fixture
async def run(admin: Any, tenant: UUID) -> Run:
    task_id = await admin.fetchval(
        "INSERT INTO tasks (tenant_id, queue, type, state, fence, attempt, executor_id, created_by, payload) "
        "VALUES ($1, 'content', 'noop', 'running', 1, 1, $2, 'user:ada', '{}') RETURNING id",
        tenant,
        uuid4(),
    )
    return Run(id=task_id, tenant_id=tenant)


@pytest.fixture
async def provider(server: ScriptedModel) -> AsyncIterator[Provider]:
    made = Provider(
        server.base_url,
        "key",
        server.model,
        idle_timeout=timedelta(seconds=1.5),
        total_timeout=timedelta(seconds=5),
    )
    yield made
    await made.close()


@pytest.fixture
def model(provider: Provider, database: Database, run: Run) -> TaskModel:
    return TaskModel(provider, database, run)


async def calls(database: Database, run: Run) -> list[LlmCall]:
    async with database.tenant(run.tenant_id, "user:ada") as db:
        return await llm_calls.list_of_task(db, run.tenant_id, run.id)


async def next_run(admin: Any, run: Run) -> Run:
    """The same task, claimed once more."""
    await admin.execute("UPDATE tasks SET fence = fence + 1 WHERE id = $1", run.id)
    return Run(id=run.id, tenant_id=run.tenant_id, fence=run.fence + 1)


async def closed(server: ScriptedModel, number: int = 0) -> float:
    """Wait until the server sees request *number* given up; return when."""
    async with asyncio.timeout(15):
        while len(server.requests) <= number or server.requests[number].closed_at is None:
            await asyncio.sleep(0.01)
    at = server.requests[number].closed_at
    assert at is not None
    return at


async def test_an_answer_is_booked_with_its_tokens_and_streamed_as_it_comes(
    model: TaskModel, run: Run, database: Database, server: ScriptedModel
) -> None:
    completion = await model.complete(QUESTION, max_tokens=100)

    [call] = await calls(database, run)
    assert completion.text == ANSWER == "".join(run.heard)
    assert len(run.heard) > 1
    assert (call.state, call.step, call.fence, call.model) == ("settled", "draft:r1:1", 1, "scripted-model")
    assert (call.input_tokens, call.output_tokens, call.cost_usd, call.error) == (3, 11, None, None)
    assert server.count == 1


async def test_a_known_price_makes_a_cost(server: ScriptedModel, database: Database, run: Run) -> None:
    provider = Provider(
        server.base_url, "key", server.model, price=Price(input=Decimal(1000), output=Decimal(2000))
    )

    await TaskModel(provider, database, run).complete(QUESTION, max_tokens=100)
    await provider.close()

    [call] = await calls(database, run)
    assert call.cost_usd == Decimal("0.025")


async def test_what_was_paid_for_answers_the_same_question_of_the_same_step_in_a_later_run(
    model: TaskModel, run: Run, database: Database, server: ScriptedModel, admin: Any
) -> None:
    first = await model.complete(QUESTION, max_tokens=100)
    later = await next_run(admin, run)

    again = await TaskModel(model.provider, database, later).complete(QUESTION, max_tokens=100)

    assert again.llm_call_id == first.llm_call_id
    assert again.text == ANSWER
    assert server.count == len(await calls(database, run)) == 1


async def test_another_question_or_another_step_is_a_purchase_of_its_own(
    model: TaskModel, run: Run, database: Database, server: ScriptedModel
) -> None:
    await model.complete(QUESTION, max_tokens=100)
    await model.complete(QUESTION, max_tokens=101)
    run.current_step = "draft:r1:2"

    await model.complete(QUESTION, max_tokens=100)

    assert server.count == len(await calls(database, run)) == 3


async def test_a_call_that_a_dead_run_left_open_is_written_off_before_it_is_made_again(
    provider: Provider, run: Run, database: Database, admin: Any
) -> None:
    await admin.execute(
        "INSERT INTO llm_calls (tenant_id, task_id, fence, step, model, request_hash) VALUES ($1, $2, 1, 'draft:r1:1', 'm', '\\x00')",
        run.tenant_id,
        run.id,
    )
    later = await next_run(admin, run)

    await TaskModel(provider, database, later).complete(QUESTION, max_tokens=100)

    assert [(call.fence, call.state) for call in await calls(database, run)] == [
        (1, "unknown"),
        (2, "settled"),
    ]


async def test_the_rescuer_writes_off_what_a_lost_run_left_open(admin: Any, run: Run) -> None:
    await admin.execute(
        "INSERT INTO llm_calls (tenant_id, task_id, fence, step, model, request_hash) VALUES ($1, $2, 1, 'draft:r1:1', 'm', '\\x00')",
        run.tenant_id,
        run.id,
    )

    marked = await admin.fetchval("SELECT app.mark_unknown_calls(ARRAY[$1::uuid])", run.id)

    row = await admin.fetchrow("SELECT state, finished_at IS NOT NULL AS finished FROM llm_calls")
    assert (marked, *row) == (1, "unknown", True)


async def test_a_run_that_lost_its_task_may_not_buy(
    model: TaskModel, run: Run, database: Database, server: ScriptedModel, admin: Any
) -> None:
    await next_run(admin, run)

    with pytest.raises(StaleAttempt):
        await model.complete(QUESTION, max_tokens=100)

    assert server.count == len(await calls(database, run)) == 0


async def test_cancelling_closes_the_upstream_stream_within_a_second_and_books_the_call_as_unknown(
    model: TaskModel, run: Run, database: Database, server: ScriptedModel
) -> None:
    server.set(fault="endless", delay=0.02)
    work = asyncio.create_task(model.complete(QUESTION, max_tokens=5000))
    async with asyncio.timeout(15):
        while not run.heard:
            await asyncio.sleep(0.01)

    asked_at = time.time()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert await closed(server) - asked_at < 1.0
    assert not server.requests[0].finished
    [call] = await calls(database, run)
    assert (call.state, call.error) == ("unknown", "interrupted")


async def test_cancelling_while_the_server_has_not_answered_yet_closes_the_connection_too(
    model: TaskModel, run: Run, database: Database, server: ScriptedModel
) -> None:
    server.set(fault="hang")
    work = asyncio.create_task(model.complete(QUESTION, max_tokens=100))
    async with asyncio.timeout(15):
        while not server.requests:
            await asyncio.sleep(0.01)

    asked_at = time.time()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert await closed(server) - asked_at < 1.0
    assert [call.state for call in await calls(database, run)] == ["unknown"]


async def test_an_answer_that_is_complete_is_settled_even_when_the_run_is_cancelled_meanwhile(
    model: TaskModel, run: Run, database: Database, server: ScriptedModel, admin: Any
) -> None:
    """The settling transaction waits for a lock; the cancel comes while it does."""
    async with asyncio.timeout(15):
        server.set(delay=0.05)
        work = asyncio.create_task(model.complete(QUESTION, max_tokens=100))
        while not run.heard:
            await asyncio.sleep(0.01)
        async with admin.transaction():
            await admin.execute("SELECT 1 FROM llm_calls FOR UPDATE")
            await closed(server)
            await asyncio.sleep(0.1)
            work.cancel()
            await asyncio.sleep(0.1)
        with pytest.raises(asyncio.CancelledError):
            await work

    assert [call.state for call in await calls(database, run)] == ["settled"]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"fault": "throttle", "retry_after": 7}, (Throttled, "asked to wait 7 s")),
        ({"fault": "error"}, (Retryable, "failed with 500: the model fell over")),
        ({"fault": "drop"}, (Retryable, "connection to the model failed")),
        ({"fault": "garbage"}, (Retryable, "could not be read")),
        ({"fault": "hang"}, (Retryable, "1.5 s without a word")),
        ({"fault": "stall"}, (Retryable, "1.5 s without a word")),
        ({"fault": "refuse"}, (Permanent, r"refused the request \(400\): this request is not allowed")),
        ({"fault": "overflow"}, (Permanent, "longer than the model scripted-model can read")),
    ],
)
async def test_what_goes_wrong_says_whether_to_come_back_and_is_booked(
    script: dict[str, Any],
    expected: tuple[type[Exception], str],
    model: TaskModel,
    run: Run,
    server: ScriptedModel,
) -> None:
    error, words = expected
    server.set(**script)

    with pytest.raises(error, match=words) as caught:
        await model.complete(QUESTION, max_tokens=100)

    [call] = await calls(model._database, run)
    assert call.state == "unknown"
    assert call.error == str(caught.value)
    assert server.count == 1
    assert getattr(caught.value, "retry_after", None) == (7 if error is Throttled else None)


async def test_a_server_that_is_not_there_is_worth_another_try(database: Database, run: Run) -> None:
    provider = Provider("http://127.0.0.1:9/v1", "key", "m")

    with pytest.raises(Retryable, match="connection to the model failed"):
        await TaskModel(provider, database, run).complete(QUESTION, max_tokens=10)
    await provider.close()


async def test_a_stream_without_end_is_cut_and_its_answer_kept(
    model: TaskModel, run: Run, database: Database, server: ScriptedModel
) -> None:
    server.set(fault="endless")

    completion = await model.complete(QUESTION, max_tokens=20)

    [call] = await calls(database, run)
    assert len(completion.text) < 2000
    assert call.state == "settled"
    assert call.error is not None
    assert call.error.startswith("cut after")
    assert (call.input_tokens, call.cost_usd) == (None, None)
    await closed(server)
    assert not server.requests[0].finished


async def test_a_parameter_that_the_server_does_not_know_is_left_out_from_then_on(
    model: TaskModel, run: Run, database: Database, server: ScriptedModel
) -> None:
    server.set(schema=False)
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}

    await model.complete(QUESTION, max_tokens=100, schema=schema)
    run.current_step = "draft:r1:2"
    await model.complete(QUESTION, max_tokens=100, schema=schema)

    states = [call.state for call in await calls(database, run)]
    assert states == ["unknown", "settled", "settled"]
    assert server.count == 3
    assert "must fit this schema" in server.requests[-1].messages[-1]["content"]


async def test_only_so_many_calls_are_under_way_at_once(
    server: ScriptedModel, database: Database, run: Run
) -> None:
    provider = Provider(server.base_url, "key", server.model, concurrency=2)
    server.set(delay=0.02)
    model = TaskModel(provider, database, run)

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(
                model.complete([{"role": "user", "content": f"question {number}"}], max_tokens=50)
            )
    await provider.close()

    starts = [(request.started_at, 1) for request in server.requests]
    ends = [(request.closed_at or 0.0, -1) for request in server.requests]
    under_way = peak = 0
    for _, change in sorted(starts + ends):
        under_way += change
        peak = max(peak, under_way)
    assert (server.count, peak) == (6, 2)


async def test_a_call_outside_a_step_is_refused(model: TaskModel, run: Run, server: ScriptedModel) -> None:
    run.current_step = None

    with pytest.raises(Permanent, match="inside a step"):
        await model.complete(QUESTION, max_tokens=100)

    assert server.count == 0


@pytest.mark.parametrize(
    "text", ['{"a": 1}', 'Here you are:\n```json\n{"a": 1}\n```', ' {"a": 1} I hope it helps']
)
def test_an_object_is_found_among_other_words(text: str) -> None:
    assert read_json(text) == {"a": 1}


@pytest.mark.parametrize("text", ["", "no", '{"a": ', "[1]", '{"a" 1}', "{" * 20_000 + "}" * 20_000])
def test_what_is_not_an_object_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        read_json(text)


def test_what_postgresql_cannot_hold_is_taken_out_of_an_object() -> None:
    text = '{"a": ["x\\u0000y", {"b\\ud800": "\\ud83d\\ude00 \\udc00"}], "c": 1}'

    assert read_json(text) == {"a": ["xy", {"b?": "😀 ?"}], "c": 1}


async def test_an_answer_that_postgresql_could_not_hold_is_cleaned_and_kept(
    model: TaskModel, run: Run, server: ScriptedModel
) -> None:
    server.answer = lambda messages, body: "one\x00 two\ud800 three"

    completion = await model.complete(QUESTION, max_tokens=100)

    assert completion.text == "".join(run.heard) == "one two? three"
