"""From a topic to a published article: retrieve → outline → draft → checks → critique → refine → review → publish.

Each arrow is a step, and each text an immutable version. A review that asks for changes begins another round, as often as it
takes: the round starts from the text that was decided about, rewrites what the points are about, and shows which of them it
meets. What is asked of models and how their answers are held to the sources is in services/authoring.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from services import articles, authoring, checks, content, critiques, judgement, outlines, reviews
from services.articles import Article
from services.authoring import Author, Drafted, Job, Pool
from services.grounding import Passage
from services.judgement import Judged, Start
from services.task_context import Connection, Signal, TaskContext
from services.task_types import Permanent, TaskType

REVIEW_TIME = timedelta(days=7)
LANGUAGE = "en"
RELEVANT = 0.22  # a passage whose cosine distance is this much above the best one's is about something else

_Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]


class Payload(BaseModel):
    """What to write about, from which collections (none: all), with which wishes, and how often to refine before a person looks."""

    model_config = ConfigDict(extra="forbid")

    topic: Annotated[_Text, Field(min_length=3, max_length=500)]
    collections: Annotated[
        list[Annotated[_Text, Field(min_length=1, max_length=200)]], Field(max_length=50)
    ] = []
    instructions: Annotated[_Text, Field(max_length=4000)] = ""
    max_rounds: Annotated[int, Field(ge=0, le=10)] = 3


async def run(task: TaskContext, payload: Payload) -> dict[str, Any]:
    """Write, and rewrite until somebody has decided."""
    job = Job(
        topic=payload.topic.strip(), collections=tuple(payload.collections), instructions=payload.instructions
    )
    pool = Pool()
    signal: Signal | None = None
    cites: bool | None = None
    for number in count(1):
        author = Author(task, job, pool, number=number, cites=cites)
        await author.pin_prompts()
        start = await _first_draft(author) if signal is None else await _next_draft(author, signal)
        version = await _polish(author, start, max_rounds=payload.max_rounds)
        cites = author.cites
        await task.progress(0.95, f"version {version['number']} waits for a review")
        signal = await task.wait_for(f"review:{version['version_id']}", timeout=REVIEW_TIME)
        if signal.expired:
            raise Permanent(
                f"nobody decided about version {version['number']} within {REVIEW_TIME.days} days"
            )
        if signal.data["decision"] != "request_changes":
            break
    assert signal is not None
    return await task.step("publish", lambda: _read_outcome(signal))  # type: ignore[no-any-return]


async def _read_outcome(signal: Signal) -> dict[str, Any]:
    """The decision has published already, in its own transaction: this only says so."""
    data = signal.data
    return {
        "content_id": data["content_id"],
        "version": data["version"],
        "decision": {"approve": "approved", "reject": "rejected"}[data["decision"]],
        "published_url": data.get("published_url"),
    }


async def _first_draft(author: Author) -> Start:
    """Retrieve, plan, and write section by section."""
    task, job = author.task, author.job
    await task.progress(0.05, "searching the sources")
    [hits] = await author.search(f"retrieve:{author.round}", [job.topic], hits=authoring.TOPIC_HITS)
    passages = author.pool.add(_relevant(hits))
    if not passages:
        where = ", ".join(job.collections) or "any collection"
        raise Permanent(f"no passage in {where} is about this topic: add documents first")
    await task.progress(0.1, "planning")
    outline = await author.outline(passages)
    sections = await author.find_sources(outline)
    drafted: list[Drafted] = []
    before: list[str] = []
    for index, (planned, found) in enumerate(zip(outline.sections, sections, strict=True)):
        await task.progress(
            0.2 + 0.5 * index / len(sections),
            f"writing section {index + 1} of {len(sections)}: {planned.heading}",
        )
        each = await author.draft(f"draft:{author.round}:{index + 1}", planned, outline, found, before=before)
        before += each.section.said
        drafted.append(each)
    written = [each for each in drafted if each.section.body]
    if not written:
        raise Permanent("the sources hold no sentence that could be quoted: nothing can be written from them")
    article = Article(
        title=outline.title,
        summary=outline.summary or outlines.contents(each.section.heading for each in written),
        tags=outline.tags,
        sections=tuple(each.section for each in written),
    )
    return Start(
        article=article, notes=judgement.notes(author, outline, drafted, passages), note="first draft"
    )


def _relevant(hits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop the hits that only fill the list: far from the best one in meaning and without a word of the query."""
    distances = [hit["reasons"]["vector"]["distance"] for hit in hits if hit["reasons"].get("vector")]
    limit = min(distances, default=0.0) + RELEVANT
    return [
        hit
        for hit in hits
        if not hit["reasons"].get("vector") or hit["reasons"]["vector"]["distance"] <= limit
    ]


