"""The contract of /api/v1/alerts: works, bad input, missing, wrong state, second call, role, other tenant."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiohttp import ClientSession

from routes.api import alerts
from server.alarm import Alarm
from server.database import Database
from tests import web as served_web
from tests.conftest import make_tenant
from tests.web import Served

PATH = "/api/v1/alerts"
RULES = f"{PATH}/rules"


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    async with served_web.running(served_web.build(database, alerts.routes)) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    key = await served_web.make_key(database, tenant, role="operator", name="ci")
    async with served_web.client(served, key) as session:
        yield session


async def call(api: ClientSession, method: str, path: str, *, expect: int, **options: Any) -> Any:
    """Return the decoded answer of a call, which must have the status *expect*."""
    async with api.request(method, path, **options) as response:
        text = await response.text()
        assert response.status == expect, text
        return json.loads(text) if text else None


@pytest.fixture
async def alert(api: ClientSession, database: Database, admin: asyncpg.Connection, tenant: UUID) -> Any:
    """An alert that is open."""
    await admin.execute(
        "INSERT INTO dead_letters (task_id, tenant_id, queue, type, state, error_class, failed_at)"
        " SELECT app.uuid7(), $1, 'default', 'noop', 'failed', 'x', app.now() FROM generate_series(1, 12)",
        tenant,
    )
    await Alarm(database).evaluate()
    (found,) = (await call(api, "GET", f"{PATH}?state=open", expect=200))["items"]
    return found


async def test_an_open_alert_is_listed_read_and_acknowledged_once(api: ClientSession, alert: Any) -> None:
    assert {name: alert[name] for name in ("kind", "queue", "type", "text", "threshold", "value", "worst", "closed_at", "acknowledged_by")} == {
        "kind": "dead_letters", "queue": None, "type": None, "text": "12 dead letters wait for a person", "threshold": 10.0, "value": 12.0,
        "worst": 12.0, "closed_at": None, "acknowledged_by": None,
    }  # fmt: skip
    assert await call(api, "GET", f"{PATH}/{alert['id']}", expect=200) == alert
    assert (await call(api, "GET", f"{PATH}?state=closed", expect=200))["items"] == []
    first = await call(api, "POST", f"{PATH}/{alert['id']}/acknowledge", expect=200)
    second = await call(api, "POST", f"{PATH}/{alert['id']}/acknowledge", expect=200)

    assert first == second
    assert first == alert | {"acknowledged_by": "key:ci", "acknowledged_at": first["acknowledged_at"]}


async def test_every_tenant_has_rules(api: ClientSession) -> None:
    rules = (await call(api, "GET", RULES, expect=200))["items"]

    assert [(rule["kind"], rule["threshold"], rule["general"], rule["version"]) for rule in rules] == [
        ("dead_letters", 10, True, 1), ("dead_letter_age", 86400, True, 1), ("ready_age", 900, True, 1), ("failure_rate", 0.5, True, 1),
    ]  # fmt: skip


async def test_a_rule_is_said_anew_under_its_etag(api: ClientSession) -> None:
    rule = (await call(api, "GET", RULES, expect=200))["items"][3]
    path, until = f"{RULES}/{rule['id']}", (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    body = {"threshold": 0.25, "window_seconds": 600, "minimum": 5, "muted_until": until}
    await call(api, "PUT", path, json=body, expect=428)
    async with api.get(path) as answer:
        tag = answer.headers["ETag"]
    changed = await call(api, "PUT", path, json=body, headers={"If-Match": tag}, expect=200)
    await call(api, "PUT", path, json=body, headers={"If-Match": tag}, expect=412)

    assert {name: changed[name] for name in ("threshold", "window_seconds", "minimum", "enabled", "muted", "version", "updated_by")} == {
        "threshold": 0.25, "window_seconds": 600, "minimum": 5, "enabled": True, "muted": True, "version": 2, "updated_by": "key:ci",
    }  # fmt: skip
    assert changed["text"] == "25 % or more of the tasks that ended in 10 min failed, given 5 ends"


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/kind", "/threshold"]),
        ({"kind": "hunger", "threshold": 1}, ["/kind"]),
        ({"kind": "dead_letters", "threshold": 0, "queue": "content"}, ["/threshold"]),
        ({"kind": "failure_rate", "threshold": 0.5, "queue": "content"}, ["/window_seconds", "/minimum"]),
        ({"kind": "ready_age", "threshold": 5, "type": "noop"}, ["/type"]),
        ({"kind": "dead_letters", "threshold": 5, "queue": "nowhere"}, ["/queue"]),
        ({"kind": "dead_letters", "threshold": 5, "queue": "content", "colour": "red"}, ["/colour"]),
    ],
)  # fmt: skip
async def test_bad_rules_are_refused_with_each_fault(
    api: ClientSession, body: dict[str, Any], pointers: list[str]
) -> None:
    problem = await call(api, "POST", RULES, json=body, expect=422)

    assert [fault["pointer"] for fault in problem["errors"]] == pointers


async def test_a_rule_about_a_queue_is_made_once_and_deleted(api: ClientSession) -> None:
    body = {"kind": "ready_age", "threshold": 60, "queue": "content"}
    made = await call(api, "POST", RULES, json=body, headers={"Idempotency-Key": "k"}, expect=201)
    assert await call(api, "POST", RULES, json=body, headers={"Idempotency-Key": "k"}, expect=201) == made
    problem = await call(api, "POST", RULES, json=body, expect=409)
    assert problem["type"].endswith("rule-taken")

    await call(api, "DELETE", f"{RULES}/{made['id']}", expect=204)
    await call(api, "DELETE", f"{RULES}/{made['id']}", expect=404)


async def test_a_rule_that_every_tenant_has_cannot_be_deleted(api: ClientSession) -> None:
    rule = (await call(api, "GET", RULES, expect=200))["items"][0]
    problem = await call(api, "DELETE", f"{RULES}/{rule['id']}", expect=409)

    assert problem["type"].endswith("rule-is-general")


async def test_what_is_not_there_and_what_is_another_tenants_read_the_same(
    api: ClientSession, alert: Any, served: Served, database: Database, admin: asyncpg.Connection
) -> None:
    key = await served_web.make_key(database, await make_tenant(admin, "globex"))
    async with served_web.client(served, key) as stranger:
        for alert_id, rule_id in ((alert["id"], alert["rule_id"]), (uuid4(), uuid4())):
            await call(stranger, "GET", f"{PATH}/{alert_id}", expect=404)
            await call(stranger, "POST", f"{PATH}/{alert_id}/acknowledge", expect=404)
            await call(stranger, "GET", f"{RULES}/{rule_id}", expect=404)
            await call(stranger, "DELETE", f"{RULES}/{rule_id}", expect=404)
            await call(
                stranger,
                "PUT",
                f"{RULES}/{rule_id}",
                json={"threshold": 1},
                headers={"If-Match": "*"},
                expect=404,
            )
    await call(api, "DELETE", f"{PATH}/{alert['id']}", expect=405)


async def test_viewers_look_and_operators_change(
    alert: Any, served: Served, database: Database, tenant: UUID
) -> None:
    async with served_web.client(
        served, await served_web.make_key(database, tenant, role="reviewer")
    ) as reviewer:
        assert len((await call(reviewer, "GET", PATH, expect=200))["items"]) == 1
        await call(reviewer, "GET", RULES, expect=200)
        await call(reviewer, "POST", f"{PATH}/{alert['id']}/acknowledge", expect=403)
        await call(
            reviewer,
            "POST",
            RULES,
            json={"kind": "dead_letters", "threshold": 1, "queue": "content"},
            expect=403,
        )
        await call(
            reviewer,
            "PUT",
            f"{RULES}/{alert['rule_id']}",
            json={"threshold": 1},
            headers={"If-Match": "*"},
            expect=403,
        )
        await call(reviewer, "DELETE", f"{RULES}/{alert['rule_id']}", expect=403)
