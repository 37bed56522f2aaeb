"""Prompts: immutable numbered versions with declared variables, and labels that say which version is in use.

A template holds `{{name}}` for a declared variable and nothing else: no expressions, no loops. Values are put in as they are,
in one pass, so whatever a value contains is text and never evaluated.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self
from uuid import UUID

import asyncpg

from services.errors import Fault, Invalid, NotFound
from sql import SQL, Connection

log = logging.getLogger(__name__)

PRODUCTION = "production"
VariableType = Literal["string", "integer", "number", "boolean", "list"]
TYPES: dict[str, str] = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false", "list": "a list of texts",
}  # fmt: skip

_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,99}")
_LABEL = re.compile(r"[a-z0-9][a-z0-9_.-]{0,35}")
_VARIABLE = re.compile(r"[a-z][a-z0-9_]{0,49}")
PLACE = re.compile(r"\{\{([^{}\n]*)\}\}")
DEFAULTS = Path(__file__).parent / "default_prompts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A value that a template needs. Without a default it must be given."""

    name: str
    type: VariableType = "string"
    default: Any = None
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A name, its newest number and what its labels point at."""

    id: UUID
    name: str
    latest_number: int
    labels: dict[str, int]
    created_by: str
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        return cls(
            id=row["id"],
            name=row["name"],
            latest_number=row["latest_number"],
            labels=row["labels"],
            created_by=row["created_by"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptVersion:
    """One immutable text with its variables, model settings and the JSON schema of the answer it asks for."""

    id: UUID
    prompt_id: UUID
    name: str
    number: int
    system: str
    template: str
    variables: tuple[Variable, ...]
    settings: dict[str, Any]
    output_schema: dict[str, Any] | None
    note: str
    content_hash: str
    labels: tuple[str, ...]
    created_by: str
    created_at: datetime

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        return cls(
            id=row["id"],
            prompt_id=row["prompt_id"],
            name=row["name"],
            number=row["number"],
            system=row["system"],
            template=row["template"],
            variables=tuple(Variable(**variable) for variable in row["variables"]),
            settings=row["settings"],
            output_schema=row["output_schema"],
            note=row["note"],
            content_hash=row["content_hash"],
            labels=tuple(row["labels"]),
            created_by=row["created_by"],
            created_at=row["created_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelEvent:
    """A label was set or moved: by whom, when and why. `from_number` is None the first time."""

    label: str
    from_number: int | None
    to_number: int
    actor: str
    reason: str
    at: datetime

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        return cls(
            label=row["label"],
            from_number=row["from_number"],
            to_number=row["to_number"],
            actor=row["actor"],
            reason=row["reason"],
            at=row["at"],
        )


async def add_version(
    db: Connection,
    *,
    tenant_id: UUID,
    name: str,
    template: str,
    actor: str,
    system: str = "",
    variables: Sequence[Variable] = (),
    settings: Mapping[str, Any] | None = None,
    output_schema: Mapping[str, Any] | None = None,
    note: str = "",
) -> PromptVersion:
    """Add the next version of prompt *name*, which is made where it is new. The same text again is no new version: the
    newest one is returned. Raises: Invalid.
    """
    _check(name, system, template, variables)
    parts = {
        "system": system,
        "template": template,
        "variables": [asdict(variable) for variable in variables],
        "settings": dict(settings or {}),
        "output_schema": None if output_schema is None else dict(output_schema),
    }
    digest = hashlib.sha256(_canonical(parts).encode()).hexdigest()
    await db.execute(SQL["prompts.ensure"], tenant_id, name, actor)
    prompt = await db.fetchrow(SQL["prompts.lock"], tenant_id, name)
    assert prompt is not None
    if prompt["latest_number"]:
        newest = await get(db, tenant_id, name, version=prompt["latest_number"])
        if newest.content_hash == digest:
            return newest
    number = await db.fetchval(
        SQL["prompts.insert_version"], tenant_id, prompt["id"], *parts.values(), note, digest, actor
    )
    log.info("prompt version was added", extra={"prompt": name, "version": number, "actor": actor})
    return await get(db, tenant_id, name, version=number)


async def get(
    db: Connection, tenant_id: UUID, name: str, *, label: str | None = PRODUCTION, version: int | None = None
) -> PromptVersion:
    """Return the version with this number, else the one *label* points at; `latest` is the highest. Raises: NotFound."""
    found = await find(db, tenant_id, name, label=label, version=version)
    if found is None:
        which = f"version {version}" if version is not None else f"version labelled {label}"
        raise NotFound(f"prompt {name} has no {which}")
    return found


async def find(
    db: Connection, tenant_id: UUID, name: str, *, label: str | None = PRODUCTION, version: int | None = None
) -> PromptVersion | None:
    """Like `get`, but None where there is no such version."""
    row = await db.fetchrow(SQL["prompts.get_version"], tenant_id, name, label, version)
    return PromptVersion.from_row(row) if row else None


async def find_name(db: Connection, tenant_id: UUID, version_id: UUID) -> tuple[str, int] | None:
    """Return the name of the prompt and the number that a version id belongs to."""
    row = await db.fetchrow(SQL["prompts.find_name"], tenant_id, version_id)
    return (row["name"], row["number"]) if row else None


async def list_prompts(
    db: Connection, tenant_id: UUID, *, after: str | None = None, limit: int = 50
) -> list[Prompt]:
    """Return prompts by name, those after *after*."""
    return [Prompt.from_row(row) for row in await db.fetch(SQL["prompts.list"], tenant_id, after, limit)]


async def list_versions(
    db: Connection, tenant_id: UUID, name: str, *, below: int | None = None, limit: int = 50
) -> list[PromptVersion]:
    """Return the versions of a prompt, newest first, those numbered below *below*."""
    return [
        PromptVersion.from_row(row)
        for row in await db.fetch(SQL["prompts.list_versions"], tenant_id, name, below, limit)
    ]


async def list_label_events(
    db: Connection, tenant_id: UUID, name: str, *, limit: int = 50
) -> list[LabelEvent]:
    """Return how the labels of a prompt were moved, newest first."""
    return [
        LabelEvent.from_row(row)
        for row in await db.fetch(SQL["prompts.list_label_events"], tenant_id, name, limit)
    ]


async def set_label(
    db: Connection, *, tenant_id: UUID, name: str, label: str, version: int, actor: str, reason: str = ""
) -> PromptVersion:
    """Point *label* at a version and record the move; pointing it where it points already records nothing.

    Rolling back is this call with an older number. Raises: NotFound, Invalid.
    """
    if not _LABEL.fullmatch(label) or label == "latest":
        message = "is always the newest version" if label == "latest" else f"must match {_LABEL.pattern}"
        raise Invalid(f"label {label!r} {message}", faults=(Fault("/label", message),))
    prompt = await db.fetchrow(SQL["prompts.lock"], tenant_id, name)
    if prompt is None or not 0 < version <= prompt["latest_number"]:
        raise NotFound(f"prompt {name} has no version {version}")
    moved = await db.fetchval(
        SQL["prompts.set_label"], tenant_id, prompt["id"], label, version, actor, reason
    )
    if moved:
        log.info(
            "prompt label was moved",
            extra={"prompt": name, "label": label, "version": version, "actor": actor},
        )
    return await get(db, tenant_id, name, version=version)


def render(version: PromptVersion, values: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the messages for a model: the system text where there is one, then the filled template.

    Raises: Invalid, naming each variable that is missing, unknown or of another type.
    """
    texts, faults = {}, []
    for variable in version.variables:
        value = values.get(variable.name, variable.default)
        if value is None:
            faults.append(Fault(f"/values/{variable.name}", "is missing"))
        elif not _fits(value, variable.type):
            faults.append(Fault(f"/values/{variable.name}", f"must be {TYPES[variable.type]}"))
        else:
            texts[variable.name] = _as_text(value)
    declared = {variable.name for variable in version.variables}
    faults += [
        Fault(f"/values/{_pointer(name)}", "is not a variable of this prompt")
        for name in values
        if name not in declared
    ]
    if faults:
        told = "; ".join(f"{fault.pointer.rpartition('/')[2]} {fault.message}" for fault in faults)
        raise Invalid(f"prompt {version.name} version {version.number}: {told}", faults=tuple(faults))
    messages = [("system", version.system), ("user", version.template)]
    return [{"role": role, "content": _fill(text, texts)} for role, text in messages if text]


