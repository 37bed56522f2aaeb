"""What a running task writes while it works, for programs."""

from __future__ import annotations

from uuid import UUID

from aiohttp import web
from pydantic import Field

from routes.api.kernel import Call, JSONObject, View, operation
from routes.api.shapes import Query, QueryInt
from services import task_history, tasks
from services.task_context import Connection

routes = web.RouteTableDef()

MOST = 2_147_483_647


class OutputQuery(Query):
    """From where on to read."""

    fence: QueryInt | None = Field(
        default=None, ge=0, le=MOST, description="The run whose text it is; left out, the latest."
    )
    after: QueryInt = Field(
        default=0, ge=0, le=MOST, description="The `after` of the answer before, of the same run."
    )


class OutputView(View):
    """Live text of one run."""

    fence: int = Field(description="The run whose text it is. When it changes, begin again with `after` 0.")
    text: str
    after: int = Field(description="Send it to read only what comes later.")
    progress: JSONObject | None = Field(description="`fraction` of 1, and `text`.")


@operation(
    routes,
    "GET",
    "/api/v1/tasks/{task_id}/output",
    name="tasks.read_output",
    summary="Read what a task writes while it runs",
    description="Any process answers, whichever runs the task. Text is written at least every 250 ms while there is some; it is "
    "cleared away some time after the task has ended, for then its result says it all.",
    role="viewer",
    answer=OutputView,
)
async def read(call: Call, db: Connection, task_id: UUID, query: OutputQuery) -> JSONObject:
    task = await tasks.get(db, call.tenant_id, task_id)
    fence = task.fence if query.fence is None else query.fence
    text, after = await task_history.read_output(db, call.tenant_id, task_id, fence, after=query.after)
    return {"fence": fence, "text": text, "after": after, "progress": task.progress}
