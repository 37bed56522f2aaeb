"""A model behind an OpenAI-compatible server: one request at a time goes out and streams back, and nothing is retried here.

Each HTTP request is one row of `llm_calls` (services/llm.py), so the one retry layer is the task's attempt. Errors say how:
Throttled (come back later, costs no attempt), Retryable (costs one), Permanent (no use).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import openai
from openai.types.chat import ChatCompletionChunk

from services.task_types import Permanent, Retryable, Throttled

log = logging.getLogger(__name__)

Messages = list[dict[str, str]]

OPTIONAL = (
    "response_format",
    "temperature",
    "seed",
    "stream_options",
    "max_tokens",
)  # some servers know not all of them
TOO_LONG = {"context_length_exceeded", "exceed_context_size_error"}
DEFAULT_RETRY_AFTER = 10.0
LONGEST_RETRY_AFTER = 3600.0
CHARACTERS_PER_TOKEN = (
    16  # far above any real text: a stream longer than max_tokens of these is not going to end
)
LOOP_CHARACTERS, LOOP_TIMES = 120, 3  # so many last characters seen so often: the model goes round in circles


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars for a million tokens."""

    input: Decimal
    output: Decimal

    def of(self, input_tokens: int | None, output_tokens: int | None) -> Decimal | None:
        """Return the cost; None when either count is not known, unless nothing is charged anyway."""
        if not self.input and not self.output:
            return Decimal(0)
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


class Unsupported(Exception):
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
        Raises: Throttled, Retryable, Permanent, and Unsupported when a shorter question should be put.
        """
        parameters = self._parameters(request)
        try:
            async with (
                asyncio.timeout(self.total_seconds) as total,
                asyncio.timeout(self.idle_seconds) as idle,
            ):
                return await self._stream(parameters, on_text, idle, max_tokens=request.max_tokens)
        except TimeoutError as exc:
            limit = (
                f"{self.total_seconds:g} s in all"
                if total.expired()
                else f"{self.idle_seconds:g} s without a word"
            )
            raise Retryable(f"the model took too long: {limit}") from exc
        except openai.APIStatusError as exc:
            raise self._read_refusal(exc, sent=parameters) from exc
        except (openai.OpenAIError, httpx2.HTTPError) as exc:
            raise Retryable(f"the connection to the model failed: {_reason(exc)}") from exc
        except ValueError as exc:  # what the client raises for an event that is not JSON
            raise Retryable(f"the model server's answer could not be read: {exc}") from exc

    async def _stream(
        self,
        parameters: dict[str, Any],
        on_text: Callable[[str], None],
        idle: asyncio.Timeout,
        *,
        max_tokens: int,
    ) -> Answer:
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        first_token_ms: int | None = None
        reading = _Reading(self.model)
        async with await self._client.chat.completions.create(**parameters) as stream:
            async for chunk in stream:
                idle.reschedule(loop.time() + self.idle_seconds)
                piece = reading.take(chunk)
                if piece:
                    first_token_ms = first_token_ms or milliseconds(started)
                    on_text(piece)
                if reading.must_end(max_tokens):
                    break
        if not reading.ended and reading.remark is None:
            raise Retryable("the model server closed the stream before its answer was complete")
        return reading.answer(milliseconds(started), first_token_ms)

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

    def _read_refusal(self, exc: openai.APIStatusError, *, sent: dict[str, Any]) -> Exception:
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
        if status == 413 or exc.code in TOO_LONG or exc.type in TOO_LONG:
            return Permanent(f"the prompt is longer than the model {self.model} can read: {said}")
        if status in {400, 422} and self._leave_out(exc, sent):
            return Unsupported(said)
        if status in {401, 403}:
            return Permanent(f"the model server refused the API key ({status}): {said}")
        return Permanent(f"the model server refused the request ({status}): {said}")

    def _leave_out(self, exc: openai.APIStatusError, sent: dict[str, Any]) -> bool:
        """Note an optional parameter that was sent and that the server does not know; False when it was none of these."""
        for name in OPTIONAL:
            if name in sent and (
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
        self.looked_at = 0
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
        piece = printable((choice.delta.content or "") if choice.delta else "")
        self.pieces.append(piece)
        self.length += len(piece)
        return piece

    def must_end(self, max_tokens: int) -> bool:
        """Whether to stop listening: the text is longer than asked for, or repeats itself. Notes which in `remark`."""
        if self.length > max_tokens * CHARACTERS_PER_TOKEN:
            self.remark = f"cut after {self.length} characters: the stream did not end"
        elif self.length - self.looked_at > LOOP_CHARACTERS:
            self.looked_at = self.length
            text = "".join(self.pieces)
            if text.count(text[-LOOP_CHARACTERS:]) >= LOOP_TIMES:
                self.remark = f"cut after {self.length} characters: it repeated itself"
        return not self.ended and self.remark is not None

    def answer(self, latency_ms: int, first_token_ms: int | None) -> Answer:
        return Answer(
            text="".join(self.pieces),
            model=self.model,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            latency_ms=latency_ms,
            first_token_ms=first_token_ms,
            remark=self.remark,
        )


def printable(text: str) -> str:
    """Return *text* as PostgreSQL can hold it: without NUL and half surrogate pairs."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def milliseconds(since: float) -> int:
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
