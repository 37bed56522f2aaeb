"""Judging a version: what the model says about it as far as that holds, what the checks say, and which points a text now meets.

A model's judgement is only used where it can be held against the text: an issue must quote the article, and a point counts as
addressed only by words that are new.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from services import articles, writing
from services.articles import Article, Section
from services.checks import Check

PASS = 7.5  # of 10
FAIL_COST, WARN_COST = 3.0, 1.0  # what a failed check and a warning take from 10

# What a reviewer's remark says about the writing rather than about the matter.
_ASKING = writing.content_words(
    """add article bit change check clarify clear clearer could cover delete describe description detail details drop elaborate example
    expand explain explanation fact facts feedback few fix focus give go include information instead less line long longer mention
    missing more move name number paragraph part piece please point precise put quote read reader remove replace rephrase rewrite round
    say section sentence short shorten shorter simple simpler something source state tell text title tone use want word words work
    write writing wrong"""
)
_SHORTER = re.compile(r"\b(?:shorter|shorten|too long|cut (?:it )?down|condense|tighten)\b", re.IGNORECASE)
_LONGER = re.compile(r"\b(?:longer|expand|elaborate|too short|more (?:detail|depth|text))\b", re.IGNORECASE)
_REMOVAL = re.compile(r"\b(?:remove|delete|drop|leave out|take out|get rid of|omit)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Critique:
    """What a model said about a text, as far as it can be used. `trouble` says why it cannot; then there are no scores."""

    scores: dict[str, int]
    issues: tuple[tuple[str, str], ...]  # (words of the article, what is wrong there)
    addressed: tuple[tuple[int, str], ...]  # (number of the point from 1, words of the article)
    verdict: str
    trouble: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build a critique from its checkpoint."""
        pairs = {name: tuple((each[0], each[1]) for each in value[name]) for name in ("issues", "addressed")}
        return cls(**{**value, **pairs})

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)


def unusable(trouble: str) -> Critique:
    """A critique that could not be had."""
    return Critique(scores={}, issues=(), addressed=(), verdict="", trouble=trouble)


def read(answer: Mapping[str, Any] | None, body_md: str, *, trouble: str = "") -> Critique:
    """Return the usable part of a model's *answer* about *body_md*."""
    if answer is None:
        return unusable(trouble)
    given = answer.get("scores")
    scores = {
        name: score
        for name, score in (given.items() if isinstance(given, dict) else ())
        if isinstance(score, int) and not isinstance(score, bool) and 0 <= score <= 10
    }
    if not scores:
        return unusable("it holds no scores from 0 to 10")
    text = _flat(body_md)
    issues = [
        (quote, problem)
        for quote, problem in _pairs(answer.get("issues"), "quote", "problem")
        if _flat(quote) in text and _flat(problem) != _flat(quote)
    ]
    claimed = len(answer["issues"]) if isinstance(answer.get("issues"), list) else 0
    if len(issues) < claimed / 2:
        return unusable(
            f"{claimed - len(issues)} of its {claimed} issues quote words that are not in the text, or say nothing"
        )
    verdict = "pass" if answer.get("verdict") == "pass" else "revise"
    if verdict == "revise" and not issues:
        return unusable("it asks for changes and names none")
    addressed = [
        (point, quote)
        for point, quote in _pairs(answer.get("addressed"), "point", "quote")
        if isinstance(point, int) and _flat(quote) in text
    ]
    return Critique(scores=scores, issues=tuple(issues), addressed=tuple(addressed), verdict=verdict)


def overall(critique: Critique, found: Iterable[Check]) -> float:
    """Return the score of a text, 0 to 10: what the checks leave of 10, and no more than the model's own mean."""
    states = [check.state for check in found]
    left = max(0.0, 10 - FAIL_COST * states.count("fail") - WARN_COST * states.count("warn"))
    if not critique.scores:
        return left
    return round(min(left, sum(critique.scores.values()) / len(critique.scores)), 1)


def passes(critique: Critique, score: float) -> bool:
    """Whether a text is good enough to be shown to a person without another round."""
    return score >= PASS and critique.verdict != "revise"


