"""Holding a text against its sources: what is kept of a model's words, and which sentence of which passage stands behind each.

A sentence stands in an article because a source says so. Its *quote* is the sentence of the passage that is nearest to it,
verbatim. Everything here is a pure function of its arguments.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, pairwise

from services import writing
from services.writing import content_words, same, strip_markers, support

SUPPORT = 0.6  # of the content words of a sentence must be in the passage that is to support it
CITED_SUPPORT = 0.25  # is enough where the model itself named the source: paraphrase is its job


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A retrieved chunk, numbered as the prompts name it: [S<number>]."""

    number: int
    chunk_id: str
    document_id: str
    document_title: str
    heading: str
    text: str
    collection: str = ""
    ordinal: int = 0  # place in its document

    @property
    def label(self) -> str:
        """Where it is from, for prompts: document and heading."""
        heading = self.heading.rpartition("›")[2].strip()
        return (
            self.document_title
            if heading in {"", self.document_title}
            else f"{self.document_title}, {heading}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence of an article. With a source it has a quote that stands in that source verbatim."""

    text: str
    source: int | None = None
    quote: str | None = None

    @property
    def verbatim(self) -> bool:
        """Whether it is taken word for word from its source."""
        return self.quote is not None and writing.words_of(self.text) == writing.words_of(self.quote)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prose:
    """What remained of a model's text, in paragraphs, and what was taken out of it, by reason."""

    paragraphs: tuple[tuple[Sentence, ...], ...]
    removed: dict[str, int]

    @property
    def sentences(self) -> list[Sentence]:
        """All of them, in order."""
        return [sentence for paragraph in self.paragraphs for sentence in paragraph]

    @property
    def supported(self) -> int:
        """How many of them have a source."""
        return sum(sentence.source is not None for sentence in self.sentences)


def read_prose(raw: str, passages: Sequence[Passage], *, heading: str, before: Iterable[str] = ()) -> Prose:
    """Return what may stand of a model's text: whole sentences on the topic, none said *before*, each held to its passages.

    A model that names its sources is trusted to write a sentence that connects, and with its order. Of one that does not only
    supported sentences remain, in the order of the sources.
    """
    removed: Counter[str] = Counter()
    said = [heading, *before]
    for passage in passages:  # a small model copies the labels of its sources
        raw = re.sub(rf"(?:from )?{re.escape(passage.label)}[:\n]", "\n", raw)
    cites = names_sources(raw)
    paragraphs: list[tuple[Sentence, ...]] = []
    for block in re.split(r"\n\s*\n", raw):
        kept: list[Sentence] = []
        for sentence in writing.attach_markers(writing.split_sentences(block)):
            reason, grounded = _judge(sentence, passages, said, cites=cites)
            if not reason and not cites and _retold(grounded, [*chain.from_iterable(paragraphs), *kept]):
                reason = "repeated"
            if reason:
                removed[reason] += 1
            else:
                kept.append(grounded)
                said.append(grounded.text)
        if kept:
            paragraphs.append(tuple(kept))
    if not cites and paragraphs:
        every = [sentence for paragraph in paragraphs for sentence in paragraph]
        paragraphs = [tuple(in_source_order(every, passages, before=before))]
    return Prose(paragraphs=tuple(paragraphs), removed=dict(removed))


def names_sources(raw: str) -> bool:
    """Whether a model does what it was asked to: most of its sentences name their source."""
    sentences = writing.attach_markers(writing.split_sentences(raw))
    return sum(bool(writing.named_sources(each)) for each in sentences) > len(sentences) / 2


def _judge(
    sentence: str, passages: Sequence[Passage], said: Sequence[str], *, cites: bool
) -> tuple[str | None, Sentence]:
    """Return why *sentence* has to go, or None, and what it is when it stays."""
    text = strip_markers(sentence)
    plain = Sentence(text=text)
    if not writing.is_complete(text):
        return "cut off", plain
    if writing.is_chatter(text):
        return "about the task", plain
    if text.endswith("?") and not writing.named_sources(sentence):
        return "a question", plain
    if writing.goes_round(text) or _known(text, said):
        return "repeated", plain
    grounded = ground(sentence, passages)
    if grounded is not None:
        return ("repeated" if grounded.text != text and _known(grounded.text, said) else None), grounded
    if cites and not writing.named_sources(sentence) and not writing.numbers(text):
        return None, plain
    return "not in the sources", plain


def _retold(sentence: Sentence, earlier: Iterable[Sentence]) -> bool:
    """Whether the same quote was told before in much the same words."""
    words = content_words(sentence.text)
    return any(
        each.quote == sentence.quote
        and 2 * len(words & content_words(each.text)) > min(len(words), len(content_words(each.text)))
        for each in earlier
    )


def _known(text: str, said: Iterable[str]) -> bool:
    return any(same(text, earlier) for earlier in said)


def ground(sentence: str, passages: Sequence[Passage]) -> Sentence | None:
    """Return *sentence* with the passage and quote that support it, or None when none does.

    A sentence that names its source, [S2], may paraphrase it. One that does not is held to two neighbouring sentences of a
    passage: it stands when it has no word of its own, and where it has a few the words of the source take its place.
    """
    text = strip_markers(sentence)
    named = writing.named_sources(sentence)
    for passage in passages:
        if passage.number in named and support(text, passage.text) >= CITED_SUPPORT:
            quote = find_quote(text, passage.text)
            if quote is not None:
                return Sentence(text=text, source=passage.number, quote=quote)
    candidates = [
        (
            score,
            Sentence(text=_told(text, quote), source=passage.number, quote=quote),
        )
        for passage in passages
        for score, quote in _supporters(text, passage)
    ]
    return max(candidates, key=lambda candidate: candidate[0])[1] if candidates else None


def _told(text: str, quote: str) -> str:
    """A model's own words where all of them are in the quote, else the quote: a word that is not there may be wrong."""
    return text if support(text, quote) == 1.0 else strip_markers(quote)


def _supporters(text: str, passage: Passage) -> Iterable[tuple[float, str]]:
    """Yield how far each window of *passage* supports *text*, and the quote in it; those that deny what it says are left out."""
    for window in _windows(passage.text):
        score = support(text, window)
        quote = find_quote(text, window) if score >= SUPPORT else None
        if quote is not None and writing.denies(text) == writing.denies(quote):
            yield score, quote


def find_quote(sentence: str, passage: str) -> str | None:
    """Return the sentence of *passage* nearest to *sentence*, verbatim; None when none shares two content words with it."""
    words = content_words(sentence)
    best: tuple[float, str] | None = None
    for candidate in quotable(passage):
        theirs = content_words(candidate)
        shared = len(words & theirs)
        likeness = shared / (len(words | theirs) or 1)
        if shared >= min(2, len(words)) and (best is None or likeness > best[0]):
            best = (likeness, candidate)
    return best[1] if best else None


@lru_cache(maxsize=512)
def quotable(passage: str) -> tuple[str, ...]:
    """Return the sentences of *passage* that can be quoted: whole, of 5 to 60 words, no questions."""
    return tuple(
        sentence
        for sentence in writing.split_sentences(passage)
        if writing.is_complete(sentence)
        and 5 <= len(writing.words_of(sentence)) <= 60
        and not sentence.endswith("?")
    )


@lru_cache(maxsize=512)
def _windows(passage: str) -> tuple[str, ...]:
    """Return each quotable sentence alone, then each pair of neighbours."""
    sentences = quotable(passage)
    return (*sentences, *(f"{one}\n\n{two}" for one, two in pairwise(sentences)))


def pick_quotations(
    query: str, passages: Sequence[Passage], *, count: int, before: Iterable[str] = ()
) -> list[Sentence]:
    """Return up to *count* verbatim sentences nearest to *query*, none like one said *before*, in the order of the sources.

    An earlier passage counts as nearer, for retrieval ranked it. One that leans on the sentence before it brings that along.
    """
    said = list(before)
    wanted = content_words(query)
    ranked: list[tuple[float, Sentence]] = []
    for rank, passage in enumerate(passages):
        for place, quote in enumerate(quotable(passage.text)):
            words = content_words(quote)
            likeness = len(words & wanted) / (len(words) ** 0.5 or 1) + 0.8 / (1 + rank) + 0.1 / (1 + place)
            text = strip_markers(quote)
            if not writing.is_chatter(text):
                ranked.append((likeness, Sentence(text=text, source=passage.number, quote=quote)))
    chosen: list[Sentence] = []
    for _, sentence in sorted(ranked, key=lambda entry: -entry[0]):
        if len(chosen) < count and not _known(sentence.text, said):
            chosen.append(sentence)
            said.append(sentence.text)
    return in_source_order(chosen, passages, before=before)


def in_source_order(
    sentences: Sequence[Sentence], passages: Sequence[Passage], *, before: Iterable[str] = ()
) -> list[Sentence]:
    """Return *sentences* in the order of their quotes. One that begins with "It" or "These" follows the sentence it leans on,
    which is brought in where it is missing; where that cannot be had, it goes.
    """
    said = list(before)
    by_number = {passage.number: (rank, quotable(passage.text)) for rank, passage in enumerate(passages)}

    def place(sentence: Sentence) -> tuple[int, int]:
        rank, quotes = by_number[sentence.source or 0]
        return rank, quotes.index(sentence.quote or "")

    ordered: list[Sentence] = []
    for sentence in sorted(sentences, key=place):
        _, at = place(sentence)
        quotes = by_number[sentence.source or 0][1]
        links = [sentence]
        while (
            writing.leans_back(links[0].text)
            and at > 0
            and quotes[at - 1] not in [each.quote for each in ordered]
        ):
            at -= 1
            links.insert(0, replace(sentence, text=strip_markers(quotes[at]), quote=quotes[at]))
        if writing.leans_back(links[0].text) and at == 0:
            continue
        if len(links) > 3 or any(
            _known(each.text, [*said, *(one.text for one in ordered)]) for each in links
        ):
            continue
        ordered += links
    return ordered
