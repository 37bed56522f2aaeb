"""Logs: one JSON object per line, or lines for people on a terminal; with the request and the task they belong to.

The message of a record is a constant and its facts are fields (`extra={...}`). Payloads, prompts and keys are never logged.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO
from uuid import UUID

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

Format = Literal["auto", "json", "text"]

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
TASK_ID: ContextVar[UUID | None] = ContextVar("task_id", default=None)
_ORDINARY = frozenset(RESERVED_ATTRS) | {"color_message", "request_id", "task_id"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_QUIET = {
    "asyncio": logging.WARNING,
    "openai": logging.WARNING,
    "httpx2": logging.WARNING,
    "httpx": logging.WARNING,
}


@contextmanager
def task(task_id: UUID) -> Iterator[None]:
    """Put *task_id* into every record made inside."""
    token = TASK_ID.set(task_id)
    try:
        yield
    finally:
        TASK_ID.reset(token)


def configure(level: str = "INFO", form: Format = "auto", stream: TextIO | None = None) -> None:
    """Send every log of this process to *stream* (standard error); "auto" is text on a terminal, JSON elsewhere."""
    target = stream or sys.stderr
    readable = form == "text" or (form == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.addFilter(_context)
    handler.setFormatter(TextFormatter() if readable else LineFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    logging.captureWarnings(capture=True)


def _context(record: logging.LogRecord) -> bool:
    """Add the request and the task under way; what a record says itself wins."""
    for name, variable in (("request_id", REQUEST_ID), ("task_id", TASK_ID)):
        value = variable.get()
        if value is not None and not hasattr(record, name):
            setattr(record, name, str(value))
    return True


class LineFormatter(JsonFormatter):
    """One JSON object per record: time, level, logger, message, then its facts."""

    def __init__(self) -> None:
        super().__init__(json_default=str, json_ensure_ascii=True)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Put the fixed fields first."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["time"] = moment.replace("+00:00", "Z")
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        super().add_fields(log_data, record, message_dict)


class TextFormatter(logging.Formatter):
    """Lines for people: time, level, message, facts as name=value; control characters are shown, not obeyed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, with the traceback below it if it has one."""
        facts = {name: value for name, value in vars(record).items() if name not in _ORDINARY}
        for name in ("request_id", "task_id"):
            if (value := getattr(record, name, None)) is not None:
                facts[name] = value
        moment = datetime.fromtimestamp(record.created).astimezone()
        words = [f"{moment:%H:%M:%S}.{int(record.msecs):03}", f"{record.levelname:<7}", record.getMessage()]
        line = " ".join([*words, *(f"{name}={value}" for name, value in facts.items())])
        line = _CONTROL.sub(_shown, line.replace("\n", "\\n"))
        if record.exc_info:
            line += "\n" + _CONTROL.sub(_shown, self.formatException(record.exc_info))
        return line


def _shown(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
