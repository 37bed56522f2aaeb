"""The only door to language models: a provider that streams, and a purse that books every request.

`Provider` speaks to one OpenAI-compatible server. `TaskModel` is a provider bound to one run of a task, and what task
code calls. It books by RULINGS 18: a row is reserved before a request, settled with its answer, and `unknown` when the
request was interrupted or refused; a settled row answers the same question of the same step without buying again.

Nothing is retried here: each HTTP request is one row, and the task's attempt is the one retry layer. Errors say how:
Throttled (come back later, costs no attempt), Retryable (costs one), Permanent (no use).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import httpx2
import openai
from openai.types.chat import ChatCompletionChunk

from services.errors import StaleAttempt, Unavailable
from services.task_context import Database
from services.task_types import Permanent, Retryable, Throttled
from sql import SQL

log = logging.getLogger(__name__)

Messages = list[dict[str, str]]

BOOKING_SECONDS = 2.0  # how long a cancelled run may still take to write down what happened to its call
DEFAULT_RETRY_AFTER = 10.0
LONGEST_RETRY_AFTER = 3600.0
CHARACTERS_PER_TOKEN = (
    16  # far above any real text: a stream longer than max_tokens of these is not going to end
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars for a million tokens."""

    input: Decimal
    output: Decimal

    def of(self, input_tokens: int | None, output_tokens: int | None) -> Decimal | None:
        """Return the cost; None when either count is not known."""
        if input_tokens is None or output_tokens is None:
            return None
        return (input_tokens * self.input + output_tokens * self.output) / 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to a model."""

    messages: Messages
    max_tokens: int
    temperature: float | None
    seed: int | None
    schema: dict[str, Any] | None

    def hash(self, model: str) -> bytes:
        """Return what makes two questions the same: SHA-256 of model, messages and settings."""
        facts = [model, self.messages, self.max_tokens, self.temperature, self.seed, self.schema]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. Token counts are None when the server did not say; `remark` tells of an answer that was cut."""

    text: str
    model: str
    input_tokens: int | None
    output_tokens: int | None
    latency_ms: int
    first_token_ms: int | None
    remark: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An answer that is booked."""

    text: str
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


class _Unsupported(Exception):
    """The server refused an optional parameter; the provider leaves it out from now on."""


class Provider:
    """One model behind one OpenAI-compatible server. One per process: `concurrency` requests at a time."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        model: str,
        *,
        concurrency: int = 16,
        embedded: bool = False,
        price: Price | None = None,
        idle_timeout: timedelta = timedelta(seconds=60),
        total_timeout: timedelta = timedelta(minutes=5),
    ) -> None:
        self.model = model
        self.embedded = embedded
        self.price = Price(input=Decimal(0), output=Decimal(0)) if embedded else price
        self.idle_seconds = idle_timeout.total_seconds()
        self.total_seconds = total_timeout.total_seconds()
        self._slots = asyncio.Semaphore(concurrency)
        self._refused: set[str] = set()
        # Every request has its own connection: closing one ends exactly one upstream stream, and no request can meet a
        # kept-alive connection that the server has just given up (the handshake is nothing beside a completion).
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(
                timeout=httpx2.Timeout(self.idle_seconds, connect=5.0, pool=None),
                limits=httpx2.Limits(max_keepalive_connections=0),
            ),
        )

    async def close(self) -> None:
        """Give back the HTTP client."""
        await self._client.close()

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one of the concurrent requests."""
        async with self._slots:
            yield

    async def answer(self, request: Request, on_text: Callable[[str], None]) -> Answer:
        """Ask and stream; *on_text* gets each piece. Cancelling closes the connection at once.
        Raises: Throttled, Retryable, Permanent, and _Unsupported when a shorter question should be put.
        """
        try:
            async with (
                asyncio.timeout(self.total_seconds) as total,
                asyncio.timeout(self.idle_seconds) as idle,
            ):
                return await self._stream(request, on_text, idle)
        except TimeoutError as exc:
            limit = (
                f"{self.total_seconds:g} s in all"
                if total.expired()
                else f"{self.idle_seconds:g} s without a word"
            )
            raise Retryable(f"the model took too long: {limit}") from exc
        except openai.APIStatusError as exc:
            raise self._read_refusal(exc) from exc
        except (openai.OpenAIError, httpx2.HTTPError) as exc:
            raise Retryable(f"the connection to the model failed: {_reason(exc)}") from exc
        except ValueError as exc:  # what the client raises for an event that is not JSON
            raise Retryable(f"the model server's answer could not be read: {exc}") from exc

    async def _stream(
        self, request: Request, on_text: Callable[[str], None], idle: asyncio.Timeout
    ) -> Answer:
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        first_token_ms: int | None = None
        reading = _Reading(self.model)
        async with await self._client.chat.completions.create(**self._parameters(request)) as stream:
            async for chunk in stream:
                idle.reschedule(loop.time() + self.idle_seconds)
                piece = reading.take(chunk)
                if piece:
                    first_token_ms = first_token_ms or _milliseconds(started)
                    on_text(piece)
                if reading.length > request.max_tokens * CHARACTERS_PER_TOKEN:
                    reading.remark = f"cut after {reading.length} characters: the stream did not end"
                    break
        if not reading.ended and reading.remark is None:
            raise Retryable("the model server closed the stream before its answer was complete")
        return reading.answer(_milliseconds(started), first_token_ms)

    def _parameters(self, request: Request) -> dict[str, Any]:
        """The request as this server understands it: without what it has refused before."""
        messages = request.messages
        parameters: dict[str, Any] = {"model": self.model, "stream": True}
        limit = "max_completion_tokens" if "max_tokens" in self._refused else "max_tokens"
        parameters[limit] = request.max_tokens
        optional: dict[str, Any] = {
            "temperature": request.temperature,
            "seed": request.seed,
            "stream_options": {"include_usage": True},
        }
        if request.schema is not None:
            schema = {"name": "answer", "schema": request.schema}
            optional["response_format"] = {"type": "json_schema", "json_schema": schema}
            if "response_format" in self._refused:
                ask = f"Answer with one JSON object and nothing else. It must fit this schema: {json.dumps(request.schema)}"
                messages = [*messages, {"role": "user", "content": ask}]
        parameters["messages"] = messages
        kept = {
            name: value for name, value in optional.items() if value is not None and name not in self._refused
        }
        return parameters | kept

    def _read_refusal(self, exc: openai.APIStatusError) -> Exception:
        """Return the error that says what to do about an HTTP status."""
        status, said = exc.status_code, _reason(exc)
        retry_after = _retry_after(exc.response.headers.get("retry-after"))
        if status == 429 and exc.code == "insufficient_quota":
            return Permanent(f"the model provider's quota is used up: {said}")
        if status == 429 or (status == 503 and retry_after is not None):
            seconds = DEFAULT_RETRY_AFTER if retry_after is None else retry_after
            return Throttled(f"the model server asked to wait {seconds:g} s: {said}", retry_after=seconds)
        if status >= 500 or status in {408, 409, 425}:
            return Retryable(f"the model server failed with {status}: {said}")
        if (
            status == 413
            or exc.code in {"context_length_exceeded", "exceed_context_size_error"}
            or "context" in said
        ):
            return Permanent(f"the prompt is longer than the model {self.model} can read: {said}")
        if status in {400, 422} and self._leave_out(exc):
            return _Unsupported(said)
        if status in {401, 403}:
            return Permanent(f"the model server refused the API key ({status}): {said}")
        return Permanent(f"the model server refused the request ({status}): {said}")

    def _leave_out(self, exc: openai.APIStatusError) -> bool:
        """Note an optional parameter that the server does not know; True when one was newly noted."""
        for name in ("response_format", "temperature", "seed", "stream_options", "max_tokens"):
            if name not in self._refused and (
                exc.param == name or f"'{name}'" in exc.message or f"{name} is not" in exc.message
            ):
                self._refused.add(name)
                log.warning(
                    "model server refused a parameter", extra={"parameter": name, "model": self.model}
                )
                return True
        return False


class _Reading:
    """Collects the chunks of one stream."""

    def __init__(self, model: str) -> None:
        self.pieces: list[str] = []
        self.length = 0
        self.model = model
        self.ended = False
        self.remark: str | None = None
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None

    def take(self, chunk: ChatCompletionChunk) -> str:
        """Return the text of *chunk*, '' for one without."""
        self.model = chunk.model or self.model
        if chunk.usage is not None:
            self.input_tokens = chunk.usage.prompt_tokens
            self.output_tokens = chunk.usage.completion_tokens
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        if choice.finish_reason is not None:
            self.ended = True
            self.remark = "cut at max_tokens" if choice.finish_reason == "length" else None
        piece = (choice.delta.content or "") if choice.delta else ""
        self.pieces.append(piece)
        self.length += len(piece)
        return piece

    def answer(self, latency_ms: int, first_token_ms: int | None) -> Answer:
        return Answer(
            text="".join(self.pieces).replace("\x00", ""),  # PostgreSQL's text cannot hold a NUL
            model=self.model,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            latency_ms=latency_ms,
            first_token_ms=first_token_ms,
            remark=self.remark,
        )


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
                with contextlib.suppress(_Unsupported):
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
        except (Throttled, Permanent, _Unsupported) as exc:  # refused before any work
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
                    _milliseconds(started),
                    cost,
                )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable) as exc:
            log.warning("model call stayed reserved", extra={"llm_call_id": str(call_id), "error": str(exc)})


def read_json(text: str) -> dict[str, Any]:
    """Return the JSON object in a model's answer, with or without a fence or words around it. Raises: ValueError."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise ValueError("no JSON object in the answer")
    value = json.loads(text[start : end + 1])
    if not isinstance(value, dict):
        raise ValueError("the answer is not a JSON object")
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


def _milliseconds(since: float) -> int:
    return round((time.monotonic() - since) * 1000)


def _reason(exc: Exception) -> str:
    """The words of the innermost cause; an HTTP error keeps what the server said, in one line of at most 300 characters."""
    said = getattr(exc, "body", None)
    message = said.get("message") if isinstance(said, dict) else None
    words = str(message or exc.__cause__ or exc) or type(exc).__name__
    return " ".join(words.split())[:300]


def _retry_after(header: str | None) -> float | None:
    """Seconds from a Retry-After header: a number or a date."""
    if not header:
        return None
    with contextlib.suppress(ValueError):
        return min(max(float(header), 0.0), LONGEST_RETRY_AFTER)
    with contextlib.suppress(ValueError):
        seconds = parsedate_to_datetime(header).timestamp() - time.time()
        return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
    return None
