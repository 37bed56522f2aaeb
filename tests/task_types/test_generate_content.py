"""From a topic to a published article, through the real executor, with a scripted model behind real HTTP."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from server import embedded
from server.database import Database
from services import content, llm_calls, reviews, task_history, writing
from services.content import Citation, ContentVersion
from services.documents import NewDocument
from services.llm import Provider
from services.llm_calls import LlmCall
from services.reviews import Review
from services.tasks import Task
from tests import engine, knowledge
from tests.content import person
from tests.llm_server import ScriptedModel

TOPIC = "How to make hot compost at home"
PATIENT = replace(engine.QUICK, grace=timedelta(seconds=2))
GUIDE = """# Hot compost at home

## Building the heap

A hot compost heap needs to be at least one cubic metre in size, because smaller heaps lose their heat through the sides faster than
microbes can make it. Alternate layers of green material, such as grass clippings, with brown material, such as straw and dry leaves.
Water each layer until it feels like a wrung-out sponge.

## The right temperature

Within three to five days the centre of the heap should reach 55 to 65 degrees Celsius. At this temperature most weed seeds and plant
diseases are killed. A compost heap that never warms up is usually too dry or lacks nitrogen.

## Turning the heap

Turn the heap every third or fourth day for the first two weeks, moving material from the outside to the middle. Turning lets oxygen in
and prevents the sour smell of decay without air. After about eighteen days the material is dark and crumbly.

## What to leave out

Meat, fish, dairy products and cooked food attract rats and should not go into an open heap. Glossy paper, coal ash and the droppings of
cats and dogs must be kept out of compost as well.

## Using the compost

