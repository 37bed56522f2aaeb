"""A model server that answers by rule: the real client talks real HTTP to it, and it keeps its own count.

As a fixture:      `async with ScriptedModel() as model: Provider(model.base_url, "key", model.model)`
As a process:      `python -m tests.llm_server --port 0 --delay 0.02` prints its address and serves until it is stopped.

| call | answer |
|---|---|
| `POST /v1/chat/completions` | what `tests/llm_answers.py` says for this prompt, streamed or whole |
| `GET /v1/models` | the one model |
| `GET /log` | every request so far: what was asked, how it ended, when its connection closed |
| `GET /script`, `POST /script` | the knobs below, as JSON; POST changes those it names |
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from aiohttp import web

from tests import llm_answers

Messages = list[dict[str, str]]
Answer = Callable[[Messages, dict[str, Any]], str]

FAULTS = (
    "hang",
    "throttle",
    "error",
    "refuse",
    "overflow",
    "garbage",
    "not_json",
    "endless",
    "drop",
    "stall",
)


@dataclass(kw_only=True)
class Script:
    """The knobs. A fault strikes the next *times* requests whose messages contain *match*; times < 0 is always."""

    delay: float = 0.0  # seconds before each piece of a stream
    chunk_words: int = 3  # words per piece
    usage: bool = True  # say how many tokens it took
    schema: bool = True  # know response_format; else refuse it, as small servers do
    fault: str | None = None  # one of FAULTS
    times: int = -1
    match: str = ""
    retry_after: float = 1.0  # seconds, for throttle

    def change(self, values: dict[str, Any]) -> Script:
        """Return these knobs with *values* in place. Raises: ValueError for a knob or fault that does not exist."""
        unknown = set(values) - {knob.name for knob in fields(self)}
        if unknown or values.get("fault") not in (None, *FAULTS):
            raise ValueError(f"no such knob or fault: {sorted(unknown) or values['fault']}")
        return replace(self, **values)


@dataclass(kw_only=True)
class Request:
    """One request as the server saw it. Times are `time.time()`; `closed_at` is when the connection was given up."""

    number: int
    kind: str
    stream: bool
    messages: Messages
    hash: str
    started_at: float
    status: int = 200
    pieces: int = 0
    finished: bool = False  # the whole answer went out
    closed_at: float | None = None


@dataclass(kw_only=True)
class ScriptedModel:
    """The server. `answer` may be replaced by a function of (messages, request body) → text."""

    model: str = "scripted-model"
    port: int = 0
    script: Script = field(default_factory=Script)
    answer: Answer = llm_answers.answer
    requests: list[Request] = field(default_factory=list)
    base_url: str = ""
    _runner: web.AppRunner | None = None

    async def start(self) -> Self:
        """Listen on loopback; `base_url` is known afterwards."""
        app = web.Application(client_max_size=16 * 2**20)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/log", self._log)
        app.router.add_get("/script", self._read_script)
        app.router.add_post("/script", self._change_script)
        # With handler_cancellation a handler ends the moment its client hangs up, which is what `closed_at` records.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        return self

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def count(self) -> int:
        """How many completions were asked for."""
        return len(self.requests)

    def set(self, **values: Any) -> None:
        """Turn knobs: `model.set(fault="throttle", times=1)`."""
        self.script = self.script.change(values)

    def asked(self, kind: str) -> list[Request]:
        """Return the requests of one kind: outline, draft_section, critique, refine_section, other."""
        return [request for request in self.requests if request.kind == kind]

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    async def _log(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"count": self.count, "requests": [asdict(request) for request in self.requests]}
        )

    async def _read_script(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(self.script))

    async def _change_script(self, request: web.Request) -> web.Response:
        try:
            self.script = self.script.change(await request.json())
        except (ValueError, TypeError) as exc:
            return web.json_response({"error": str(exc)}, status=400)
        return await self._read_script(request)

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        messages: Messages = body["messages"]
        request = Request(
            number=len(self.requests) + 1,
            kind=llm_answers.kind(messages),
            stream=bool(body.get("stream")),
            messages=messages,
            hash=hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest(),
            started_at=time.time(),
        )
        self.requests.append(request)
        try:
            response = await self._respond(http, body, request)
            request.status = response.status
            return response
        finally:
            request.closed_at = time.time()

    async def _respond(self, http: web.Request, body: dict[str, Any], request: Request) -> web.StreamResponse:
        fault = self._strike(request)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "drop":
            assert http.transport is not None
            http.transport.abort()
        refusal = self._refusal(fault, body)
        if refusal is not None:
            request.finished = True
            return refusal
        text = (
            "this is not the JSON you asked for"
            if fault == "not_json"
            else self.answer(request.messages, body)
        )
        if not request.stream:
            request.finished = True
            return web.json_response(self._whole(request, text))
        return await self._stream(http, body, request, text, fault)

    def _strike(self, request: Request) -> str | None:
        script = self.script
        if script.fault is None or script.times == 0:
            return None
        if script.match and not any(script.match in message["content"] for message in request.messages):
            return None
        if script.times > 0:
            self.set(times=script.times - 1)
        return script.fault

    def _refusal(self, fault: str | None, body: dict[str, Any]) -> web.Response | None:
        if fault == "throttle":
            return _error(
                429,
                "slow down",
                "rate_limit_exceeded",
                headers={"Retry-After": f"{self.script.retry_after:g}"},
            )
        if fault == "error":
            return _error(500, "the model fell over", "server_error")
        if fault == "refuse":
            return _error(400, "this request is not allowed", "invalid_request_error")
        if fault == "overflow":
            return _error(400, "the prompt is longer than the context", "context_length_exceeded")
        if fault == "garbage" and not body.get("stream"):
            return web.Response(text='{"choices": [{"mess', content_type="application/json")
        if not self.script.schema and "response_format" in body:
            return _error(
                400, "response_format is not supported", "unsupported_parameter", param="response_format"
            )
        return None

    def _whole(self, request: Request, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        answer = {
            "id": f"scripted-{request.number}",
            "object": "chat.completion",
            "created": int(request.started_at),
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        return answer | ({"usage": _usage(request.messages, text)} if self.script.usage else {})

    async def _stream(
        self, http: web.Request, body: dict[str, Any], request: Request, text: str, fault: str | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(http)
        async for piece in self._pieces(text, body, fault):
            if fault == "garbage" and request.pieces == 2:
                await response.write(b'data: {"choices": [{"del\n\n')
                break
            await response.write(self._event(request, {"delta": {"content": piece}, "finish_reason": None}))
            request.pieces += 1
        await response.write(self._event(request, {"delta": {}, "finish_reason": "stop"}))
        if self.script.usage and body.get("stream_options", {}).get("include_usage"):
            await response.write(self._event(request, None, usage=_usage(request.messages, text)))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        request.finished = True
        return response

    async def _pieces(self, text: str, body: dict[str, Any], fault: str | None) -> AsyncIterator[str]:
        """Cut *text* into pieces of a few words, `max_tokens` words at most; endless goes round and round."""
        words = text.split(" ")
        if fault != "endless":
            words = words[: body.get("max_tokens") or body.get("max_completion_tokens") or len(words)]
        pieces = [
            words[i : i + self.script.chunk_words] for i in range(0, len(words), self.script.chunk_words)
        ]
        sent = 0
        while sent < len(pieces) or fault == "endless":
            if self.script.delay or fault == "endless":
                await asyncio.sleep(self.script.delay)
            yield ("" if sent == 0 else " ") + " ".join(pieces[sent % len(pieces)])
            sent += 1
            if fault == "stall":
                await asyncio.sleep(3600)

    def _event(
        self, request: Request, choice: dict[str, Any] | None, *, usage: dict[str, int] | None = None
    ) -> bytes:
        event = {
            "id": f"scripted-{request.number}",
            "object": "chat.completion.chunk",
            "created": int(request.started_at),
            "model": self.model,
            "choices": [] if choice is None else [{"index": 0, **choice}],
            "usage": usage,
        }
        return b"data: " + json.dumps(event).encode() + b"\n\n"


def _usage(messages: Messages, text: str) -> dict[str, int]:
    """One word is one token here."""
    prompt = sum(len(message["content"].split()) for message in messages)
    completion = len(text.split())
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _error(
    status: int, message: str, code: str, *, param: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    error = {"message": message, "type": "scripted", "param": param, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)


@asynccontextmanager
async def serving(port: int, script: Script) -> AsyncIterator[ScriptedModel]:
    """Yield a running server and stop it afterwards."""
    model = ScriptedModel(port=port, script=script)
    await model.start()
    try:
        yield model
    finally:
        await model.stop()


async def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each piece of a stream")
    arguments = parser.parse_args()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with serving(arguments.port, Script(delay=arguments.delay)) as model:
        print(model.base_url, flush=True)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main())
