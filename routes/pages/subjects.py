"""What tasks are about, in words: a type and an id tell nobody which of ten alike tasks is meant."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from services import documents
from services.task_context import Connection
from services.tasks import Task

_NAMES = ("topic", "title", "name", "subject", "query", "url")
_LONGEST = 120


async def read(db: Connection, tenant_id: UUID, shown: Sequence[Task]) -> dict[UUID, str]:
    """Return the subject of each task that has one: a text of its payload, or the title of the document it is about."""
    cited = {task.id: _document(task) for task in shown}
    wanted = [document_id for document_id in cited.values() if document_id]
    titles = await documents.find_titles(db, tenant_id, wanted) if wanted else {}
    found = {task.id: _own_words(task) or titles.get(cited[task.id] or task.id, "") for task in shown}
    return {task_id: subject for task_id, subject in found.items() if subject}


def _own_words(task: Task) -> str:
    for name in _NAMES:
        value = task.payload.get(name)
        if isinstance(value, str) and value.strip():
            text = " ".join(value.split())
            return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return ""


def _document(task: Task) -> UUID | None:
    try:
        return UUID(str(task.payload["document_id"]))
    except (KeyError, ValueError):
        return None