Finished compost may be spread on beds in a layer of three to five centimetres in early spring. It improves the structure of clay soils
and helps sandy soils to hold water. Earthworms carry it down into the ground within a season.
"""


@dataclass(kw_only=True)
class Desk:
    """A tenant with one document, and everything a test does there."""

    database: Database
    admin: Any
    tenant: UUID
    model: ScriptedModel

    @asynccontextmanager
    async def working(self, provider: Provider | None = None) -> AsyncIterator[None]:
        """Run an executor against the scripted model, or another one."""
        made = provider or Provider(self.model.base_url, "key", self.model.model)
        embedder = knowledge.RememberingEmbedder()
        async with engine.running_executor(self.database, PATIENT, provider=made, embedder=embedder):
            yield
        await made.close()

    async def order(self, **more: Any) -> Task:
        payload = {"topic": TOPIC} | more.pop("payload", {})
        return await engine.enqueue(self.database, self.tenant, "generate_content", payload, **more)

    async def review(self, task: Task, *, seconds: float = 30) -> tuple[Review, ContentVersion]:
        """Wait until the task asks for a decision; return the review and the version it is about."""
        await engine.until(self.database, task, "waiting", seconds=seconds)
        async with self.database.tenant(self.tenant, "user:rita") as db:
            [review] = await reviews.list_reviews(db, self.tenant, state="pending")
            return review, await content.get_version_by_id(db, self.tenant, review.version_id)

    async def decide(self, review: Review, decision: Any, *feedback: str) -> None:
        async with self.database.tenant(self.tenant, "user:rita") as db:
            await reviews.decide(
                db, principal=person(self.tenant), review_id=review.id, decision=decision, reason="read it", feedback=feedback,
                content_hash=review.content_hash, address="127.0.0.1",
            )  # fmt: skip

    async def next_review(
        self, task: Task, before: Review, *, seconds: float = 30
    ) -> tuple[Review, ContentVersion]:
        """Wait for a review other than *before*."""
        async with asyncio.timeout(seconds):
            while True:
                async with self.database.tenant(self.tenant, "user:rita") as db:
                    pending = await reviews.list_reviews(db, self.tenant, state="pending")
                if pending and pending[0].id != before.id:
                    return await self.review(task)
                await asyncio.sleep(0.02)

    async def calls(self, task: Task) -> list[LlmCall]:
        async with self.database.tenant(self.tenant, "user:ada") as db:
            return await llm_calls.list_of_task(db, self.tenant, task.id)

    async def citations(self, version: ContentVersion) -> list[Citation]:
        async with self.database.tenant(self.tenant, "user:ada") as db:
            return await content.list_citations(db, self.tenant, version.id)

    async def numbers(self, content_id: UUID) -> list[int]:
        async with self.database.tenant(self.tenant, "user:ada") as db:
            return [head.number for head in await content.list_versions(db, self.tenant, content_id)]


@pytest.fixture
async def desk(database: Database, admin: Any, tenant: UUID) -> AsyncIterator[Desk]:
    await knowledge.take_in(
        database,
        admin,
        tenant,
        NewDocument(collection="garden", title="Hot compost at home", text=GUIDE, mime="text/markdown"),
    )
    async with ScriptedModel() as model:
        yield Desk(database=database, admin=admin, tenant=tenant, model=model)


async def assert_grounded(desk: Desk, version: ContentVersion) -> None:
    """At least three sections, each with a citation whose quote stands in its chunk; no sentence twice."""
    sections = version.body_md.split("## ")[1:]
    citations = await desk.citations(version)
    texts = {row["id"]: row["text"] for row in await desk.admin.fetch("SELECT id, text FROM chunks")}
    texts_of_sections = [section.partition("\n")[2] for section in sections]
    sentences = [
        writing.strip_markers(each) for text in texts_of_sections for each in writing.split_sentences(text)
    ]
    assert len(sections) >= 3
    assert all("[" in section for section in sections)
    assert citations
    assert all(citation.quote in texts[citation.chunk_id] for citation in citations)
    assert [sentence for sentence, times in Counter(sentences).items() if times > 1] == []


async def test_an_approved_article_is_published_and_the_task_says_where(desk: Desk) -> None:
    async with desk.working():
        task = await desk.order()
        review, version = await desk.review(task)
        await desk.decide(review, "approve")
        task = await engine.ended(desk.database, task)

    assert task.state == "succeeded"
    assert task.result == {
        "content_id": str(version.content_id),
        "version": version.number,
        "decision": "approved",
        "published_url": f"/posts/{version.slug}",
    }
    assert review.due_at is not None
    await assert_grounded(desk, version)


async def test_each_arrow_is_a_step_and_each_step_was_paid_for_once(desk: Desk) -> None:
    async with desk.working():
        task = await desk.order()
        await desk.review(task)

    async with desk.database.tenant(desk.tenant, "user:ada") as db:
        steps = [step.name for step in await task_history.list_steps(db, desk.tenant, task.id)]
    calls = await desk.calls(task)
    asked = [f"draft:r1:{number}" for number in range(1, len(desk.model.asked("draft_section")) + 1)]
    assert steps == [
        "prompts:r1", "retrieve:r1", "outline:r1", "sources:r1", *asked, "checks:r1:0", "critique:r1:0", "submit:r1:0",
    ]  # fmt: skip
    assert [call.step for call in calls] == ["outline:r1", *asked, "critique:r1:0"]
    assert {call.state for call in calls} == {"settled"}
    assert all(call.prompt_version_id for call in calls)
    assert desk.model.count == len(calls)


async def test_the_version_carries_its_model_prompt_sources_scores_and_checks(desk: Desk) -> None:
    async with desk.working():
        _, version = await desk.review(await desk.order())

    assert version.model == "scripted-model"
    assert version.prompt_version_id is not None
    assert version.retrieval["query"] == TOPIC
    assert version.scores["grounding"] == 9
    assert {check["name"] for check in version.checks} >= {
        "quotes",
        "repetition",
        "drafting",
        "wording",
        "critique",
    }
    assert version.author == "user:ada"


async def test_a_rejected_article_ends_the_task(desk: Desk) -> None:
    async with desk.working():
        task = await desk.order()
        review, version = await desk.review(task)
        await desk.decide(review, "reject")
        task = await engine.ended(desk.database, task)

    assert (task.state, task.result["decision"], task.result["published_url"]) == (
        "succeeded",
        "rejected",
        None,
    )
    assert await desk.numbers(version.content_id) == [1]


async def test_six_rounds_of_requested_changes_do_not_exhaust_five_attempts(desk: Desk) -> None:
    async with desk.working():
        task = await desk.order(max_attempts=5)
        review, version = await desk.review(task)
        for number in range(1, 7):
            await desk.decide(
                review, "request_changes", f"Round {number}: say more about earthworms and sandy soils."
            )
            review, version = await desk.next_review(task, review)
        await desk.decide(review, "approve")
        task = await engine.ended(desk.database, task)

    assert (task.state, task.attempt, task.max_attempts) == ("succeeded", 1, 5)
    assert task.result["version"] == version.number == 7
    assert await desk.numbers(version.content_id) == [7, 6, 5, 4, 3, 2, 1]


async def test_feedback_changes_the_next_version_and_is_marked_as_addressed_there(desk: Desk) -> None:
    async with desk.working():
        task = await desk.order()
        review, first = await desk.review(task)
        await desk.decide(
            review,
            "request_changes",
            "Mention what earthworms do.",
            "Please translate it to Latin.",
        )
        _, second = await desk.next_review(task, review)

    async with desk.database.tenant(desk.tenant, "user:ada") as db:
        points = {
            point.text: point for point in await reviews.list_feedback(db, desk.tenant, first.content_id)
        }
    assert second.body_md != first.body_md
    assert points["Mention what earthworms do."].addressed_in_version == second.number
    await assert_grounded(desk, second)


async def test_what_a_reviewer_wants_gone_is_taken_out(desk: Desk) -> None:
    async with desk.working():
        task = await desk.order()
        review, first = await desk.review(task)
        await desk.decide(review, "request_changes", "Remove the part about turning.")
        review, second = await desk.next_review(task, review)

    async with desk.database.tenant(desk.tenant, "user:ada") as db:
        [point] = await reviews.list_feedback(db, desk.tenant, first.content_id)
    assert "Turning" in first.body_md
    assert "urning" not in second.body_md
    assert (point.state, point.addressed_in_version) == ("addressed", second.number)


async def test_what_a_person_edited_before_asking_for_changes_is_what_the_next_round_starts_from(
    desk: Desk,
) -> None:
    async with desk.working():
        task = await desk.order()
        review, version = await desk.review(task)
        author = person(desk.tenant, role="author", name="ada@example.org")
        mine = version.body_md + "\n\n## From the editor\n\nOur readers have asked for this for years."
        async with desk.database.tenant(desk.tenant, author.actor) as db:
            edited = await content.edit(
                db,
                author,
                version.content_id,
                base_version=version.number,
                changes=content.Changes(body_md=mine),
            )
            [review] = await reviews.list_reviews(db, desk.tenant, state="pending")
        await desk.decide(review, "request_changes", "Say more about earthworms.")
        _, third = await desk.next_review(task, review)

    assert edited.number == 2
    assert third.number == 3
    assert "Our readers have asked for this for years." in third.body_md


async def test_a_run_that_fails_in_the_middle_goes_on_where_it_was_without_buying_anything_twice(
    desk: Desk,
) -> None:
    async with desk.working():
        desk.model.set(fault="error", times=1, match='Write the section "The right temperature"')
        task = await desk.order()
        await desk.review(task)

    calls = await desk.calls(task)
    settled = Counter(call.step for call in calls if call.state == "settled")
    unknown = [call.step for call in calls if call.state == "unknown"]
    assert set(settled.values()) == {1}
    assert len(unknown) == 1
    assert settled[unknown[0]] == 1
    assert desk.model.count == len(calls)


async def test_an_answer_that_was_paid_for_before_its_checkpoint_was_written_is_used(desk: Desk) -> None:
    async with desk.working():
        task = await desk.order()
        review, version = await desk.review(task)
        await desk.admin.execute(
            "DELETE FROM task_steps WHERE task_id = $1 AND name = 'critique:r1:0'", task.id
        )
        before = desk.model.count
        await desk.decide(review, "approve")
        task = await engine.ended(desk.database, task)

    assert task.state == "succeeded"
    assert task.result["version"] == version.number
    assert desk.model.count == before


async def test_throttling_postpones_the_task_without_costing_an_attempt(desk: Desk) -> None:
    desk.model.set(fault="throttle", times=2, retry_after=0.2)
    async with desk.working():
        task = await desk.order(max_attempts=1)
        await desk.review(task)
        latest = await engine.get(desk.database, desk.tenant, task.id)

    assert (latest.attempt, latest.snoozes) == (0, 2)
    assert Counter(call.state for call in await desk.calls(task))["unknown"] == 2


async def test_a_cancel_in_the_middle_of_a_draft_closes_the_stream_and_leaves_no_version(desk: Desk) -> None:
    desk.model.set(fault="endless", delay=0.05, match="Write the section ")
    async with desk.working():
        task = await desk.order()
        async with asyncio.timeout(20):
            while not (drafts := desk.model.asked("draft_section")) or not drafts[0].pieces:
                await asyncio.sleep(0.02)
        asked_at = time.time()
        await engine.cancel(desk.database, task)
        async with asyncio.timeout(15):
            while drafts[0].closed_at is None:
                await asyncio.sleep(0.01)
        task = await engine.ended(desk.database, task)

    assert task.state == "cancelled"
    assert drafts[0].closed_at - asked_at < 1.0
    assert await desk.admin.fetchval("SELECT count(*) FROM content_versions") == 0
    assert {call.state for call in await desk.calls(task) if call.step.startswith("draft")} == {"unknown"}


async def test_a_model_that_plans_and_judges_badly_still_leads_to_a_review_that_says_so(desk: Desk) -> None:
    desk.model.set(fault="not_json")
    async with desk.working():
        task = await desk.order()
        review, version = await desk.review(task)

    states = {check["name"]: check["state"] for check in version.checks}
    assert review.state == "pending"
    assert (states["outline"], states["drafting"], states["critique"]) == ("warn", "warn", "warn")
    assert states["quotes"] == states["repetition"] == states["section_citations"] == "pass"
    await assert_grounded(desk, version)


async def test_without_any_source_the_task_fails_with_a_word_of_advice(
    database: Database, admin: Any, tenant: UUID
) -> None:
    async with ScriptedModel() as model:
        desk = Desk(database=database, admin=admin, tenant=tenant, model=model)
        async with desk.working():
            task = await engine.ended(database, await desk.order())

    assert task.state == "failed"
    assert task.error is not None
    assert "add documents first" in task.error["message"]
    assert model.count == 0


async def test_a_refinement_that_makes_it_no_better_is_not_what_people_see(desk: Desk) -> None:
    """The critique finds fault for ever: after max_rounds the best text is under review, and each text is kept."""
    desk.model.answer = _fault_finder(desk.model.answer)
    async with desk.working():
        task = await desk.order(payload={"max_rounds": 2})
        review, version = await desk.review(task)

    numbers = await desk.numbers(version.content_id)
    assert review.version == version.number == numbers[0]
    assert numbers == list(range(numbers[0], 0, -1))
    assert len(desk.model.asked("critique")) <= 3
    await assert_grounded(desk, version)


def _fault_finder(answer: Any) -> Any:
    def find(messages: Any, body: Any) -> str:
        text: str = answer(messages, body)
        if '"verdict": "pass"' not in text:
            return text
        article = messages[-1]["content"].partition("\n\n")[2]
        quote = writing.split_sentences(article)[0][:60]
        return text.replace('"verdict": "pass"', '"verdict": "revise"').replace(
            '"issues": []', f'"issues": [{{"quote": "{quote}", "problem": "too plain"}}]'
        )

    return find


@pytest.mark.model
@pytest.mark.timeout(900)
async def test_the_embedded_model_writes_an_article_that_a_person_can_review(
    desk: Desk, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(embedded.model(tmp_path))
        provider = Provider(running.base_url, running.api_key, running.model, concurrency=4, embedded=True)
        async with desk.working(provider):
            task = await desk.order()
            review, version = await desk.review(task, seconds=300)
            await desk.decide(review, "request_changes", "Say more about earthworms.")
            _, second = await desk.next_review(task, review, seconds=300)

    await assert_grounded(desk, version)
    await assert_grounded(desk, second)
    assert "arthworms" in second.body_md
    assert {check["name"] for check in version.checks if check["state"] != "pass"} >= {"model"}
