from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.database import Database
from services import prompts
from services.errors import Invalid, NotFound
from services.prompts import PromptVersion, Variable
from sql import Connection
from tests.patience import patiently

ACTOR = "user:ada@example.org"


async def add(
    db: Connection, tenant: UUID, template: str = "Write about {{topic}}.", **more: Any
) -> PromptVersion:
    values: dict[str, Any] = {"name": "outline", "variables": [Variable(name="topic")], "actor": ACTOR} | more
    return await prompts.add_version(db, tenant_id=tenant, template=template, **values)


async def label(
    db: Connection, tenant: UUID, version: int, name: str = "production", **more: Any
) -> PromptVersion:
    return await prompts.set_label(
        db, tenant_id=tenant, name="outline", label=name, version=version, actor=ACTOR, **more
    )


def rendered(
    template: str, values: dict[str, Any], *variables: Variable, system: str = ""
) -> list[dict[str, str]]:
    version: Any = PromptVersion.__new__(PromptVersion)
    for name, value in {
        "name": "p",
        "number": 1,
        "system": system,
        "template": template,
        "variables": variables,
    }.items():
        object.__setattr__(version, name, value)
    return prompts.render(version, values)


async def test_versions_are_numbered_from_one_and_never_change(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        first = await add(
            db, tenant, system="Be brief.", settings={"temperature": 0.2}, output_schema={"type": "object"}
        )
        second = await add(db, tenant, "Write more about {{topic}}.", note="longer")

        assert (first.number, second.number) == (1, 2)
        assert await prompts.get(db, tenant, "outline", version=1) == first
        assert [version.number for version in await prompts.list_versions(db, tenant, "outline")] == [2, 1]
    async with database.tenant(tenant, ACTOR) as db:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await db.execute("UPDATE prompt_versions SET note = 'x'")


async def test_not_even_a_superuser_changes_a_version_by_mistake(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        await add(db, tenant)

    for statement in (
        "UPDATE prompt_versions SET note = 'x'",
        "DELETE FROM prompt_versions",
        "TRUNCATE prompt_versions CASCADE",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await admin.execute(statement)


async def test_the_same_text_again_is_no_new_version(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        first = await add(db, tenant, settings={"a": 1, "b": 2})

        assert await add(db, tenant, settings={"b": 2, "a": 1}, note="other note") == first
        assert (await add(db, tenant, "Other {{topic}}")).number == 2
        assert (await add(db, tenant, settings={"a": 1, "b": 2})).number == 3, (
            "an older text is a new version"
        )


async def test_numbers_have_no_gaps_when_many_write_at_once(database: Database, tenant: UUID) -> None:
    async def write(number: int) -> None:
        async with database.tenant(tenant, ACTOR) as db:
            await add(db, tenant, f"Write {number} about {{{{topic}}}}")

    await asyncio.gather(*(patiently(lambda n=number: write(n)) for number in range(15)))

    async with database.tenant(tenant, ACTOR) as db:
        numbers = [version.number for version in await prompts.list_versions(db, tenant, "outline")]
    assert numbers == list(range(15, 0, -1))


async def test_a_label_points_at_a_version_and_its_moves_are_kept(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        await add(db, tenant)
        await add(db, tenant, "Two {{topic}}")
        await label(db, tenant, 1, reason="first")
        await label(db, tenant, 2, reason="better")
        await label(db, tenant, 2, reason="again")
        await label(db, tenant, 1, reason="worse after all")

        assert (await prompts.get(db, tenant, "outline")).number == 1
        assert (await prompts.get(db, tenant, "outline", label="latest")).number == 2
        events = await prompts.list_label_events(db, tenant, "outline")
    assert [(event.from_number, event.to_number, event.reason) for event in events] == [
        (2, 1, "worse after all"),
        (1, 2, "better"),
        (None, 1, "first"),
    ]


async def test_a_label_points_at_versions_that_exist_only(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        await add(db, tenant)

        for missing in (0, 2):
            with pytest.raises(NotFound):
                await label(db, tenant, missing)
        for name in ("latest", "Production", "", "a" * 37, "a b"):
            with pytest.raises(Invalid):
                await label(db, tenant, 1, name)
        with pytest.raises(NotFound, match="labelled production"):
            await prompts.get(db, tenant, "outline")


async def test_another_tenant_has_its_own_prompts(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        await add(db, tenant)

    async with database.tenant(other_tenant, ACTOR) as db:
        assert await prompts.list_prompts(db, other_tenant) == []
        assert await prompts.list_prompts(db, tenant) == []
        assert (await add(db, other_tenant, "Mine {{topic}}")).number == 1


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"name": "Outline"}, "/name"),
        ({"template": "  "}, "/template"),
        ({"template": "{{other}}"}, "/template"),
        ({"template": "{{topic.title}}"}, "/template"),
        ({"template": "{{}}"}, "/template"),
        ({"system": "You know {{secret}}"}, "/system"),
        ({"variables": [Variable(name="topic"), Variable(name="topic")]}, "/variables/1/name"),
        ({"variables": [Variable(name="1topic")], "template": "x"}, "/variables/0/name"),
        ({"variables": [Variable(name="topic", type="blob")]}, "/variables/0/type"),  # type: ignore[arg-type]
        ({"variables": [Variable(name="topic", type="integer", default="7")]}, "/variables/0/default"),
    ],
)
async def test_a_prompt_that_could_not_be_rendered_is_refused(
    database: Database, tenant: UUID, more: dict[str, Any], pointer: str
) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        with pytest.raises(Invalid) as caught:
            await add(db, tenant, **more)
        assert [fault.pointer for fault in caught.value.faults] == [pointer]
        assert await prompts.list_prompts(db, tenant) == []


def test_values_are_text_and_never_evaluated() -> None:
    hostile = "{{topic}} {{other}} {0.__class__} %s ${x} {% for a in b %} \\1 \\g<0>"

    assert (
        rendered("A {{ topic }} B {{topic}}", {"topic": hostile}, Variable(name="topic"))[0]["content"]
        == f"A {hostile} B {hostile}"
    )


@given(st.text(), st.text())
def test_whatever_the_values_are_they_stand_in_the_text_as_they_are(one: str, other: str) -> None:
    messages = rendered("<{{a}}|{{b}}>", {"a": one, "b": other}, Variable(name="a"), Variable(name="b"))

    assert messages == [{"role": "user", "content": f"<{one}|{other}>"}]


def test_a_missing_value_is_an_error_that_names_it_and_never_the_word_none() -> None:
    for values in ({}, {"topic": None}):
        with pytest.raises(Invalid, match="topic is missing") as caught:
            rendered("About {{topic}}", values, Variable(name="topic"))
        assert [fault.pointer for fault in caught.value.faults] == ["/values/topic"]


def test_a_default_stands_in_for_a_missing_value() -> None:
    assert rendered(
        "{{a}}{{b}}", {}, Variable(name="a", default=""), Variable(name="b", type="integer", default=0)
    ) == [{"role": "user", "content": "0"}]


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(Invalid, match="tpoic is not a variable of this prompt"):
        rendered("{{topic}}", {"topic": "x", "tpoic": "y"}, Variable(name="topic"))


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("string", "x", "x"), ("integer", 7, "7"), ("number", 0.5, "0.5"), ("boolean", True, "true"),
        ("list", ["a", "b"], "- a\n- b"), ("list", [], ""),
        ("string", 7, None), ("integer", True, None), ("integer", "7", None), ("number", float("inf"), None), ("boolean", 1, None), ("list", "ab", None),
        ("list", [1], None),
    ],
)  # fmt: skip
def test_values_must_have_the_declared_type(kind: Any, value: Any, text: str | None) -> None:
    variable = Variable(name="v", type=kind)
    if text is None:
        with pytest.raises(Invalid, match="must be"):
            rendered("{{v}}", {"v": value}, variable)
    else:
        assert rendered("{{v}}", {"v": value}, variable)[0]["content"] == text


def test_a_system_text_comes_first_and_is_filled_too() -> None:
    messages = rendered("T {{a}}", {"a": "1"}, Variable(name="a"), system="S {{a}}")

    assert messages == [{"role": "system", "content": "S 1"}, {"role": "user", "content": "T 1"}]


async def test_the_default_prompts_are_installed_once_and_labelled(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        installed = await prompts.install_defaults(db, tenant_id=tenant, actor="galley")
        assert {"outline", "draft_section", "critique", "refine_section"} <= set(installed)
        for name in installed:
            version = await prompts.get(db, tenant, name)
            assert (version.number, version.labels, version.created_by) == (1, ("production",), "galley")

        mine = await add(db, tenant)
        await label(db, tenant, mine.number)
        assert await prompts.install_defaults(db, tenant_id=tenant, actor="galley") == []
        assert (await prompts.get(db, tenant, "outline")).number == mine.number, (
            "what people chose is left alone"
        )


def test_default_prompts_ask_for_their_values() -> None:
    for path in sorted(prompts.DEFAULTS.glob("*.md")):
        parts = prompts.parse_default(path.read_text(encoding="utf-8"))
        used = {
            place.strip()
            for text in (parts["system"], parts["template"])
            for place in prompts.PLACE.findall(text)
        }
        assert used == {variable.name for variable in parts["variables"]}, path.name


def test_declarations_are_read_strictly() -> None:
    assert prompts.parse_variables([{"name": "a", "type": "list", "default": ["x"]}]) == (
        Variable(name="a", type="list", default=["x"]),
    )
    with pytest.raises(Invalid) as caught:
        prompts.parse_variables([{"name": "a", "required": True}, {"type": "string"}])
    assert [fault.pointer for fault in caught.value.faults] == ["/variables/0/required", "/variables/1/name"]


async def test_prompts_are_listed_by_name_page_by_page(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        for name in ("c", "a", "b"):
            await add(db, tenant, name=name)
        await prompts.set_label(db, tenant_id=tenant, name="b", label="staging", version=1, actor=ACTOR)

        assert [prompt.name for prompt in await prompts.list_prompts(db, tenant, limit=2)] == ["a", "b"]
        rest = await prompts.list_prompts(db, tenant, after="a")
        assert [(prompt.name, prompt.labels, prompt.latest_number) for prompt in rest] == [
            ("b", {"staging": 1}, 1),
            ("c", {}, 1),
        ]
        assert await prompts.find(db, tenant, "nothing") is None
        with pytest.raises(NotFound):
            await prompts.get(db, uuid4(), "a", label="latest")
