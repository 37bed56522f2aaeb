"""Several real server processes on one database: behind PgBouncer, without LISTEN, in their roles, and while one is drained."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import pytest

from server import migrations
from tests.chaos.conftest import MakePlace
from tests.chaos.processes import Child, Place
from tests.conftest import Cluster
from tests.pooler import pooler

TASKS = 200
WORK_SECONDS = 0.1  # so one server alone takes longer for all of them than the other takes to look
SLACK_SECONDS = 1.0  # for a loaded machine
NO_LISTEN = "no LISTEN through a connection pooler"


async def until(condition: Callable[[], Awaitable[Any]], what: str, seconds: float = 30) -> Any:
    """Wait for *condition* and return what it gave. Raises: AssertionError that says *what* did not come."""
    try:
        async with asyncio.timeout(seconds):
            while not (found := await condition()):
                await asyncio.sleep(0.02)
    except TimeoutError as exc:
        raise AssertionError(f"{what} did not come within {seconds} s") from exc
    return found


async def send(place: Place, url: str, key: str, *tasks: dict[str, Any]) -> list[str]:
    """Create tasks through the server at *url*."""
    async with place.client(url, key) as client:
        ids: list[str] = (await place.post(client, "/api/v1/tasks/bulk", {"tasks": list(tasks)}))["ids"]
        return ids


async def readiness(place: Place, server: Child, key: str) -> dict[str, str]:
    """What `/readyz` says of everything the server needs."""
    async with place.client(server.url, key) as client, client.get("/readyz") as response:
        checks: dict[str, str] = (await response.json())["checks"]
        return checks


@pytest.mark.parametrize("way_round", [False, True], ids=["pooler only", "with a way round it"])
async def test_tasks_run_over_two_servers_behind_a_pooler(
    make_place: MakePlace, cluster: Cluster, database_name: str, way_round: bool
) -> None:
    direct = cluster.web(database_name)
    async with make_place() as place, pooler(direct) as through:
        place.web_dsn = through
        env = {"EXECUTOR_SLOTS": "10"} | ({"DIRECT_DATABASE_URL": direct} if way_round else {})
        key = await place.key()
        servers = [await place.start(name, env=env) for name in "ab"]

        ids = await send(
            place,
            servers[0].url,
            key,
            *({"type": "drip", "payload": {"seconds": WORK_SECONDS}} for _ in range(TASKS)),
        )
        async with place.admin() as admin:
            await until(
                lambda: admin.fetchval("SELECT count(*) = $1 FROM task_history", TASKS),
                "the end of all tasks",
            )
            rows = await admin.fetch("SELECT id::text, state, attempt, executor_id FROM task_history")
            versions = await admin.fetchval("SELECT count(*) FROM chaos_marks WHERE what = 'version'")
        checks = [await readiness(place, server, key) for server in servers]

        assert {row["id"] for row in rows} == set(ids)
        assert {(row["state"], row["attempt"]) for row in rows} == {("succeeded", 1)}
        assert versions == TASKS
        assert len({row["executor_id"] for row in rows}) == 2
        for server, checked in zip(servers, checks, strict=True):
            assert set(checked.values()) == {"ok"}, checked
            assert ("listener" in checked) == (way_round and os.environ.get("LISTEN") != "false")
            assert server.count_in_log(NO_LISTEN) == (not way_round and os.environ.get("LISTEN") != "false")


async def test_behind_a_pooler_the_schema_is_brought_up_to_date_round_it(
    make_place: MakePlace, cluster: Cluster, database_name: str
) -> None:
    async with make_place() as place, pooler(cluster.web(database_name)) as through:
        place.web_dsn = through
        known = (await migrations.roll_back(place.admin_dsn, to=7)).known
        outcomes = []
        for command, direct in (("serve", ""), ("migrate", ""), ("migrate", place.admin_dsn)):
            env = {"MIGRATE_DATABASE_URL": "", "DIRECT_DATABASE_URL": direct}
            child = await place.spawn(command, "command", [command], env=env)
            await child.ended()
            outcomes.append(child.read_log())

        assert "run `python main.py migrate`" in outcomes[0]
        assert "set MIGRATE_DATABASE_URL or DIRECT_DATABASE_URL" in outcomes[1]
        assert f"schema {known} of {known}" in outcomes[2]


async def test_a_cancel_reaches_another_server_within_a_heartbeat_without_listen(
    make_place: MakePlace,
) -> None:
    async with make_place() as place:
        key = await place.key()
        runs = await place.start("runs", env={"LISTEN": "false"})
        takes = await place.start("takes", env={"LISTEN": "false", "ROLE": "web"})
        (task,) = await send(place, takes.url, key, {"type": "linger", "payload": {"seconds": 60}})
        async with place.admin() as admin:
            marks = "SELECT at FROM chaos_marks WHERE task_id = $1::text::uuid AND what = $2 AND pid = $3"
            await until(lambda: admin.fetchval(marks, task, "began", runs.pid), "the start")
            async with (
                place.client(takes.url, key) as client,
                client.post(f"/api/v1/tasks/{task}/cancel", json={}) as response,
            ):
                assert response.status == 200, await response.text()
            cancelled_at: datetime = await admin.fetchval(
                "SELECT finished_at FROM task_history WHERE id = $1::text::uuid", task
            )
            ended_at: datetime = await until(
                lambda: admin.fetchval(marks, task, "ended", runs.pid), "the end"
            )

        assert (ended_at - cancelled_at).total_seconds() <= place.pace.heartbeat + SLACK_SECONDS


async def test_a_web_server_claims_nothing_and_an_executor_serves_only_its_health(
    make_place: MakePlace,
) -> None:
    async with make_place() as place:
        key = await place.key()
        web = await place.start("web", env={"ROLE": "web"})
        await send(place, web.url, key, {"type": "tally"}, {"type": "tally"})
        async with place.admin() as admin:
            await asyncio.sleep(
                3 * place.pace.poll
            )  # the time in which an executor would have looked three times
            idle = await admin.fetchrow(
                "SELECT (SELECT count(*) FROM tasks WHERE state = 'queued') AS queued, (SELECT count(*) FROM executors) AS executors"
            )
            executor = await place.start("executor", env={"ROLE": "executor"})
            await until(
                lambda: admin.fetchval("SELECT count(*) = 2 FROM task_history WHERE state = 'succeeded'"),
                "the end",
            )
        found = {}
        async with place.client(executor.url, key) as client:
            for path in (
                "/livez",
                "/readyz",
                "/metrics",
                "/",
                "/login",
                "/desk",
                "/docs",
                "/api/v1/tasks",
                "/api/v1/openapi.json",
            ):
                async with client.get(path, allow_redirects=False) as response:
                    found[path] = response.status

        assert tuple(idle or ()) == (2, 0)
        assert {path for path, status in found.items() if status == 200} == {"/livez", "/readyz", "/metrics"}
        assert {status for status in found.values() if status != 200} == {404}
        assert "Traceback" not in executor.read_log()


async def test_one_of_two_executors_is_drained_by_its_row_and_comes_back(make_place: MakePlace) -> None:
    async with make_place() as place:
        key = await place.key()
        env = {"EXECUTOR_SLOTS": "4"}
        drained, other = [await place.start(name, env=env) for name in ("drained", "other")]
        linger = {"type": "linger", "payload": {"seconds": 1.5}}
        async with place.admin() as admin:
            running = "SELECT count(*) FROM tasks t JOIN executors e ON e.id = t.executor_id WHERE t.state = 'running' AND e.pid = $1"
            began = "SELECT count(*) FROM chaos_marks WHERE what = 'began' AND pid = $1 AND at > $2"
            await send(place, other.url, key, *[linger] * 16)
            drain = f"UPDATE executors SET draining_at = clock_timestamp() WHERE pid = $1 AND ({running}) = 4 RETURNING true"
            await until(lambda: admin.fetchval(drain, drained.pid), "full slots")
            at = await admin.fetchval("SELECT clock_timestamp()")  # whatever is claimed from here on, sees it
            await until(lambda: admin.fetchval("SELECT count(*) = 16 FROM task_history"), "the end of all")
            started_late = await admin.fetchval(
                "SELECT count(*) FROM task_history h JOIN executors e ON e.id = h.executor_id WHERE e.pid = $1 AND h.started_at > $2",
                drained.pid,
                at,
            )
            ends = await admin.fetch("SELECT DISTINCT state, attempt, fence FROM task_history")
            row = await admin.fetchrow(
                "SELECT lease_until > clock_timestamp() AS alive FROM executors WHERE pid = $1", drained.pid
            )
            ready = await readiness(place, drained, key)

            back = await admin.fetchval(
                "UPDATE executors SET draining_at = NULL WHERE pid = $1 RETURNING clock_timestamp()",
                drained.pid,
            )
            await send(place, other.url, key, *[linger] * 8)
            await until(
                lambda: admin.fetchval(f"SELECT ({began}) > 0", drained.pid, back), "work after the drain"
            )

        assert started_late == 0
        # Nothing was taken away, given back or run twice.
        assert [tuple(one) for one in ends] == [("succeeded", 1, 1)]
        assert row is not None
        assert row["alive"]
        assert set(ready.values()) == {"ok"}, ready
