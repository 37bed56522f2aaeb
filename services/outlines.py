"""The plan of an article: what a model proposes, held against the sources, or made from their own headings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from services import content_text, writing
from services.grounding import Passage

MIN_SECTIONS, MAX_SECTIONS = 3, 6
FALLBACK_SECTIONS = 4
SUPPORT = 0.5  # of a heading's content words must be in one passage

_GENERIC = re.compile(
    r"^(?:introduction|conclusions?|summary|overview|background|references|sources|section|part|chapter|title|heading|the topic)\b",
    re.IGNORECASE,
)
_NUMBERING = re.compile(r"^(?:(?:section|part|chapter)\s+)?(?:\d+|[ivx]+)\s*[.:)–-]\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A section to be written. `lead` is the number of the passage it was made from, if it was."""

    heading: str
    about: str = ""
    lead: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The plan. `trouble` says why it is not the model's own; '' when it is."""

    title: str
    summary: str
    tags: tuple[str, ...]
    sections: tuple[Planned, ...]
    trouble: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build a plan from its checkpoint."""
        sections = tuple(Planned(**section) for section in value["sections"])
        return cls(**{**value, "tags": tuple(value["tags"]), "sections": sections})

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)


def read(
    answer: Mapping[str, Any] | None, *, topic: str, passages: Sequence[Passage], trouble: str = ""
) -> Outline:
    """Return the plan in a model's *answer*; where it is missing or has too few usable headings, one made from the sources."""
    answer = answer or {}
    planned = _usable(answer.get("sections"), passages)
    if not trouble and len(planned) < MIN_SECTIONS:
        trouble = f"only {len(planned)} of its headings could be filled from the sources"
    if trouble:
        planned = _from_sources(passages)
    title = _line(answer.get("title"), 120)
    if (
        trouble
        or not writing.content_words(title) & writing.content_words(topic)
        or writing.is_chatter(title)
    ):
        title = _headline(topic)
    summary = _line(answer.get("summary"), 300)
    if trouble or writing.is_chatter(summary) or not writing.is_complete(summary):
        summary = ""
    return Outline(
        title=title,
        summary=summary,
        tags=_tags(answer.get("tags") if not trouble else None, topic, passages),
        sections=tuple(planned[:MAX_SECTIONS]),
        trouble=trouble,
    )


def _usable(sections: object, passages: Sequence[Passage]) -> list[Planned]:
    """Return the headings that name one matter, each once, and that a passage can fill."""
    usable: list[Planned] = []
    for section in sections if isinstance(sections, list) else []:
        if not isinstance(section, dict):
            continue
        heading = _NUMBERING.sub("", _line(section.get("heading"), 100)).strip("\"'*#: ").removesuffix(".")
        words = writing.content_words(heading)
        taken = any(len(words & writing.content_words(each.heading)) > len(words) / 2 for each in usable)
        fits = any(writing.support(heading, f"{each.heading} {each.text}") >= SUPPORT for each in passages)
        if words and fits and not taken and len(heading.split()) <= 12 and not _GENERIC.match(heading):
            usable.append(
                Planned(heading=heading[:1].upper() + heading[1:], about=_line(section.get("about"), 300))
            )
    return usable


def _from_sources(passages: Sequence[Passage]) -> list[Planned]:
    """Return one section for each of the best passages under another heading, at first no more than three of one document. Each is
    named as its source names it, and the sections of a document stand in its order.
    """
    chosen: dict[str, Passage] = {}
    documents: Counter[str] = Counter()
    for named, most in ((own_heading, 3), (own_heading, 4), (_document, 4), (_frequent_words, 4)):
        for passage in passages:
            heading = named(passage)
            taken = heading.casefold() in {each.casefold() for each in chosen} or passage in chosen.values()
            full = len(chosen) == FALLBACK_SECTIONS or documents[passage.document_id] >= most
            if heading and not taken and not full:
                chosen[heading] = passage
                documents[passage.document_id] += 1
    ranks = {document_id: rank for rank, document_id in enumerate(documents)}
    in_order = sorted(chosen.items(), key=lambda each: (ranks[each[1].document_id], each[1].ordinal))
    return [Planned(heading=heading, lead=passage.number) for heading, passage in in_order]


def contents(headings: Iterable[str]) -> str:
    """Return a summary that names the sections: what there is to say without a model."""
    return "; ".join(heading for heading in headings if heading) + "."


def own_heading(passage: Passage) -> str:
    """Return the last heading above a passage; '' where that is only the document's title."""
    heading = passage.heading.rpartition("›")[2].strip()
    return "" if heading.casefold() == passage.document_title.casefold() else heading[:100]


def _document(passage: Passage) -> str:
    return passage.document_title[:100]


def _frequent_words(passage: Passage) -> str:
    return " and ".join(_frequent([passage.text], 2)).capitalize()


def _frequent(texts: Iterable[str], count: int) -> list[str]:
    """Return the words that carry meaning and are most frequent, as they are written."""
    found: Counter[str] = Counter(
        word
        for text in texts
        for word in writing.words_of(text)
        if len(word) > 3 and word.isalpha() and writing.content_words(word)
    )
    return [word for word, _ in found.most_common(count)]


def _tags(proposed: object, topic: str, passages: Sequence[Passage]) -> tuple[str, ...]:
    """Return the proposed tags that occur in the topic or the sources; without any, the collections they come from."""
    everything = writing.content_words(" ".join([topic, *(passage.text for passage in passages)]))
    given = [tag for tag in proposed if isinstance(tag, str)] if isinstance(proposed, list) else []
    tags = [
        tag
        for tag in given
        if len(tag) <= 30 and writing.content_words(tag) and writing.content_words(tag) <= everything
    ]
    if not tags:
        tags = list(dict.fromkeys(passage.collection for passage in passages if passage.collection))[:3]
    return content_text.clean_tags(tags)[:5]


def _headline(topic: str) -> str:
    """The topic as a title: its first line, with a capital, without a full stop."""
    line = _line(topic, 120).rstrip(". ")
    return line[:1].upper() + line[1:]


def _line(value: object, limit: int) -> str:
    """*value* in one line, cut at a word to *limit* characters; '' for anything but text."""
    line = " ".join(value.split()) if isinstance(value, str) else ""
    return line if len(line) <= limit else line[:limit].rpartition(" ")[0]
