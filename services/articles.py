"""An article while it is being written: sections with their citations, put together to the text of a version and taken apart again.

Within a section the markers [1], [2] … count its own citations; in the text of a version they count all of them, in the order in
which a reader meets them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from services import markdown, writing
from services.content import NewCitation
from services.grounding import Passage, Prose, Sentence

_MARKER = re.compile(r"\[(\d{1,3})\]")
_HEADING = re.compile(r"^##\s+(.+?)\s*#*\s*$", re.MULTILINE)
MAX_CITATIONS = 900  # markers have three digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and its text in Markdown. `heading` is '' for what stands before the first one."""

    heading: str
    body: str
    citations: tuple[NewCitation, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build a section from its checkpoint."""
        cited = tuple(NewCitation(**citation) for citation in value["citations"])
        return cls(heading=value["heading"], body=value["body"], citations=cited)

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "heading": self.heading,
            "body": self.body,
            "citations": [cited(each) for each in self.citations],
        }

    @property
    def sentences(self) -> list[str]:
        """Its sentences without their markers."""
        plain = (
            writing.strip_markers(each) for each in writing.attach_markers(writing.split_sentences(self.body))
        )
        return [sentence for sentence in plain if sentence]

    @property
    def said(self) -> list[str]:
        """What need not be said again: its sentences, and the quotes they rest on."""
        return [*self.sentences, *(citation.quote for citation in self.citations)]

    @property
    def chunk_ids(self) -> list[str]:
        """The passages it cites, each once, in the order of the citations."""
        return list(dict.fromkeys(str(each.chunk_id) for each in self.citations if each.chunk_id is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """Everything a reader gets, in parts."""

    title: str
    summary: str
    tags: tuple[str, ...]
    sections: tuple[Section, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build an article from its checkpoint."""
        sections = tuple(Section.from_json(each) for each in value["sections"])
        return cls(
            title=value["title"], summary=value["summary"], tags=tuple(value["tags"]), sections=sections
        )

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        sections = [section.as_json() for section in self.sections]
        return {"title": self.title, "summary": self.summary, "tags": list(self.tags), "sections": sections}

    def with_section(self, index: int, section: Section) -> Article:
        """Return the article with another section at *index*."""
        return replace(self, sections=(*self.sections[:index], section, *self.sections[index + 1 :]))

    def said_outside(self, index: int) -> list[str]:
        """Return what is said in all sections but the one at *index*."""
        return [each for at, section in enumerate(self.sections) if at != index for each in section.said]


def cited(citation: NewCitation) -> dict[str, Any]:
    """Return a citation as JSON, its ids as text."""
    values = asdict(citation)
    return values | {
        name: None if values[name] is None else str(values[name]) for name in ("chunk_id", "document_id")
    }


def write_section(
    heading: str, prose: Prose, passages: Iterable[Passage], *, quotations: Sequence[Sentence] = ()
) -> Section:
    """Return the section that *prose* makes, with *quotations* set off below it."""
    by_number = {passage.number: passage for passage in passages}
    citations: dict[tuple[int, str], NewCitation] = {}

    def mark(sentence: Sentence) -> str:
        if sentence.source is None or sentence.quote is None:
            return sentence.text
        passage = by_number[sentence.source]
        citation = citations.setdefault(
            (sentence.source, sentence.quote),
            NewCitation(
                marker=len(citations) + 1,
                chunk_id=passage.chunk_id,
                document_id=passage.document_id,
                document_title=passage.document_title,
                quote=sentence.quote,
            ),
        )
        return f"{sentence.text} [{citation.marker}]"

    blocks = [" ".join(mark(sentence) for sentence in paragraph) for paragraph in prose.paragraphs]
    if quotations:
        blocks.append("> " + " ".join(mark(sentence) for sentence in quotations))
    return Section(heading=heading, body="\n\n".join(blocks), citations=tuple(citations.values()))


def append_sentences(section: Section, sentences: Sequence[Sentence], passages: Iterable[Passage]) -> Section:
    """Return the section with one more paragraph, of *sentences*."""
    more = write_section("", Prose(paragraphs=(tuple(sentences),), removed={}), passages)
    shift = max((citation.marker for citation in section.citations), default=0)
    body = _MARKER.sub(lambda match: f"[{int(match[1]) + shift}]", more.body)
    citations = [replace(citation, marker=citation.marker + shift) for citation in more.citations]
    return replace(section, body=f"{section.body}\n\n{body}", citations=(*section.citations, *citations))


def assemble(article: Article) -> tuple[str, list[NewCitation]]:
    """Return the text in Markdown and what its markers cite. The same quote has the same marker wherever it stands."""
    numbers: dict[tuple[str, str], int] = {}
    citations: list[NewCitation] = []
    parts: list[str] = []
    for section in article.sections:
        own = {citation.marker: citation for citation in section.citations}

        def renumber(match: re.Match[str], own: Mapping[int, NewCitation] = own) -> str:
            citation = own.get(int(match[1]))
            if citation is None:
                return match[0]
            key = (str(citation.chunk_id), citation.quote)
            if key not in numbers:
                numbers[key] = len(numbers) + 1
                citations.append(replace(citation, marker=numbers[key]))
            return f"[{numbers[key]}]"

        body = _MARKER.sub(renumber, section.body).strip()
        parts += [f"## {section.heading}" if section.heading else "", body]
    return "\n\n".join(part for part in parts if part), citations[:MAX_CITATIONS]


def take_apart(
    *, title: str, summary: str, tags: Sequence[str], body_md: str, citations: Sequence[NewCitation]
) -> Article:
    """Return the parts of a version's text: what a person has edited in between is taken as it is."""
    by_marker = {citation.marker: citation for citation in citations}
    headings = list(_HEADING.finditer(body_md))
    starts = [("", 0, headings[0].start() if headings else len(body_md))]
    ends = [heading.start() for heading in headings[1:]] + [len(body_md)]
    starts += [(heading[1], heading.end(), end) for heading, end in zip(headings, ends, strict=False)]
    sections = []
    for heading, start, end in starts:
        body = body_md[start:end].strip()
        own = tuple(by_marker[marker] for marker in markdown.markers(body) if marker in by_marker)
        if heading or body:
            sections.append(Section(heading=heading, body=body, citations=own))
    return Article(title=title, summary=summary, tags=tuple(tags), sections=tuple(sections))


def name_sources(section: Section, passages: Iterable[Passage]) -> str:
    """Return the text of a section with its markers turned to the numbers that prompts use: [1] becomes [S7]."""
    numbers = {passage.chunk_id: passage.number for passage in passages}
    own = {citation.marker: numbers.get(str(citation.chunk_id)) for citation in section.citations}

    def rename(match: re.Match[str]) -> str:
        number = own.get(int(match[1]))
        return match[0] if number is None else f"[S{number}]"

    return _MARKER.sub(rename, section.body)


def remove(article: Article, about: Callable[[str], bool]) -> Article:
    """Return the article without the sections whose heading is *about* it and without the sentences that are, elsewhere."""
    sections = []
    for section in article.sections:
        if section.heading and about(section.heading):
            continue
        body = section.body
        for sentence in writing.split_sentences(section.body):
            if about(without_markers(sentence)):
                body = re.sub(rf"{re.escape(sentence)}[ \t]*", "", body, count=1)
        body = re.sub(r"\n{3,}", "\n\n", re.sub(r"(?m)^>[ \t]*$|[ \t]+$", "", body)).strip()
        left = set(markdown.markers(body))
        if body:
            citations = tuple(citation for citation in section.citations if citation.marker in left)
            sections.append(replace(section, body=body, citations=citations))
    return replace(article, sections=tuple(sections)) if sections else article


def without_markers(text: str) -> str:
    """Return *text* without its markers [1], [2] and so on."""
    return re.sub(r"\s*\[\d{1,3}\]", "", text)


def cited_sentences(section: Section) -> list[str]:
    """Return the sentences of a section that carry a marker."""
    sentences = writing.attach_markers(writing.split_sentences(section.body))
    return [sentence for sentence in sentences if _MARKER.search(sentence)]


def count_verbatim(article: Article) -> tuple[int, int]:
    """Return how many sentences cite something, and how many of them are their quote word for word."""
    cited = verbatim = 0
    for section in article.sections:
        quotes = {citation.marker: writing.words_of(citation.quote) for citation in section.citations}
        for sentence in cited_sentences(section):
            cited += 1
            words = writing.words_of(without_markers(sentence))
            verbatim += any(quotes.get(int(marker)) == words for marker in _MARKER.findall(sentence))
    return cited, verbatim
