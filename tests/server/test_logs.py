"""Logs are one line per record, machine-readable where nobody watches, and what they hold cannot forge another line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from uuid import UUID

import pytest

from server import logs

EVIL = 'a\r\n{"level":"error"}\x1b[31m\u202e\u2028'


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    """Put the root logger back as pytest wants it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def written(form: logs.Format, level: str = "INFO") -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    logs.configure(level, form, stream)
    return logging.getLogger("galley.test"), stream


def test_a_record_is_one_json_object_with_its_facts() -> None:
    log, stream = written("json")

    log.info("task finished", extra={"seconds": 1.5, "outcome": "succeeded"})

    entry = json.loads(stream.getvalue())
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "info",
        "logger": "galley.test",
        "message": "task finished",
        "seconds": 1.5,
        "outcome": "succeeded",
    }


def test_a_record_names_the_request_and_the_task_it_belongs_to() -> None:
    log, stream = written("json")
    task_id = UUID(int=7)

    token = logs.REQUEST_ID.set("request-1")
    with logs.task(task_id):
        log.warning("something odd")
    logs.REQUEST_ID.reset(token)
    log.warning("something else")

    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["request_id"], first["task_id"]) == ("request-1", str(task_id))
    assert "request_id" not in second
    assert "task_id" not in second


def test_what_the_record_says_itself_wins() -> None:
    log, stream = written("json")

    with logs.task(UUID(int=1)):
        log.info("task rescued", extra={"task_id": UUID(int=2)})

    assert json.loads(stream.getvalue())["task_id"] == str(UUID(int=2))


@pytest.mark.parametrize("form", ["json", "text"])
def test_hostile_text_stays_inside_its_line(form: logs.Format) -> None:
    log, stream = written(form)

    log.warning("sign-in refused", extra={"address": EVIL})
    log.warning(EVIL)

    text = stream.getvalue()
    assert len(text.splitlines()) == 2
    assert not {"\x1b", "\r", "\u202e", "\u2028"} & set(text)


def test_a_traceback_is_kept() -> None:
    for form in ("json", "text"):
        log, stream = written(form)
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            log.exception("request failed")

        assert "RuntimeError: broken" in stream.getvalue()


def test_people_read_lines_and_machines_read_json() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, starts_as_json in ((Terminal(), False), (io.StringIO(), True)):
        logs.configure("INFO", "auto", stream)
        logging.getLogger("galley.test").info("ready", extra={"port": 8000})
        assert stream.getvalue().startswith("{") == starts_as_json
        assert "8000" in stream.getvalue()


def test_the_level_is_obeyed_and_libraries_stay_quiet() -> None:
    log, stream = written("json", "DEBUG")

    log.debug("shown")
    logging.getLogger("openai").info("not shown")

    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["shown"]
