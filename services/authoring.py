"""The parts of writing an article that need a model or a search: each is a step of a task, so its result is kept.

What a model says is kept as it came; what is made of it is computed again from there by pure functions (outlines, grounding,
articles, critiques). Step names end in the round, as in `draft:r2:1`, and no step asks a model more than once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from services import articles, checks, critiques, grounding, llm, outlines, prompts, search
from services.articles import Article, Section
from services.checks import Check
from services.content import NewCitation
from services.critiques import Critique
from services.errors import Unavailable
from services.grounding import Passage, Prose, Sentence
from services.outlines import Outline, Planned
from services.task_context import Connection, TaskContext
from services.task_types import Permanent

PROMPTS = ("outline", "draft_section", "refine_section", "critique", "retell_passage")
TOPIC_HITS, SECTION_HITS, POINT_HITS = 12, 6, 5
SECTION_PASSAGES = 3  # that a section is written from
PER_DOCUMENT = 4  # hits of one document, so that a long one does not fill the article
PASSAGE_CHARACTERS = 1500  # of one passage that a prompt holds
ENOUGH = 2  # supported sentences make a model's text a section
WANTED = 4  # sentences of a section; what is missing is quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the article is to be."""

    topic: str
    collections: tuple[str, ...]
    instructions: str


