"""What a text of the pipeline is worth, and what a reviewer should know of how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from services import articles, authoring, content, critiques, writing
from services.articles import Article
from services.authoring import Author, Drafted
from services.checks import Check
from services.content import NewCitation
from services.critiques import Critique
from services.grounding import Passage
from services.outlines import Outline


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A text as it is submitted: assembled, checked, criticised. `met` are the numbers of the reviewers' points it meets."""

    article: Article
    body_md: str
    citations: list[NewCitation]
    checks: list[Check]
    critique: Critique
    score: float
    met: tuple[int, ...]
    note: str
    kind: content.Kind

    @property
    def worth(self) -> tuple[float, int]:
        """By what one text is better than another."""
        return self.score, len(self.met)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a round begins with. `notes` are checks about how the text was made; `points` are (id, text) of open feedback."""

    article: Article
    notes: tuple[Check, ...]
    note: str
    content_id: UUID | None = None
    old: Article | None = None
    points: tuple[tuple[str, str], ...] = ()


def targets(judged: Judged) -> dict[int, list[str]]:
    """Return what is to be improved, by section: what the critique quotes, and sections that cite too little."""
    wanting = critiques.points_by_section(judged.critique, judged.article)
    for index in critiques.weak_sections(judged.article.sections, enough=authoring.ENOUGH):
        wanting.setdefault(index, []).append(
            "Say more of what the sources say about this, and name the source of each sentence."
        )
    return wanting


async def judge(author: Author, start: Start, article: Article, turn: int, *, note: str) -> Judged:
    """Run the checks and the critique on *article*."""
    await author.task.progress(0.7, "checking")
    body_md, citations = articles.assemble(article)
    suffix = f"{author.round}:{turn}"
    found = await author.check(f"checks:{suffix}", body_md, citations)
    await author.task.progress(0.72, "asking for a critique")
    critique = await author.criticise(
        f"critique:{suffix}", body_md, citations, [text for _, text in start.points]
    )
    met = tuple(
        number
        for number, (_, text) in enumerate(start.points, start=1)
        if start.old
        and critiques.is_addressed(text, number=number, old=start.old, new=article, critique=critique)
    )
    found += [*start.notes, _wording(article), critiques.as_check(critique), *_model_note(author)]
    if start.points:
        found.append(_feedback(start.points, met))
    return Judged(
        article=article, body_md=body_md, citations=citations, checks=found, critique=critique,
        score=critiques.overall(critique, found), met=met, note=note, kind="refine" if turn else "draft",
    )  # fmt: skip


def _wording(article: Article) -> Check:
    cited, verbatim = articles.count_verbatim(article)
    message = f"{verbatim} of {cited} sentences with a source are taken from it word for word"
    return Check(name="wording", state="warn" if cited and verbatim > cited / 2 else "pass", message=message)


def _model_note(author: Author) -> list[Check]:
    if not author.task.llm.embedded:
        return []
    told = "a small demonstration model was at work: the text shows how Galley works, not how well a model can write"
    return [Check(name="model", state="warn", message=told)]


def _feedback(points: Sequence[tuple[str, str]], met: Sequence[int]) -> Check:
    still = tuple(text[:200] for number, (_, text) in enumerate(points, start=1) if number not in met)
    told = f"{len(met)} of {len(points)} points of the reviewers are shown to be addressed"
    return Check(name="feedback", state="warn" if still else "pass", message=told, details=still)


def notes(
    author: Author, outline: Outline, drafted: Sequence[Drafted], passages: Sequence[Passage]
) -> tuple[Check, ...]:
    """Say how the text came about, where a reviewer should know."""
    found: list[Check] = []
    if outline.trouble:
        told = f"the model's outline was not used: {outline.trouble}; the sections follow the headings of the sources"
        found.append(Check(name="outline", state="warn", message=told))
    details = tuple(_how(each) for each in drafted)
    plain = sum(each.way == "written" for each in drafted)
    message = f"{plain} of {len(drafted)} sections are the model's own text; the others hold closely to the words of their sources"
    found.append(
        Check(
            name="drafting",
            state="pass" if plain == len(drafted) else "warn",
            message=message,
            details=details,
        )
    )
    words = writing.content_words(author.job.topic)
    known = words & writing.content_words(" ".join(f"{each.heading} {each.text}" for each in passages))
    if len(known) < len(words) / 2:
        message = f"only {len(known)} of the {len(words)} words of the topic occur in the sources: they may be about something else"
        found.append(Check(name="sources", state="warn", message=message))
    return tuple(found)


def _how(drafted: Drafted) -> str:
    ways = {
        "written": "written by the model",
        "retold": "retold passage by passage",
        "quoted": "quotations only",
    }
    removed = ", ".join(f"{times} {reason}" for reason, times in sorted(drafted.removed.items()))
    return f"{drafted.section.heading}: {ways[drafted.way]}" + (
        f"; sentences left out: {removed}" if removed else ""
    )
