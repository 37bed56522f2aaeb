"""A failed run says where its error came from: files, lines and functions, never folders of the machine or values."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from server import traces
from server.database import Database
from services.errors import Invalid
from services.task_context import TaskContext
from tests import engine

HERE = "tests/server/test_traces.py"


def _fall(depth: int, secret: str) -> None:
    if depth:
        _fall(depth - 1, secret)
    raise KeyError(secret)


def _caught(error: type[BaseException], call: Any) -> BaseException:
    with pytest.raises(error) as raised:
        call()
    return raised.value


def test_each_call_is_told_by_file_line_and_function_outermost_first() -> None:
    told = traces.of(_caught(KeyError, lambda: _fall(1, "swordfish")))

    assert [line.rsplit(" in ", 1)[1] for line in told[-3:]] == [
        "test_each_call_is_told_by_file_line_and_function_outermost_first.<locals>.<lambda>",
        "_fall",
        "_fall",
    ]
    assert told[-1].startswith(f"{HERE}:23 ")
    assert "swordfish" not in "".join(told)


def test_deep_calls_are_cut_in_the_middle() -> None:
    told = traces.of(_caught(KeyError, lambda: _fall(200, "")))

    assert len(told) == traces.MOST_FRAMES + 1
    assert told[traces.MOST_FRAMES // 2].startswith("… ")


def test_code_of_python_and_of_packages_is_named_without_the_folders_of_the_machine() -> None:
    told = traces.of(_caught(ValueError, lambda: json.loads("{")))

    assert told[-1].startswith("json/decoder.py:")
    assert not any(line.startswith("/") for line in told)


def test_causes_are_told_with_what_they_said() -> None:
    def wrap() -> None:
        try:
            _fall(0, "swordfish")
        except KeyError as exc:
            raise RuntimeError("the tool broke") from exc

    told = traces.of(_caught(RuntimeError, wrap))

    assert "caused by KeyError: 'swordfish'" in told
    assert told[-1].endswith(" in _fall")


def test_an_error_made_for_people_needs_no_trace() -> None:
    assert traces.of(Invalid("the topic is empty")) == []


async def test_a_failed_run_keeps_it_and_passes_its_own_way_over(database: Database, tenant: UUID) -> None:
    async def broken(task: TaskContext, _payload: object) -> None:
        await task.step("look", _fail)

    async def _fail() -> None:
        _fall(0, "swordfish")

    with engine.task_type("trial", broken, max_attempts=1):
        async with engine.running_executor(database):
            task = await engine.ended(database, await engine.enqueue(database, tenant, "trial"))

    assert task.error is not None
    assert [line.split(" in ")[1].split(".")[-1] for line in task.error["trace"] if HERE in line] == [
        "broken",
        "_fail",
        "_fall",
    ]
    assert task.error["trace"][0].startswith(HERE)
