"""Documents by hand: a file or a text in, and everything out again."""

from __future__ import annotations

from uuid import UUID

import pytest
from aiohttp import ClientSession, FormData

from server.database import Database
from services import documents
from tests import desk, web


async def _upload(client: ClientSession, body: bytes, name: str, **fields: str) -> tuple[int, str, str]:
    form = FormData(quote_fields=False)
    for key, value in {
        "csrf_token": await desk.token(client),
        "collection": "garden",
        "title": "",
        "text": "",
        **fields,
    }.items():
        form.add_field(key, value)
    form.add_field("file", body, filename=name, content_type="application/octet-stream")
    async with client.post("/desk/documents/new", data=form, allow_redirects=False) as answer:
        return answer.status, answer.headers.get("Location", ""), await answer.text()


async def test_a_file_is_taken_in_under_its_name_and_its_task_is_woken(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID
) -> None:
    status, location, _ = await _upload(client, "# Käse\n\nReift.".encode(), "Käse und Zeit.md")

    assert status == 303
    async with database.tenant(tenant, "test") as db:
        document = await documents.get(db, tenant, UUID(location.split("?")[0].rsplit("/", 1)[1]))
    assert (document.title, document.mime, document.created_by) == (
        "Käse und Zeit", "text/markdown", "user:ada@example.org",
    )  # fmt: skip
    assert served.woken == ["documents"]
    again = await _upload(client, "# Käse\n\nReift.".encode(), "Käse und Zeit.md")
    assert again[1] == location.replace("added", "known")


@pytest.mark.parametrize(
    ("body", "fields", "says"),
    [
        (b"\xff\xfe\x00\x01", {}, "is not text in UTF-8"),
        (b"a", {"text": "b"}, "give one of the two"),
        (b" ", {}, "must not be empty"),
        (b"a", {"collection": "Not A Name"}, "must match"),
    ],
)
async def test_a_file_with_a_fault_is_refused_with_its_reason(
    client: ClientSession, body: bytes, fields: dict[str, str], says: str
) -> None:
    status, _, text = await _upload(client, body, "a.txt", **fields)

    assert status == 422
    assert says in text


async def test_deleting_says_what_goes_and_then_nothing_is_left(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    things = await desk.fill(database, tenant)
    path = f"/desk/documents/{things.document.id}"
    page = await desk.read(client, path)
    assert "No text cites it." in desk.words(page)

    answer = await desk.send(client, f"{path}/delete")

    assert answer.headers["Location"] == "/desk/documents?done=deleted"
    await desk.read(client, path, status=404)


async def test_a_query_that_cannot_be_is_answered_with_its_reason(client: ClientSession) -> None:
    page = await desk.read(client, f"/desk/search?q={'a' * 1001}", status=422)

    assert "must have at most 1000 characters" in desk.words(page)
