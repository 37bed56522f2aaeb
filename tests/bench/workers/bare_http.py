"""What aiohttp, pydantic and one INSERT do on their own: no key to check, no tenant, no idempotency, no problem details.

POST /tasks   one task, one row      POST /tasks/bulk   up to 1,000 tasks, one INSERT by unnest
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from tests.bench.workers.bare import INSERT_MANY, SCHEMA

INSERT = "INSERT INTO bare (payload) VALUES ($1) RETURNING id"
POOL: web.AppKey[asyncpg.Pool[Any]] = web.AppKey("pool", asyncpg.Pool)


class NewTask(BaseModel):
    """One task, checked as in Galley's call."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(min_length=1, max_length=100, pattern=r"^[a-z][a-z0-9_-]*$")
    payload: dict[str, Any]
    priority: int = Field(default=2, ge=0, le=9)


class NewTasks(BaseModel):
    """Many tasks."""

    tasks: list[NewTask] = Field(min_length=1, max_length=1000)


async def create(request: web.Request) -> web.Response:
    new = NewTask.model_validate_json(await request.read())
    made = await request.app[POOL].fetchval(INSERT, json.dumps(new.payload))
    return web.json_response({"id": made}, status=201)


async def create_many(request: web.Request) -> web.Response:
    new = NewTasks.model_validate_json(await request.read())
    await request.app[POOL].execute(INSERT_MANY, [json.dumps(one.payload) for one in new.tasks])
    return web.json_response({"created": len(new.tasks)}, status=201)


async def opened(app: web.Application) -> AsyncIterator[None]:
    async with asyncpg.create_pool(sys.argv[1], min_size=1, max_size=20) as app[POOL]:
        await app[POOL].execute(SCHEMA)
        yield


async def live(request: web.Request) -> web.Response:
    return web.Response(text="ok")


def main() -> None:
    import uvloop

    uvloop.install()
    app = web.Application(client_max_size=16 << 20)
    app.cleanup_ctx.append(opened)
    app.add_routes(
        [web.post("/tasks", create), web.post("/tasks/bulk", create_many), web.get("/livez", live)]
    )
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)


if __name__ == "__main__":
    main()