async def install_defaults(db: Connection, *, tenant_id: UUID, actor: str) -> list[str]:
    """Give a tenant the prompts that Galley comes with, labelled production. Those it has already are left alone.

    Returns the names that were new.
    """
    installed = []
    for path in sorted(DEFAULTS.glob("*.md")):
        if await find(db, tenant_id, path.stem, label="latest") is None:
            parts = parse_default(path.read_text(encoding="utf-8"))
            version = await add_version(db, tenant_id=tenant_id, name=path.stem, actor=actor, **parts)
            await set_label(
                db, tenant_id=tenant_id, name=path.stem, label=PRODUCTION, version=version.number, actor=actor,
                reason="came with Galley",
            )  # fmt: skip
            installed.append(path.stem)
    return installed


def parse_default(text: str) -> dict[str, Any]:
    """Read a file of default_prompts/: TOML between two lines of `+++`, then the template. `output_schema` is JSON in a
    string. Returns keyword arguments for `add_version`.
    """
    _, front, template = text.split("+++\n", 2)
    head = tomllib.loads(front)
    return {
        "system": head.get("system", "").strip(),
        "template": template.strip(),
        "variables": parse_variables(head.get("variables", [])),
        "settings": head.get("settings", {}),
        "output_schema": json.loads(head["output_schema"]) if "output_schema" in head else None,
        "note": head.get("note", ""),
    }


