"""Prompts for programs: versions, labels, and what a prompt becomes with its values."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from aiohttp import web
from pydantic import Field

from routes.api.kernel import (
    Answer,
    Body,
    Call,
    Int,
    JSONObject,
    Page,
    PageQuery,
    Query,
    QueryInt,
    Text,
    View,
    operation,
)
from services import prompts
from services.prompts import PromptVersion, VariableType
from services.task_context import Connection

routes = web.RouteTableDef()

Number = Annotated[Int, Field(ge=1, le=999_999_999)]
Label = Annotated[Text, Field(min_length=1, max_length=36)]


class Which(Query):
    """Which version: by number or by label, not both; with neither the one labelled production, or else the latest."""

    label: Label | None = None
    version: Annotated[QueryInt, Field(ge=1, le=999_999_999)] | None = None


class VariableBody(Body):
    """A value that the template needs. Without a default it must be given."""

    name: Text = Field(max_length=50)
    type: VariableType = "string"
    default: Any = None
    description: Text = Field(default="", max_length=500)


class NewVersion(Body):
    """A prompt's next version. `{{name}}` in the texts stands for a declared variable."""

    template: Text = Field(min_length=1, max_length=50_000)
    system: Text = Field(default="", max_length=50_000)
    variables: list[VariableBody] = Field(default=[], max_length=100)
    settings: JSONObject = Field(default_factory=dict, description="For the model: temperature, max_tokens …")
    output_schema: JSONObject | None = Field(default=None, description="JSON schema of the answer.")
    note: Text = Field(default="", max_length=500)


class LabelBody(Body):
    """Where a label is to point, and why."""

    version: Number
    reason: Text = Field(default="", max_length=500)


class Render(Body):
    """The values for the variables, and which version."""

    values: JSONObject = Field(default_factory=dict)
    label: Label | None = None
    version: Number | None = None


class VariableView(View):
    """A declared variable."""

    name: str
    type: str
    default: Any
    description: str


class PromptView(View):
    """A prompt by name."""

    name: str
    latest_version: int = Field(validation_alias="latest_number")
    labels: dict[str, int]
    created_by: str
    created_at: datetime
    updated_at: datetime


class PromptVersionView(View):
    """One immutable version of a prompt."""

    id: UUID
    name: str
    version: int = Field(validation_alias="number")
    labels: list[str]
    system: str
    template: str
    variables: list[VariableView]
    settings: JSONObject
    output_schema: JSONObject | None
    note: str
    content_hash: str
    created_by: str
    created_at: datetime


class LabelEventView(View):
    """A label was set or moved."""

    label: str
    from_version: int | None = Field(validation_alias="from_number")
    to_version: int = Field(validation_alias="to_number")
    actor: str
    reason: str
    at: datetime


class Message(View):
    """What a model is sent."""

    role: str
    content: str


class Rendered(View):
    """A prompt with its values filled in."""

    name: str
    version: int
    messages: list[Message]


@operation(
    routes,
    "GET",
    "/api/v1/prompts",
    name="prompts.list",
    summary="List prompts by name",
    role="viewer",
    answer=Page[PromptView],
)
async def list_prompts(call: Call, db: Connection, query: PageQuery) -> JSONObject:
    after = call.after(query)
    rows = await prompts.list_prompts(
        db, call.tenant_id, after=str(after[0]) if after else None, limit=query.limit + 1
    )
    return call.page(rows, query, lambda prompt: (prompt.name,))


@operation(
    routes,
    "GET",
    "/api/v1/prompts/{name}",
    name="prompts.get",
    summary="Read a version of a prompt",
    role="viewer",
    answer=PromptVersionView,
)
async def get(call: Call, db: Connection, name: str, query: Which) -> Answer:
    version = await _which(call, db, name, query.label, query.version)
    return Answer(version, etag=f"{version.number}-{'-'.join(version.labels)}")


@operation(
    routes,
    "GET",
    "/api/v1/prompts/{name}/versions",
    name="prompts.list_versions",
    summary="List the versions of a prompt, newest first",
    role="viewer",
    answer=Page[PromptVersionView],
)
async def list_versions(call: Call, db: Connection, name: str, query: PageQuery) -> JSONObject:
    await prompts.get(db, call.tenant_id, name, label="latest")
    after = call.after(query)
    below = int(str(after[0])) if after else None
    rows = await prompts.list_versions(db, call.tenant_id, name, below=below, limit=query.limit + 1)
    return call.page(rows, query, lambda version: (version.number,))


@operation(
    routes,
    "POST",
    "/api/v1/prompts/{name}/versions",
    name="prompts.add_version",
    summary="Add a version; the first makes the prompt",
    description="The same text as the newest version again is no new one: it is answered, with status 200.",
    role="author",
    answer=PromptVersionView,
    status=201,
    idempotent=True,
)
async def add_version(call: Call, db: Connection, name: str, body: NewVersion) -> Answer:
    before = await prompts.find(db, call.tenant_id, name, label="latest")
    version = await prompts.add_version(
        db,
        tenant_id=call.tenant_id,
        name=name,
        system=body.system,
        template=body.template,
        variables=[prompts.Variable(**variable.model_dump()) for variable in body.variables],
        settings=body.settings,
        output_schema=body.output_schema,
        note=body.note,
        actor=call.actor,
    )
    location = str(
        call.request.app.router["prompts.get"].url_for(name=name).with_query(version=version.number)
    )
    return Answer(version, location=location, status=200 if before and before.id == version.id else 201)


@operation(
    routes,
    "PUT",
    "/api/v1/prompts/{name}/labels/{label}",
    name="prompts.set_label",
    summary="Point a label at a version",
    description="Each move is kept with its reason. Rolling back is this call with an older version.",
    role="operator",
    answer=PromptVersionView,
)
async def set_label(call: Call, db: Connection, name: str, label: str, body: LabelBody) -> PromptVersion:
    return await prompts.set_label(
        db, tenant_id=call.tenant_id, name=name, label=label, version=body.version, actor=call.actor, reason=body.reason
    )  # fmt: skip


@operation(
    routes,
    "GET",
    "/api/v1/prompts/{name}/label-events",
    name="prompts.list_label_events",
    summary="Read how the labels of a prompt moved, the latest 200, newest first",
    role="viewer",
    answer=Page[LabelEventView],
)
async def list_label_events(call: Call, db: Connection, name: str) -> JSONObject:
    await prompts.get(db, call.tenant_id, name, label="latest")
    return {
        "items": await prompts.list_label_events(db, call.tenant_id, name, limit=200),
        "next_cursor": None,
    }


@operation(
    routes,
    "POST",
    "/api/v1/prompts/{name}/render",
    name="prompts.render",
    summary="See the messages that a prompt becomes with values",
    description="Values are put in as they are and never evaluated. A missing one is an error that names it.",
    role="viewer",
    answer=Rendered,
)
async def render(call: Call, db: Connection, name: str, body: Render) -> JSONObject:
    version = await _which(call, db, name, body.label, body.version)
    return {"name": name, "version": version.number, "messages": prompts.render(version, body.values)}


async def _which(
    call: Call, db: Connection, name: str, label: str | None, version: int | None
) -> PromptVersion:
    if label is None and version is None:
        labelled = await prompts.find(db, call.tenant_id, name)
        return labelled or await prompts.get(db, call.tenant_id, name, label="latest")
    return await prompts.get(db, call.tenant_id, name, label=label, version=version)