def as_check(critique: Critique) -> Check:
    """Return what a reviewer should know about the critique."""
    if critique.trouble:
        told = f"the model's critique could not be used: {critique.trouble}"
        return Check(name="critique", state="warn", message=told)
    details = tuple(f"“{quote}”: {problem}" for quote, problem in critique.issues)
    told = f"the model's verdict is {critique.verdict}, with {len(details)} issue{'' if len(details) == 1 else 's'}"
    return Check(
        name="critique", state="pass" if critique.verdict == "pass" else "warn", message=told, details=details
    )


def points_by_section(critique: Critique, article: Article) -> dict[int, list[str]]:
    """Return what the critique finds wanting, by the section whose words it quotes."""
    points: dict[int, list[str]] = {}
    for quote, problem in critique.issues:
        for index, section in enumerate(article.sections):
            if _flat(quote) in _flat(f"{section.heading}\n{section.body}"):
                points.setdefault(index, []).append(f"“{quote}”: {problem}")
                break
    return points


def matter_of(point: str) -> frozenset[str]:
    """Return the words of a reviewer's remark that name a matter, not what is to be done about it."""
    return writing.content_words(point) - _ASKING


def asks_removal(point: str) -> bool:
    """Whether a reviewer wants something gone and says what."""
    return _REMOVAL.search(point) is not None and bool(matter_of(point))


def speaks_of(text: str, point: str) -> bool:
    """Whether a text holds at least half of the words that name the matter of *point*."""
    matter = matter_of(point)
    return bool(matter) and len(matter & writing.content_words(text)) >= len(matter) / 2


def closeness(heading: str, text: str, point: str) -> int:
    """Return how many words of the matter of *point* occur under a heading; those in the heading count three times."""
    matter = matter_of(point)
    return 2 * len(matter & writing.content_words(heading)) + len(
        matter & writing.content_words(f"{heading} {text}")
    )


def locate(point: str, article: Article) -> list[int]:
    """Return the section that a remark is about: the one sharing most words of its matter, the heading counting double.
    None when it names a matter that no section speaks of; all of them when it names none.
    """
    matter = matter_of(point)
    if not matter:
        return list(range(len(article.sections)))
    scores = [closeness(section.heading, section.body, point) for section in article.sections]
    best = max(scores, default=0)
    return [scores.index(best)] if best >= max(1, len(matter) / 2) else []


def is_addressed(point: str, *, number: int, old: Article, new: Article, critique: Critique) -> bool:
    """Whether *new* shows that it meets a reviewer's *point*: by its length where that was asked for, by the loss of what was to go,
    by new sentences that speak of the matter, or by new words that the critique names for point *number*.
    """
    before = {sentence for section in old.sections for sentence in section.sentences}
    after = {sentence for section in new.sections for sentence in section.sentences}
    added = " ".join(sorted(after - before))
    if any(given == number and _flat(quote) in _flat(added) for given, quote in critique.addressed):
        return True
    length = sum(len(sentence.split()) for sentence in after) / max(
        1, sum(len(sentence.split()) for sentence in before)
    )
    if _SHORTER.search(point) or _LONGER.search(point):
        return length <= 0.9 if _SHORTER.search(point) else length >= 1.1
    if asks_removal(point):
        return sum(speaks_of(each, point) for each in after) < sum(speaks_of(each, point) for each in before)
    return speaks_of(added, point)


def _pairs(value: object, first: str, second: str) -> list[tuple[Any, str]]:
    """Return the two named fields of each entry of a list; entries that do not have them are left out."""
    entries = [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    return [
        (_bare(entry[first]), _bare(entry[second])[:300])
        for entry in entries
        if isinstance(entry.get(first), int | str)
        and isinstance(entry.get(second), str)
        and entry[second].strip()
    ]


def _bare(value: Any) -> Any:
    """Text without the quotation marks that models put round what they quote; anything else as it is."""
    return value.strip().strip("\"'“”‘’").strip() if isinstance(value, str) else value


def _flat(text: object) -> str:
    """Text as it is compared: without markers, in one line, with plain quotation marks and small letters."""
    words = " ".join(articles.without_markers(str(text)).split())
    return words.translate(str.maketrans("“”‘’", "\"\"''")).casefold().strip(" \"'")


def weak_sections(sections: Sequence[Section], *, enough: int) -> list[int]:
    """Return the sections with fewer than *enough* sentences that cite something."""
    return [
        index for index, section in enumerate(sections) if len(articles.cited_sentences(section)) < enough
    ]
