"""The OpenAPI document is valid, holds every call that is served, and says of each what it answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from openapi_spec_validator import OpenAPIV31SpecValidator

from server.app import Parts, create_app
from server.connections import Runner
from server.database import Database
from server.settings import Settings
from services.embeddings import Embedder

# Calls under /api/v1 that are not described as operations, each for a reason.
NOT_DESCRIBED = {"/api/v1/openapi.json"}  # the document itself


@pytest.fixture
async def app(database: Database, tmp_path: Path) -> web.Application:
    """The whole application, without its background."""
    settings = Settings(role="web", listen=False, data_dir=tmp_path)
    return create_app(
        Parts(
            settings=settings, database=database, provider=None, embedder=Embedder(), base_url="http://test"
        )
    )


@pytest.fixture
async def client(app: web.Application) -> AsyncIterator[ClientSession]:
    runner = Runner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
        yield session
    await runner.cleanup()


@pytest.fixture
async def document(client: ClientSession) -> dict[str, Any]:
    async with client.get("/api/v1/openapi.json") as response:
        assert response.status == 200
        body: dict[str, Any] = await response.json()
        return body


def served(app: web.Application) -> set[tuple[str, str]]:
    """Return (method, path) of all that the application answers under /api/v1."""
    return {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
        and route.resource.canonical.startswith("/api/v1/")
        and route.method != "HEAD"
    }


async def test_the_document_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1")
    assert "jsonSchemaDialect" not in document


async def test_every_call_is_described(app: web.Application, document: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}

    assert {(method, path) for method, path in served(app) if path not in NOT_DESCRIBED} == described


async def test_the_promised_calls_are_there(document: dict[str, Any]) -> None:
    promised = {
        "/api/v1/tasks": {"get", "post"}, "/api/v1/tasks/bulk": {"post"}, "/api/v1/tasks/{task_id}": {"get"},
        "/api/v1/tasks/{task_id}/events": {"get"}, "/api/v1/tasks/{task_id}/cancel": {"post"}, "/api/v1/tasks/{task_id}/requeue": {"post"},
        "/api/v1/tasks/{task_id}/signal": {"post"}, "/api/v1/documents": {"post"}, "/api/v1/search": {"post"}, "/api/v1/reviews": {"get"},
        "/api/v1/dead-letters": {"get"}, "/api/v1/dead-letters/{task_id}/requeue": {"post"}, "/api/v1/dead-letters/{task_id}/discard": {"post"},
        "/api/v1/bulk-operations": {"get", "post"}, "/api/v1/bulk-operations/preview": {"post"}, "/api/v1/bulk-operations/{operation_id}/stop": {"post"},
    }  # fmt: skip

    for path, methods in promised.items():
        assert methods <= set(document["paths"].get(path, {})), path


async def test_each_operation_says_what_it_takes_and_answers(document: dict[str, Any]) -> None:
    problem = {"$ref": "#/components/schemas/Problem"}
    names = []
    for path, methods in document["paths"].items():
        variables = set(re.findall(r"\{(\w+)\}", path))
        for method, operation in methods.items():
            names.append(operation["operationId"])
            where = f"{method} {path}"
            assert operation["summary"], where
            parameters = operation["parameters"]
            assert {one["name"] for one in parameters if one["in"] == "path"} == variables, where
            assert {"400", "503"} <= set(operation["responses"]), where
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert response["content"]["application/problem+json"]["schema"] == problem, where
            if "201" in operation["responses"] and method == "post":
                assert any(one["name"] == "Idempotency-Key" for one in parameters), where
    assert len(names) == len(set(names))


async def test_bodies_refuse_unknown_fields(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None:
                continue
            schema = content["schema"]
            schema = schemas[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
            assert schema.get("additionalProperties") is False, (method, path)


async def test_the_docs_page_loads_everything_from_here(client: ClientSession) -> None:
    async with client.get("/docs") as response:
        assert response.status == 200
        text = await response.text()
        policy = response.headers["Content-Security-Policy"]

    assert "'unsafe" not in policy
    assert "<script>" not in text
    assert " style=" not in text
    for address in re.findall(r'(?:src|href)="([^"#]+)"', text):
        assert address.startswith("/"), address
        async with client.get(address, allow_redirects=False) as response:
            assert response.status in {200, 303}, address


async def test_the_type_of_a_problem_leads_to_its_explanation(client: ClientSession) -> None:
    async with client.get("/api/v1/tasks") as response:
        problem = await response.json()
    async with client.get(problem["type"]) as response:
        assert response.status == 200
        assert "Nobody is known to be calling" in await response.text()
    async with client.get("/problems/never-heard-of") as response:
        assert (response.status, response.content_type) == (404, "text/html")