async def _next_draft(author: Author, signal: Signal) -> Start:
    """Begin from the text that was decided about, edits of people included, and rewrite what the points are about."""
    task = author.task
    await task.progress(0.1, "reading the feedback")
    basis = await task.step(f"feedback:{author.round}", lambda: _read_feedback(task, signal))
    old = article = Article.from_json(basis["article"])
    points = tuple((point["id"], point["text"]) for point in basis["points"])
    for _, text in points:
        if critiques.asks_removal(text):
            article = articles.remove(article, partial(critiques.speaks_of, point=text))
    about = await _find_passages(author, [text for _, text in points])
    new = len(article.sections)
    asked: dict[int, list[int]] = {}  # which points each section is to meet, a new one included
    for at, (_, text) in enumerate(points):
        gone = critiques.asks_removal(text) and article != old
        for index in [] if gone else critiques.locate(text, article) or [new if about[at] else new - 1]:
            asked.setdefault(index, []).append(at)
    for done, (index, ats) in enumerate(sorted(asked.items())):
        await task.progress(
            0.2 + 0.5 * done / len(asked), f"rewriting for {len(ats)} of {len(points)} points"
        )
        wanted = [points[at][1] for at in ats]
        found = [passage for at in ats for passage in about[at]]
        article = await _rewrite(author, article, index, wanted, found)
    if old.summary == outlines.contents(each.heading for each in old.sections):
        article = replace(article, summary=outlines.contents(each.heading for each in article.sections))
    kept = {each.heading for each in article.sections}
    wrote = [each.heading or "the beginning" for each in article.sections if each not in old.sections]
    lost = [each.heading for each in old.sections if each.heading not in kept]
    did = "; ".join(
        f"{verb} {', '.join(which)}" for verb, which in (("wrote", wrote), ("took out", lost)) if which
    )
    return Start(
        article=article, notes=(), note=f"after version {basis['number']}: {did or 'no section could be changed'}"[:2000], content_id=UUID(basis["content_id"]), old=old,
        points=points,
    )  # fmt: skip


async def _find_passages(author: Author, points: Sequence[str]) -> list[list[Passage]]:
    """Return what the sources say about the matter of each point; nothing for one that names none or that they do not speak of."""
    if not points:
        return []
    found = await author.search(f"retrieve:{author.round}", points, hits=authoring.POINT_HITS)
    passages = [author.pool.add(_relevant(hits)) for hits in found]
    return [
        sorted(
            (each for each in about if critiques.speaks_of(f"{each.heading} {each.text}", point)),
            key=lambda each: -critiques.closeness(each.heading, each.text, point),
        )
        for about, point in zip(passages, points, strict=True)
    ]


async def _rewrite(
    author: Author, article: Article, index: int, points: Sequence[str], found: Sequence[Passage]
) -> Article:
    """Return the article with the section at *index* rewritten, or with a new section behind the last."""
    if index < len(article.sections):
        section = await author.refine(f"draft:{author.round}:{index + 1}", article, index, points, found)
        return article.with_section(index, section)
    new = await author.add_section(f"draft:{author.round}:{index + 1}", article, points, found)
    return article if new is None else replace(article, sections=(*article.sections, new))


async def _read_feedback(task: TaskContext, signal: Signal) -> dict[str, Any]:
    async with task.database.tenant(task.tenant_id, task.actor) as db:
        version = await content.get_version(
            db, task.tenant_id, UUID(signal.data["content_id"]), signal.data["version"]
        )
        citations = await content.list_citations(db, task.tenant_id, version.id)
        points = await reviews.list_open_feedback(db, task.tenant_id, version.content_id)
    article = articles.take_apart(
        title=version.title,
        summary=version.summary,
        tags=version.tags,
        body_md=version.body_md,
        citations=citations,
    )
    return {
        "content_id": str(version.content_id),
        "number": version.number,
        "article": article.as_json(),
        "points": [{"id": str(point.id), "text": point.text} for point in points],
    }