def parse_variables(declared: Sequence[Mapping[str, Any]]) -> tuple[Variable, ...]:
    """Read declarations such as `{"name": "topic", "type": "string", "default": "", "description": "…"}`. Raises: Invalid."""
    known = {"name", "type", "default", "description"}
    faults = [
        Fault(f"/variables/{index}/{_pointer(key)}", "is not known here")
        for index, variable in enumerate(declared)
        for key in variable
        if key not in known
    ]
    faults += [
        Fault(f"/variables/{i}/name", "is missing")
        for i, variable in enumerate(declared)
        if "name" not in variable
    ]
    if faults:
        raise Invalid("the variables are not declared correctly", faults=tuple(faults))
    return tuple(Variable(**variable) for variable in declared)


def _check(name: str, system: str, template: str, variables: Sequence[Variable]) -> None:
    faults = [] if _NAME.fullmatch(name) else [Fault("/name", f"must match {_NAME.pattern}")]
    if not template.strip():
        faults.append(Fault("/template", "is empty"))
    names = [variable.name for variable in variables]
    for index, variable in enumerate(variables):
        faults += [Fault(f"/variables/{index}/{field}", message) for field, message in _faults_of(variable)]
        if variable.name in names[:index]:
            faults.append(Fault(f"/variables/{index}/name", f"{variable.name} is declared twice"))
    for field, text in (("system", system), ("template", template)):
        for place in PLACE.findall(text):
            if place.strip() not in names:
                faults.append(Fault(f"/{field}", f"{{{{{place}}}}} is not a declared variable"))
    if faults:
        raise Invalid(
            "; ".join(f"{fault.pointer[1:]}: {fault.message}" for fault in faults), faults=tuple(faults)
        )


def _faults_of(variable: Variable) -> list[tuple[str, str]]:
    faults = []
    if not isinstance(variable.name, str) or not _VARIABLE.fullmatch(variable.name):
        faults.append(("name", f"must match {_VARIABLE.pattern}"))
    if variable.type not in TYPES:
        faults.append(("type", f"must be one of {', '.join(TYPES)}"))
    elif variable.default is not None and not _fits(variable.default, variable.type):
        faults.append(("default", f"must be {TYPES[variable.type]}"))
    return faults


def _fits(value: object, kind: VariableType) -> bool:
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    if kind == "list":
        return isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value)
    if kind == "string":
        return isinstance(value, str)
    if kind == "integer":
        return isinstance(value, int)
    return isinstance(value, int | float) and math.isfinite(value)


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "\n".join(f"- {entry}" for entry in value)
    return str(value)


def _fill(text: str, values: Mapping[str, str]) -> str:
    return PLACE.sub(lambda place: values[place[1].strip()], text)


def _pointer(key: object) -> str:
    """A key as part of a JSON pointer (RFC 6901)."""
    return str(key).replace("~", "~0").replace("/", "~1")


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
