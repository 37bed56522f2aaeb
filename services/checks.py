"""What can be checked about a text without asking a model. Each check says what it looked at, what it found and what it cannot see.

A citation is a marker such as [1] in the text, with a quote from a source.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal, Protocol
from uuid import UUID

from markdown_it import MarkdownIt
from markdown_it.token import Token

from services import markdown, writing

State = Literal["pass", "warn", "fail"]

SHOWN = 5  # findings that a check lists in full
NEAR_LIMIT = 200  # sentences compared with each other for likeness; the work grows with the square

_PARSER = MarkdownIt("commonmark", {"html": False}).enable("table")
_LEFTOVER = re.compile(
    r"\b(?:todo|tbd|fixme|xxx|lorem ipsum|as an ai (?:language )?model|i cannot fulfil|knowledge cutoff)\b|\[(?:insert|your) |\{\{",
    re.IGNORECASE,
)
_FACT = re.compile(
    r"\d|[\"“»]|\s[A-Z][a-z]{2,}"
)  # a figure, a quotation or a name in the middle of a sentence
_MARKER = re.compile(r"\s*\[\d{1,3}\]")
_LINK = re.compile(r"(?:https?://[^\s/]|mailto:[^\s@]+@|/(?!/)|#)")


class Cited(Protocol):
    """What a check needs of a citation."""

    @property
    def marker(self) -> int: ...
    @property
    def chunk_id(self) -> UUID | str | None: ...
    @property
    def quote(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding about a version, in words for the person who decides."""

    name: str
    state: State
    message: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a tenant expects of a text."""

    min_words: int = 150
    max_words: int = 5_000
    min_sections: int = 3
    banned_terms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Paragraph:
    text: str
    markers: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Section:
    heading: str
    paragraphs: list[_Paragraph] = field(default_factory=list)


def run(
    body_md: str,
    *,
    citations: Sequence[Cited],
    sources: Mapping[str, str],
    rules: Rules | None = None,
    open_feedback: Sequence[str] = (),
) -> list[Check]:
    """Return every check of *body_md*. *sources* holds the passages by chunk id, as text; one that is missing is said to be.

    Bounded, but some 3 ms for each 1,000 words: in a web request run it in a thread.
    """
    rules = rules or Rules()
    tokens = _PARSER.parse(body_md)
    sections = _sections(tokens)
    paragraphs = [paragraph for section in sections for paragraph in section.paragraphs]
    sentences = [sentence for paragraph in paragraphs for sentence in writing.split_sentences(paragraph.text)]
    return [
        _length(paragraphs, rules),
        _structure(sections, rules),
        _cited_sections(sections),
        _markers(paragraphs, citations),
        _quotes(citations, sources),
        _claims(paragraphs),
        _repetition(sentences),
        _banned(body_md, rules),
        _leftovers(sentences),
        _links(tokens),
        *_feedback(open_feedback),
    ]


def worst(checks: Iterable[Check]) -> State:
    """Return the worst state among *checks*; `pass` when there are none."""
    states = {check.state for check in checks}
    return "fail" if "fail" in states else "warn" if "warn" in states else "pass"


def as_json(checks: Iterable[Check]) -> list[dict[str, Any]]:
    """Return *checks* as they are kept with a version."""
    return [asdict(check) | {"details": list(check.details)} for check in checks]


def _length(paragraphs: Sequence[_Paragraph], rules: Rules) -> Check:
    words = sum(len(_without_markers(paragraph.text).split()) for paragraph in paragraphs)
    told = f"{words:,} words; between {rules.min_words:,} and {rules.max_words:,} are expected"
    return Check(
        name="length", state="pass" if rules.min_words <= words <= rules.max_words else "fail", message=told
    )


def _structure(sections: Sequence[_Section], rules: Rules) -> Check:
    headed = [section for section in sections if section.heading]
    empty = [section.heading for section in headed if not section.paragraphs]
    told = f"{len(headed)} sections with a heading; at least {rules.min_sections} are expected"
    if len(headed) - len(empty) < rules.min_sections:
        return Check(name="structure", state="fail", message=told, details=_shown("empty: ", empty))
    if empty:
        return Check(
            name="structure",
            state="warn",
            message=f"{told}; {len(empty)} without text",
            details=_shown("empty: ", empty),
        )
    return Check(name="structure", state="pass", message=told)


def _cited_sections(sections: Sequence[_Section]) -> Check:
    filled = [section for section in sections if section.heading and section.paragraphs]
    bare = [
        section.heading
        for section in filled
        if not any(paragraph.markers for paragraph in section.paragraphs)
    ]
    if bare or not filled:
        told = (
            f"{len(bare)} of {len(filled)} sections cite no source"
            if filled
            else "there is no section to hold a citation"
        )
        return Check(name="section_citations", state="fail", message=told, details=_shown("", bare))
    return Check(
        name="section_citations", state="pass", message=f"each of the {len(filled)} sections cites a source"
    )


def _markers(paragraphs: Sequence[_Paragraph], citations: Sequence[Cited]) -> Check:
    used = {marker for paragraph in paragraphs for marker in paragraph.markers}
    known = {citation.marker for citation in citations}
    dangling, unused = sorted(used - known), sorted(known - used)
    if dangling:
        return Check(
            name="markers", state="fail", message=f"{_count(dangling, 'marker')} without a source behind it",
            details=_shown("", [f"[{marker}]" for marker in dangling]),
        )  # fmt: skip
    if unused:
        return Check(
            name="markers", state="warn", message=f"{_count(unused, 'source')} listed but not cited in the text",
            details=_shown("", [f"[{marker}]" for marker in unused]),
        )  # fmt: skip
    return Check(
        name="markers", state="pass", message=f"{_count(sorted(used), 'marker')}, each with a source"
    )


def _quotes(citations: Sequence[Cited], sources: Mapping[str, str]) -> Check:
    wrong, unseen = [], []
    for citation in citations:
        source = sources.get(str(citation.chunk_id))
        if source is None:
            unseen.append(f"[{citation.marker}]")
        elif " ".join(citation.quote.split()) not in " ".join(source.split()):
            wrong.append(f"[{citation.marker}] {citation.quote[:200]}")
    if wrong:
        told = f"{_count(wrong, 'quote')} not found word for word in the cited passage"
        return Check(name="quotes", state="fail", message=told, details=_shown("", wrong))
    if unseen:
        told = f"{_count(unseen, 'quote')} could not be compared: the passage is no longer here"
        return Check(name="quotes", state="warn", message=told, details=_shown("", unseen))
    if not citations:
        return Check(name="quotes", state="fail", message="nothing is quoted, so nothing can be compared")
    told = f"{_count(citations, 'quote')} found word for word in the cited passages; whether they support the sentence is for you to judge"
    return Check(name="quotes", state="pass", message=told)


def _claims(paragraphs: Sequence[_Paragraph]) -> Check:
    bare = [entry.text[:160] for entry in paragraphs if _claims_something(entry.text) and not entry.markers]
    if bare:
        told = f"{_count(bare, 'paragraph')} with figures, names or quotations and no citation"
        return Check(name="claims", state="warn", message=told, details=_shown("", bare))
    told = "each paragraph with figures, names or quotations cites something; other claims are not recognised"
    return Check(name="claims", state="pass", message=told)


def _claims_something(paragraph: str) -> bool:
    return len(paragraph.split()) >= 8 and not paragraph.endswith("?") and _FACT.search(paragraph) is not None


def _repetition(sentences: Sequence[str]) -> Check:
    seen = Counter(" ".join(_without_markers(sentence).casefold().split()) for sentence in sentences)
    twice = [sentence for sentence, times in seen.items() if times > 1 and len(sentence.split()) >= 3]
    if twice:
        told = f"{_count(twice, 'sentence')} said more than once"
        return Check(name="repetition", state="fail", message=told, details=_shown("", twice))
    different = list(seen)[:NEAR_LIMIT]
    alike = [
        one for at, one in enumerate(different) if any(writing.same(one, other) for other in different[:at])
    ]
    if alike:
        told = f"{_count(alike, 'sentence')} nearly said before"
        return Check(name="repetition", state="warn", message=told, details=_shown("", alike))
    return Check(name="repetition", state="pass", message=f"none of {len(sentences)} sentences is said twice")


def _banned(body_md: str, rules: Rules) -> Check:
    text = body_md.casefold()
    found = [
        term for term in rules.banned_terms if re.search(rf"(?<!\w){re.escape(term.casefold())}(?!\w)", text)
    ]
    if found:
        return Check(
            name="banned_terms",
            state="fail",
            message=f"{_count(found, 'banned term')} used",
            details=_shown("", found),
        )
    told = (
        f"none of {len(rules.banned_terms)} banned terms" if rules.banned_terms else "no banned terms are set"
    )
    return Check(name="banned_terms", state="pass", message=told)


def _leftovers(sentences: Sequence[str]) -> Check:
    found = [sentence[:160] for sentence in sentences if _LEFTOVER.search(sentence)]
    if found:
        told = f"{_count(found, 'sentence')} with a placeholder or a remark of the model"
        return Check(name="leftovers", state="fail", message=told, details=_shown("", found))
    return Check(
        name="leftovers",
        state="pass",
        message="no placeholders and no remarks of the model among the known ones",
    )


def _links(tokens: Sequence[Token]) -> Check:
    targets = [
        str(child.attrs["href"])
        for token in tokens
        for child in token.children or []
        if child.type == "link_open"
    ]
    wrong = [target or "(empty)" for target in targets if not _LINK.match(target)]
    if wrong:
        told = f"{_count(wrong, 'link')} that lead nowhere"
        return Check(name="links", state="fail", message=told, details=_shown("", wrong))
    told = f"{_count(targets, 'link')}, well formed; they were not followed" if targets else "no links"
    return Check(name="links", state="pass", message=told)


def _feedback(open_feedback: Sequence[str]) -> list[Check]:
    if not open_feedback:
        return []
    told = f"{_count(open_feedback, 'point')} of the reviewers not marked as addressed"
    return [Check(name="feedback", state="warn", message=told, details=_shown("", open_feedback))]


def _sections(tokens: Sequence[Token]) -> list[_Section]:
    """Return the text under each heading; what stands before the first has the heading ''. A single heading of level 1 is the
    title and begins no section.
    """
    titled = sum(token.type == "heading_open" and token.tag == "h1" for token in tokens) == 1
    sections = [_Section("")]
    for opening, token in pairwise(tokens):
        if token.type != "inline":
            continue
        if opening.type != "heading_open":
            sections[-1].paragraphs.append(_paragraph(token))
        elif not (titled and opening.tag == "h1"):
            sections.append(_Section(markdown.words(token)))
    return sections


def _paragraph(token: Token) -> _Paragraph:
    shown = " ".join(child.content for child in token.children or [] if child.type == "text")  # not code
    return _Paragraph(markdown.words(token), frozenset(markdown.markers(shown)))


def _without_markers(text: str) -> str:
    return _MARKER.sub("", text)


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def _shown(prefix: str, findings: Sequence[str]) -> tuple[str, ...]:
    rest = len(findings) - SHOWN
    more = (f"and {rest} more",) if rest > 0 else ()
    return (*(prefix + finding for finding in findings[:SHOWN]), *more)