@dataclass(slots=True, kw_only=True)
class Pool:
    """The passages found so far, numbered for the prompts in the order in which they were found."""

    passages: dict[str, Passage] = field(default_factory=dict)

    def add(self, hits: Sequence[dict[str, Any]]) -> list[Passage]:
        """Return the passages of *hits*; new ones get the next number."""
        for hit in hits:
            known = self.passages.get(hit["chunk_id"])
            number = known.number if known else len(self.passages) + 1
            facts = {
                name: hit[name]
                for name in (
                    "chunk_id",
                    "document_id",
                    "document_title",
                    "heading",
                    "text",
                    "ordinal",
                    "collection",
                )
            }
            self.passages[hit["chunk_id"]] = Passage(number=number, **facts)
        return [self.passages[hit["chunk_id"]] for hit in hits]

    def cited_by(self, section: Section) -> list[Passage]:
        """Return the passages that a section cites."""
        return [self.passages[chunk_id] for chunk_id in section.chunk_ids if chunk_id in self.passages]

    @property
    def texts(self) -> dict[str, str]:
        """The passages' texts by chunk id."""
        return {chunk_id: passage.text for chunk_id, passage in self.passages.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """A section and how it came about, for the checks."""

    section: Section
    way: str  # written, retold or quoted
    removed: dict[str, int]


class Author:
    """Writes in one round of one task."""

    def __init__(
        self, task: TaskContext, job: Job, pool: Pool, *, number: int, cites: bool | None = None
    ) -> None:
        self.task = task
        self.job = job
        self.pool = pool
        self.round = f"r{number}"
        self.cites = cites  # whether the model names its sources; None until it has written something
        self.pinned: dict[str, dict[str, Any]] = {}

    async def pin_prompts(self) -> None:
        """Fix which prompt versions this round uses: a label that moves meanwhile changes the next round."""

        async def pin(db: Connection) -> dict[str, Any]:
            tenant_id = self.task.tenant_id
            found = {name: await prompts.find(db, tenant_id, name) for name in PROMPTS}
            if None in found.values():
                await prompts.install_defaults(db, tenant_id=tenant_id, actor=self.task.actor)
            versions = {
                name: version or await prompts.get(db, tenant_id, name) for name, version in found.items()
            }
            return {
                name: {"id": str(version.id), "number": version.number} for name, version in versions.items()
            }

        self.pinned = await self.task.write(f"prompts:{self.round}", pin)

    async def search(self, name: str, queries: Sequence[str], *, hits: int) -> list[list[dict[str, Any]]]:
        """Search the collections once for each query, as step *name*. Returns the hits of each, best first."""

        async def look() -> list[list[dict[str, Any]]]:
            asked = [query[: search.MAX_QUERY] for query in queries]
            vectors = await self._embed(asked)
            scope = list(self.job.collections) or None
            async with self.task.database.tenant(self.task.tenant_id, self.task.actor) as db:
                found = [
                    await search.search(
                        db, tenant_id=self.task.tenant_id, query=query, embedding=vector, collections=scope, k=hits, per_document=PER_DOCUMENT
                    )
                    for query, vector in zip(asked, vectors, strict=True)
                ]  # fmt: skip
            return [[_hit(each) for each in one] for one in found]

        return await self.task.step(name, look)  # type: ignore[no-any-return]

    async def _embed(self, queries: list[str]) -> list[list[float] | None]:
        """Vectors for *queries*; where there is no embedding model, None: then words alone are searched."""
        try:
            return [*await self.task.embedder.embed(queries)]
        except (Unavailable, Permanent):
            return [None for _ in queries]

    async def outline(self, passages: Sequence[Passage]) -> Outline:
        """Plan the article from the passages that answer its topic."""
        beginnings = [f"[S{each.number}] {each.label}: {each.text[:160].strip()}" for each in passages]
        values = {"topic": self.job.topic, "sources": "\n\n".join(beginnings)} | self._instructions()
        answer, trouble = await self._ask_json(f"outline:{self.round}", "outline", values)
        return outlines.read(answer, topic=self.job.topic, passages=passages, trouble=trouble)

    async def find_sources(self, outline: Outline) -> list[list[Passage]]:
        """Return the passages of each planned section, best first. No passage leads two sections."""
        queries = [f"{self.job.topic}: {each.heading}. {each.about}" for each in outline.sections]
        found = await self.search(f"sources:{self.round}", queries, hits=SECTION_HITS)
        leads = {planned.lead for planned in outline.sections if planned.lead is not None}
        by_number = {passage.number: passage for passage in self.pool.passages.values()}
        sections: list[list[Passage]] = []
        for planned, hits in zip(outline.sections, found, strict=True):
            own = [by_number[planned.lead]] if planned.lead is not None else []
            others = [passage for passage in self.pool.add(hits) if passage.number not in leads]
            chosen = (own + others or self.pool.add(hits))[:SECTION_PASSAGES]
            leads.add(chosen[0].number)
            sections.append(chosen)
        return sections

    async def draft(
        self,
        step: str,
        planned: Planned,
        outline: Outline,
        passages: Sequence[Passage],
        *,
        before: Sequence[str],
    ) -> Drafted:
        """Write one section. What the model adds to its passages goes; what is missing then is quoted from them."""
        prose = Prose(paragraphs=(), removed={})
        way = "written"
        if self.cites is not False:
            others = ", ".join(each.heading for each in outline.sections if each != planned) or "None."
            values = {
                "topic": self.job.topic, "heading": planned.heading, "about": planned.about, "others": others,
                "sources": _sources(passages),
            } | self._instructions()  # fmt: skip
            raw = await self._ask(step, "draft_section", values)
            self.cites = self.cites or grounding.names_sources(raw)
            way = "written" if grounding.names_sources(raw) else "retold"
            prose = grounding.read_prose(raw, passages, heading=planned.heading, before=before)
        if not self.cites:
            retold = await self._retell(f"{step}:retell", planned.heading, passages, before=before)
            if retold.supported >= min(ENOUGH, prose.supported):
                prose, way = retold, "retold"
        return self._complete(planned.heading, prose, way, passages, before=before)

    async def _retell(
        self, step: str, heading: str, passages: Sequence[Passage], *, before: Sequence[str]
    ) -> Prose:
        """Have the best sentences of the passages said in other words: small models can do that much."""
        chosen = grounding.pick_quotations(heading, passages, count=WANTED + 1, before=before)
        if not chosen:
            return Prose(paragraphs=(), removed={})
        raw = await self._ask(step, "retell_passage", {"passage": " ".join(each.text for each in chosen)})
        return grounding.read_prose(raw, passages, heading=heading, before=before)

    def _complete(
        self, heading: str, prose: Prose, way: str, passages: Sequence[Passage], *, before: Sequence[str]
    ) -> Drafted:
        said = [*before, *(words for each in prose.sentences for words in (each.text, each.quote) if words)]
        missing = WANTED - prose.supported if way == "retold" else ENOUGH - prose.supported
        added = grounding.pick_quotations(heading, passages, count=max(0, missing), before=said)
        if prose.supported == 0:
            section = articles.write_section(heading, prose, passages, quotations=added)
            return Drafted(section=section, way="quoted", removed=prose.removed)
        if way == "retold":
            together = grounding.in_source_order([*prose.sentences, *added], passages, before=before)
            prose = Prose(paragraphs=(tuple(together),), removed=prose.removed)
            return Drafted(
                section=articles.write_section(heading, prose, passages), way=way, removed=prose.removed
            )
        return Drafted(
            section=articles.write_section(heading, prose, passages, quotations=added),
            way=way,
            removed=prose.removed,
        )

    async def refine(
        self, step: str, article: Article, index: int, points: Sequence[str], found: Sequence[Passage] = ()
    ) -> Section:
        """Rewrite the section at *index* to meet *points*; what was *found* for them may be used too. Where the model's text
        cannot be used the section stays, with the sentences of *found* that speak of the points added to it.
        """
        section = article.sections[index]
        known = {each.number: each for each in [*self.pool.cited_by(section), *found]}
        passages = list(known.values())[: SECTION_PASSAGES + len(found)]
        before = [*article.said_outside(index), *points]
        if self.cites is not False:
            values = {
                "topic": self.job.topic, "heading": section.heading or article.title, "points": [*points],
                "text": articles.name_sources(section, passages), "sources": _sources(passages) or "None.",
            }  # fmt: skip
            raw = await self._ask(step, "refine_section", values)
            self.cites = self.cites or grounding.names_sources(raw)
            prose = grounding.read_prose(raw, passages, heading=section.heading, before=before)
            if self.cites and prose.supported >= max(ENOUGH, len(articles.cited_sentences(section)) // 2):
                return articles.write_section(section.heading, prose, passages)
        added = self._quote(points, found, before=[*before, *section.said])
        return articles.append_sentences(section, added, found) if added else section

    async def add_section(
        self, step: str, article: Article, points: Sequence[str], found: Sequence[Passage]
    ) -> Section | None:
        """Write a section of its own for *points* that fit none, from what was *found*; None where nothing can be said."""
        planned = Planned(
            heading=outlines.own_heading(found[0]) or found[0].document_title, about=" ".join(points)
        )
        before = [*article.said_outside(-1), *points]
        outline = Outline(
            title=article.title,
            summary="",
            tags=(),
            sections=tuple(Planned(heading=each.heading) for each in article.sections),
        )
        drafted = await self.draft(step, planned, outline, found, before=before)
        return drafted.section if drafted.section.body else None

    def _quote(
        self, points: Sequence[str], found: Sequence[Passage], *, before: Sequence[str]
    ) -> list[Sentence]:
        chosen: list[Sentence] = []
        for point in points:
            said = [*before, *(each.text for each in chosen)]
            chosen += grounding.pick_quotations(point, found, count=2, before=said)
        return chosen

    async def check(self, name: str, body_md: str, citations: Sequence[NewCitation]) -> list[Check]:
        """Run the checks that need no model, as step *name*."""

        async def run() -> list[dict[str, Any]]:
            found = await asyncio.to_thread(checks.run, body_md, citations=citations, sources=self.pool.texts)
            return checks.as_json(found)

        kept = await self.task.step(name, run)
        return [Check(**{**each, "details": tuple(each["details"])}) for each in kept]

    async def criticise(
        self, name: str, body_md: str, citations: Sequence[NewCitation], points: Sequence[str]
    ) -> Critique:
        """Ask the model for its judgement. One that cannot be had is said to be missing; it does not stop the article."""
        quotes = [
            f"[{each.marker}] {' '.join(each.quote.split())} ({each.document_title})" for each in citations
        ]
        numbered = [f"{number}. {point}" for number, point in enumerate(points, start=1)]
        values = {"topic": self.job.topic, "article": body_md, "quotes": "\n".join(quotes) or "None."}
        values |= {"points": "\n".join(numbered)} if numbered else {}
        try:
            answer, trouble = await self._ask_json(name, "critique", values)
        except Permanent as exc:  # the article may be longer than the model can read
            answer, trouble = None, str(exc)
        return critiques.read(answer, body_md, trouble=trouble)

    def prompt_id(self, name: str) -> UUID:
        """Return the id of the prompt version that this round uses."""
        return UUID(self.pinned[name]["id"])

    def _instructions(self) -> dict[str, str]:
        return {"instructions": self.job.instructions} if self.job.instructions.strip() else {}

    async def _ask(self, step: str, name: str, values: dict[str, Any]) -> str:
        """Put prompt *name* to the model, as step *step*. Returns the answer's text."""
        return str((await self._put(step, name, values))["text"])

    async def _put(
        self, step: str, name: str, values: dict[str, Any], *, also: Sequence[dict[str, str]] = ()
    ) -> dict[str, Any]:
        """Put prompt *name* to the model, with the messages *also* behind it. Returns `{text, cut, llm_call_id}`."""

        async def complete() -> dict[str, Any]:
            async with self.task.database.tenant(self.task.tenant_id, self.task.actor) as db:
                version = await prompts.get(
                    db, self.task.tenant_id, name, version=self.pinned[name]["number"]
                )
            settings = version.settings
            answer = await self.task.llm.complete(
                [*_messages(version, values), *also],
                prompt_version_id=version.id,
                schema=version.output_schema,
                max_tokens=settings.get("max_tokens", 800),
                temperature=settings.get("temperature", 0.3),
                seed=settings.get("seed"),
            )
            return {"text": answer.text, "cut": answer.cut, "llm_call_id": str(answer.llm_call_id)}

        return await self.task.step(step, complete)  # type: ignore[no-any-return]

    async def _ask_json(
        self, step: str, name: str, values: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, str]:
        """Like `_ask`, for an answer in JSON. One that is not gets one chance to be put right, a step of its own; one that was
        cut short does not: it would be again. Returns the answer, or None and what was wrong with it.
        """
        first = await self._put(step, name, values)
        try:
            return llm.read_json(first["text"]), ""
        except ValueError as exc:
            problem = str(exc)
        if first["cut"]:
            return None, "the answer was cut before it was complete"
        plea = f"That was not what was asked for: {problem}. Answer once more, with one complete JSON object and nothing else."
        also = [{"role": "assistant", "content": first["text"][:4000]}, {"role": "user", "content": plea}]
        second = await self._put(f"{step}:repair", name, values, also=also)
        try:
            return llm.read_json(second["text"]), ""
        except ValueError:
            return None, "the answer was not JSON, twice"


def _messages(version: prompts.PromptVersion, values: dict[str, Any]) -> list[dict[str, str]]:
    """Return the rendered prompt. `settings.examples`, a list of {values, answer}, become earlier turns of the conversation."""
    messages = prompts.render(version, values)
    shown: list[dict[str, str]] = []
    for example in version.settings.get("examples", []):
        shown += [
            prompts.render(version, example["values"])[-1],
            {"role": "assistant", "content": example["answer"]},
        ]
    return [*messages[:-1], *shown, messages[-1]]


def _hit(hit: search.Hit) -> dict[str, Any]:
    return {
        "chunk_id": str(hit.chunk_id), "document_id": str(hit.document_id), "document_title": hit.document_title,
        "heading": hit.heading, "ordinal": hit.ordinal, "collection": hit.collection, "text": hit.text, "score": hit.score, "reasons": hit.reasons,
    }  # fmt: skip


def _sources(passages: Sequence[Passage]) -> str:
    return "\n\n".join(
        f"[S{each.number}] {each.label}\n{each.text[:PASSAGE_CHARACTERS].strip()}" for each in passages
    )
