"""The table of states and transitions is what the database, the engine's SQL and the documentation say."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from services import task_states
from services.task_states import FINAL, LIVE, STATES, TRANSITIONS

ROOT = Path(__file__).parents[2]
INSERT = re.compile(
    r"INSERT INTO task_events \((?P<columns>[^)]*)\)\s*(?:SELECT|VALUES \()(?P<values>.*?)(?:\n\s*FROM |\bFROM \w+|;)",
    re.DOTALL,
)
END_TASKS = re.compile(r"PERFORM app\.end_tasks\(\w+, '(?P<state>\w+)', '(?P<event>\w+)'")
RETRY = re.compile(r'retry_event="(?P<event>\w+)"')
IN_CASE = re.compile(r"(?:THEN|ELSE) '(\w+)'")
PARAMETER = "p_event"  # of end_tasks and retry, whose callers are looked at instead


def split(values: str) -> list[str]:
    """Cut a list of SQL expressions at its outer commas."""
    parts, depth, current = [], 0, ""
    for sign in values:
        depth += (sign in "([") - (sign in ")]")
        if sign == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += sign
    return [*parts, current.strip()]


def events_written_by_sql() -> set[str]:
    """Return every event name that a statement or function writes."""
    found: set[str] = set()
    for path in sorted((ROOT / "sql").glob("*/*.sql")):
        text = path.read_text(encoding="utf-8")
        for insert in INSERT.finditer(text):
            place = [column.strip() for column in insert["columns"].split(",")].index("event")
            event = split(insert["values"])[place]
            found |= set(IN_CASE.findall(event)) if event.startswith("CASE") else {event.strip("'")}
        found |= {call["event"] for call in END_TASKS.finditer(text)}
    return found - {PARAMETER}


@pytest.mark.parametrize(("table", "states"), [("tasks", LIVE), ("task_history", FINAL)])
async def test_each_table_takes_exactly_its_states(
    admin: asyncpg.Connection[asyncpg.Record], table: str, states: tuple[str, ...]
) -> None:
    text = await admin.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1", f"{table}_state"
    )

    assert set(re.findall(r"'(\w+)'", text)) == set(states)


def test_live_and_final_states_are_all_states_and_none_is_both() -> None:
    assert set(LIVE) | set(FINAL) == set(STATES)
    assert not set(LIVE) & set(FINAL)


def test_nothing_leads_out_of_a_final_state_and_every_state_is_reached() -> None:
    assert {one.before for one in TRANSITIONS} - {None} <= set(LIVE)
    assert {one.after for one in TRANSITIONS} == set(STATES)


def test_the_events_that_sql_and_engine_write_are_exactly_those_of_the_table() -> None:
    by_engine = {
        call["event"]
        for call in RETRY.finditer((ROOT / "server" / "outcomes.py").read_text(encoding="utf-8"))
    }

    assert events_written_by_sql() | by_engine == {one.event for one in TRANSITIONS} - {None}


def test_what_ends_tasks_in_sql_is_a_transition_of_the_table() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "sql" / "functions").glob("*.sql")]
    written = {(call["state"], call["event"]) for text in texts for call in END_TASKS.finditer(text)}

    assert {state for state, _ in written} == {"failed", "timed_out", "cancelled"}
    assert written <= {(one.after, one.event) for one in TRANSITIONS}


def test_the_diagram_shows_each_transition_once() -> None:
    lines = task_states.diagram().splitlines()
    pairs = {(one.before or "[*]", one.after) for one in TRANSITIONS}

    assert sorted(
        line.partition(":")[0].strip() for line in lines if "-->" in line and "--> [*]" not in line
    ) == (sorted(f"{before} --> {after}" for before, after in pairs))


def test_the_document_is_up_to_date() -> None:
    """Else: python -m services.task_states > docs/task_states.md"""
    assert (ROOT / "docs" / "task_states.md").read_text(encoding="utf-8") == task_states.document()
