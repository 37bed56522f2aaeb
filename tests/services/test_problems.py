"""Whatever an answer names as its type can be read up."""

from __future__ import annotations

import re
from pathlib import Path

from server import middleware
from services.problems import PROBLEMS

ROOT = Path(__file__).parents[2]
# Never sent to a caller: they end a start-up or a run of a task.
INTERNAL = {
    "embedded",
    "migration",
    "serve",
    "settings",
    "permanent",
    "retryable",
    "throttled",
    "step-mismatch",
    "poison",
    "process-crash",
    "process-limit",
}
NAMED = re.compile(r"\bslug(?:, title)? ?= ?\"([a-z]+(?:-[a-z]+)+|[a-z]{4,})\"")


def named() -> set[str]:
    files = [path for folder in ("services", "routes", "server") for path in (ROOT / folder).rglob("*.py")]
    return {slug for path in files for slug in NAMED.findall(path.read_text(encoding="utf-8"))}


def test_every_problem_that_may_be_answered_is_explained() -> None:
    assert {"validation", "task-ended", "json-limits"} <= named()
    assert named() - INTERNAL - set(PROBLEMS) == {"item"} & named()


def test_what_the_server_itself_refuses_is_explained() -> None:
    assert {slug for slug, _ in middleware._REFUSALS.values()} <= set(PROBLEMS)


def test_explanations_are_sentences() -> None:
    for slug, problem in PROBLEMS.items():
        for text in (problem.meaning, problem.remedy):
            assert text.endswith("."), slug
            assert text[0].isupper() or text[0] == "`", slug
        assert not problem.title.endswith("."), slug
