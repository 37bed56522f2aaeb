"""The only door to language models for task code: a model bound to one run of a task, and a purse that books every request.

It books by RULINGS 18: a row is reserved before a request, settled with its answer, and `unknown` when the request was
interrupted or refused; a settled row answers the same question of the same step without buying again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from services.errors import StaleAttempt, Unavailable
from services.providers import (
    Answer,
    Messages,
    Price,
    Provider,
    Request,
    Unsupported,
    milliseconds,
    printable,
)
from services.task_context import Database
from services.task_types import Permanent, Retryable, Throttled
from sql import SQL

log = logging.getLogger(__name__)

BOOKING_SECONDS = 2.0  # how long a cancelled run may still take to write down what happened to its call


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An answer that is booked. `cut` means that it stops before its end."""

    text: str
    cut: bool
    model: str
    input_tokens: int | None
    output_tokens: int | None
    latency_ms: int
    llm_call_id: UUID


class Run(Protocol):
    """What a model needs to know of the run that calls it; TaskContext is one."""

    @property
    def id(self) -> UUID: ...
    @property
    def tenant_id(self) -> UUID: ...
    @property
    def fence(self) -> int: ...
    @property
    def actor(self) -> str: ...
    @property
    def current_step(self) -> str | None: ...
    def emit(self, text: str) -> None: ...


class TaskModel:
    """The model as one run of a task sees it."""

    def __init__(self, provider: Provider, database: Database, run: Run) -> None:
        self.provider = provider
        self._database = database
        self._run = run

    @property
    def embedded(self) -> bool:
        """Whether the small demonstration model answers."""
        return self.provider.embedded

    async def complete(
        self,
        messages: Messages,
        *,
        prompt_version_id: UUID | None = None,
        schema: dict[str, Any] | None = None,
        max_tokens: int,
        temperature: float | None = 0.3,
        seed: int | None = None,
    ) -> Completion:
        """Ask the model, once for each (task, step, question). Must be called inside a step.
        Raises: Throttled, Retryable, Permanent; StaleAttempt when this run may not buy anything more.
        """
        step = self._run.current_step
        if step is None:
            raise Permanent("a model may only be called inside a step, so that its answer is kept")
        request = Request(
            messages=messages, max_tokens=max_tokens, temperature=temperature, seed=seed, schema=schema
        )
        while True:  # ends: each turn makes the provider leave out one more of its few optional parameters
            async with self.provider.slot():
                with contextlib.suppress(Unsupported):
                    return await self._buy(request, step, prompt_version_id)

    async def _buy(self, request: Request, step: str, prompt_version_id: UUID | None) -> Completion:
        reserved = await self._reserve(request, step, prompt_version_id)
        if isinstance(reserved, Completion):
            return reserved
        started = time.monotonic()
        try:
            answer = await self.provider.answer(request, self._run.emit)
        except asyncio.CancelledError:
            await _insist(self._mark_unknown(reserved, "interrupted", started, cost=None))
            raise
        except (Throttled, Permanent, Unsupported) as exc:  # refused before any work
            await _insist(
                self._mark_unknown(reserved, str(exc) or type(exc).__name__, started, cost=Decimal(0))
            )
            raise
        except Retryable as exc:
            await _insist(self._mark_unknown(reserved, str(exc), started, cost=None))
            raise
        await _insist(self._settle(reserved, answer))
        return Completion(
            text=answer.text,
            cut=answer.remark is not None,
            model=answer.model,
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
            latency_ms=answer.latency_ms,
            llm_call_id=reserved,
        )

    async def _reserve(
        self, request: Request, step: str, prompt_version_id: UUID | None
    ) -> UUID | Completion:
        """Return the answer where it was bought before, else the id of the row that now stands for the purchase."""
        run, model = self._run, self.provider.model
        request_hash = request.hash(model)
        async with self._database.tenant(run.tenant_id, run.actor) as db:
            await db.execute(SQL["llm_calls.mark_interrupted"], run.tenant_id, run.id, run.fence)
            row = await db.fetchrow(SQL["llm_calls.find_settled"], run.tenant_id, run.id, step, request_hash)
            if row is not None:
                return Completion(
                    text=row["output"],
                    cut=row["error"] is not None,
                    model=row["model"],
                    input_tokens=row["input_tokens"],
                    output_tokens=row["output_tokens"],
                    latency_ms=row["latency_ms"],
                    llm_call_id=row["id"],
                )
            call_id: UUID | None = await db.fetchval(
                SQL["llm_calls.reserve"],
                run.tenant_id,
                run.id,
                run.fence,
                step,
                prompt_version_id,
                model,
                request_hash,
            )
        if call_id is None:
            raise StaleAttempt(f"run {run.fence} no longer owns task {run.id}: it may not call a model")
        return call_id

    async def _settle(self, call_id: UUID, answer: Answer) -> None:
        price = self.provider.price
        cost = None if price is None else price.of(answer.input_tokens, answer.output_tokens)
        async with self._database.tenant(self._run.tenant_id, self._run.actor) as db:
            await db.execute(
                SQL["llm_calls.settle"],
                self._run.tenant_id,
                call_id,
                answer.text,
                answer.model,
                answer.input_tokens,
                answer.output_tokens,
                cost,
                answer.latency_ms,
                answer.first_token_ms,
                answer.remark,
            )

    async def _mark_unknown(self, call_id: UUID, error: str, started: float, *, cost: Decimal | None) -> None:
        """Book a call without an answer. When the database does not answer either the row stays reserved, and the next
        run or the sweep writes it off: what went wrong with the call is the error worth raising.
        """
        tenant_id = self._run.tenant_id
        try:
            async with self._database.tenant(tenant_id, self._run.actor) as db:
                await db.execute(
                    SQL["llm_calls.mark_unknown"],
                    tenant_id,
                    call_id,
                    error[:2000],
                    milliseconds(started),
                    cost,
                )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable) as exc:
            log.warning("model call stayed reserved", extra={"llm_call_id": str(call_id), "error": str(exc)})


def read_json(text: str) -> dict[str, Any]:
    """Return the JSON object in a model's answer, with or without a fence or words around it. Raises: ValueError."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise ValueError("no JSON object in the answer")
    try:
        value = json.loads(text[start : end + 1])
    except RecursionError as exc:
        raise ValueError("the JSON in the answer is nested too deeply") from exc
    if not isinstance(value, dict):
        raise ValueError("the answer is not a JSON object")
    return {printable(name): _printable(entry) for name, entry in value.items()}


def _printable(value: Any) -> Any:
    """Return JSON without what PostgreSQL cannot hold: an escaped NUL passes as text and becomes one here."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(entry) for entry in value]
    if isinstance(value, dict):
        return {printable(name): _printable(entry) for name, entry in value.items()}
    return value


async def _insist(booking: Coroutine[Any, Any, None]) -> None:
    """Run *booking* to its end even when this run is being cancelled, for BOOKING_SECONDS at most."""
    work = asyncio.create_task(booking, name="booking")
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BOOKING_SECONDS):
                await work
        raise


__all__ = ["Completion", "Price", "Provider", "Run", "TaskModel", "read_json"]