async def _polish(author: Author, start: Start, *, max_rounds: int) -> dict[str, Any]:
    """Judge the draft, refine it while that helps, submit every text, and ask for the review of the last one."""
    task = author.task
    best = judged = await judgement.judge(author, start, start.article, 0, note=start.note)
    article = judged.article
    content_id = start.content_id
    for turn in count():
        texts, final = [judged], turn >= max_rounds or critiques.passes(judged.critique, judged.score)
        if turn > 0 and judged.worth <= best.worth:  # nothing improves
            final = True
            if judged.worth < best.worth:
                texts.append(replace(best, kind="restore", note="the text before it was better"))
        best = judged
        targets = {} if final else judgement.targets(judged)
        name = f"submit:{author.round}:{turn}"
        version = await _submit(author, start, texts, content_id, name=name, review=final or not targets)
        if final or not targets:
            return version
        content_id = UUID(version["content_id"])
        article = judged.article
        for done, (index, points) in enumerate(sorted(targets.items())):
            await task.progress(
                0.75 + 0.15 * done / len(targets), f"refining section {index + 1}, round {turn + 1}"
            )
            found = author.pool.cited_by(article.sections[index])
            section = await author.refine(
                f"refine:{author.round}:{turn + 1}:{index + 1}", article, index, points, found
            )
            article = article.with_section(index, section)
        if article == judged.article:  # nothing could be changed
            return await _ask_for_review(author, start, judged, version)
        note = f"refined {len(targets)} of {len(article.sections)} sections"
        judged = await judgement.judge(author, start, article, turn + 1, note=note)
    raise AssertionError("the loop above ends by returning")


async def _submit(
    author: Author, start: Start, texts: Sequence[Judged], content_id: UUID | None, *, name: str, review: bool
) -> dict[str, Any]:
    """Add the versions and, where *review*, ask for the decision about the last one: in one transaction with its checkpoint."""
    task = author.task

    async def submit(db: Connection) -> dict[str, Any]:
        item_id = content_id or await _create_item(db, task, texts[0].article.title)
        for text in texts:
            version = await content.add_version(
                db,
                tenant_id=task.tenant_id,
                content_id=item_id,
                task_id=task.id,
                actor=task.actor,
                **_as_version(author, text),
            )
        if review:
            await _open_review(db, author, start, texts[-1], version)
        return {"content_id": str(item_id), "version_id": str(version.id), "number": version.number}

    return await task.write(name, submit)  # type: ignore[no-any-return]


async def _create_item(db: Connection, task: TaskContext, title: str) -> UUID:
    item = await content.create_item(
        db, tenant_id=task.tenant_id, task_id=task.id, title=title, language=LANGUAGE, actor=task.actor
    )
    return item.id


def _as_version(author: Author, text: Judged) -> dict[str, Any]:
    """Return a judged text as content.add_version takes it."""
    scores: dict[str, Any] = {"overall": text.score, **text.critique.scores}
    retrieval = {
        "collections": list(author.job.collections),
        "query": author.job.topic,
        "chunk_ids": list(author.pool.passages),
    }
    return {
        "kind": text.kind, "title": text.article.title, "summary": text.article.summary, "body_md": text.body_md,
        "tags": text.article.tags, "language": LANGUAGE, "note": text.note, "model": author.task.llm.provider.model,
        "prompt_version_id": author.prompt_id("draft_section"), "retrieval": retrieval, "scores": scores,
        "checks": checks.as_json(text.checks), "citations": text.citations,
    }  # fmt: skip


async def _ask_for_review(
    author: Author, start: Start, text: Judged, submitted: dict[str, Any]
) -> dict[str, Any]:
    """Ask for the decision about a version that was submitted before it was known to be the last."""
    task = author.task

    async def ask(db: Connection) -> dict[str, Any]:
        version = await content.get_version_by_id(db, task.tenant_id, UUID(submitted["version_id"]))
        await _open_review(db, author, start, text, version)
        return submitted

    return await task.write(f"review:{author.round}", ask)  # type: ignore[no-any-return]


async def _open_review(
    db: Connection, author: Author, start: Start, text: Judged, version: content.ContentVersion
) -> None:
    """Ask for the decision, and mark the points that this version is shown to meet."""
    task = author.task
    met = [UUID(start.points[number - 1][0]) for number in text.met]
    if met:
        await reviews.mark_addressed(
            db, tenant_id=task.tenant_id, content_id=version.content_id, feedback_ids=met, version=version.number, actor=task.actor
        )  # fmt: skip
    await reviews.open_review(
        db, tenant_id=task.tenant_id, task_id=task.id, version_id=version.id, due_in=REVIEW_TIME
    )


TASK_TYPE = TaskType(
    name="generate_content", payload=Payload, run=run, queue="content", timeout=timedelta(minutes=15)
)
