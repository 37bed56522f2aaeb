"""Putting an article together and taking it apart; plans and critiques as far as they hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services import articles, critiques, grounding, outlines
from services.articles import Article, Section
from services.checks import Check
from services.content import NewCitation
from services.grounding import Passage, Prose, Sentence

HEAT = Passage(
    number=7, chunk_id="c7", document_id="d1", document_title="Compost at home", heading="Compost at home › Heat", collection="garden",
    text="The centre should reach 65 degrees. Weed seeds are killed by the heat of the heap.", ordinal=2,
)  # fmt: skip
AIR = replace(
    HEAT,
    number=3,
    chunk_id="c3",
    heading="Compost at home › Air",
    text="Turning the heap lets oxygen in.",
    ordinal=1,
)
WASTE = replace(
    HEAT,
    number=5,
    chunk_id="c5",
    document_id="d2",
    document_title="Kitchen waste",
    heading="",
    text="Meat attracts rats.",
)
FOUND = [HEAT, AIR, WASTE]


def sentence(text: str, passage: Passage) -> Sentence:
    return Sentence(
        text=text, source=passage.number, quote=grounding.find_quote(text, passage.text) or passage.text
    )


def section(heading: str, *sentences: Sentence) -> Section:
    return articles.write_section(heading, Prose(paragraphs=(sentences,), removed={}), FOUND)


def article(*sections: Section) -> Article:
    return Article(title="Compost", summary="About compost.", tags=("garden",), sections=sections)


TEXT = article(
    section("Heat", sentence("The centre should reach 65 degrees.", HEAT), Sentence(text="That is hot.")),
    section(
        "Air", sentence("Turning lets oxygen in.", AIR), sentence("The centre should be at 65 degrees.", HEAT)
    ),
)


def test_markers_count_in_the_order_of_the_text_and_the_same_quote_has_the_same_one() -> None:
    body, citations = articles.assemble(TEXT)

    assert body == (
        "## Heat\n\nThe centre should reach 65 degrees. [1] That is hot.\n\n"
        "## Air\n\nTurning lets oxygen in. [2] The centre should be at 65 degrees. [1]"
    )
    assert [(each.marker, each.chunk_id, each.quote) for each in citations] == [
        (1, "c7", "The centre should reach 65 degrees."),
        (2, "c3", "Turning the heap lets oxygen in."),
    ]


def test_taking_apart_and_putting_together_changes_nothing() -> None:
    body, citations = articles.assemble(TEXT)

    parts = articles.take_apart(
        title="Compost", summary="About compost.", tags=["garden"], body_md=body, citations=citations
    )

    assert articles.assemble(parts) == (body, citations)
    assert Article.from_json(parts.as_json()) == parts


def test_text_before_the_first_heading_and_unknown_markers_are_kept() -> None:
    parts = articles.take_apart(
        title="T", summary="", tags=[], body_md="Hello [9].\n\n## One\n\nText.", citations=[]
    )

    assert [each.heading for each in parts.sections] == ["", "One"]
    assert articles.assemble(parts) == ("Hello [9].\n\n## One\n\nText.", [])


def test_sentences_are_appended_with_markers_of_their_own() -> None:
    longer = articles.append_sentences(TEXT.sections[0], [sentence("Turning lets oxygen in.", AIR)], FOUND)

    assert longer.body.endswith("\n\nTurning lets oxygen in. [2]")
    assert [citation.marker for citation in longer.citations] == [1, 2]
    assert articles.name_sources(longer, FOUND).endswith("Turning lets oxygen in. [S3]")


def test_what_a_reviewer_wants_gone_goes_with_its_citations() -> None:
    without_air = articles.remove(TEXT, lambda text: "air" in text.lower())
    without_heat = articles.remove(TEXT, lambda text: "65 degrees" in text)

    assert [each.heading for each in without_air.sections] == ["Heat"]
    assert (
        articles.assemble(without_heat)[0]
        == "## Heat\n\nThat is hot.\n\n## Air\n\nTurning lets oxygen in. [1]"
    )
    assert articles.remove(TEXT, lambda _: True) == TEXT


def test_word_for_word_sentences_are_counted() -> None:
    assert articles.count_verbatim(TEXT) == (3, 1)


PLAN: dict[str, Any] = {
    "title": "Compost that is hot",
    "summary": "Heat and air make good compost at home.",
    "tags": ["heat", "astronomy"],
    "sections": [
        {"heading": "1. The heat of the heap", "about": "How hot."},
        {"heading": "Oxygen by turning", "about": "Why."},
        {"heading": "Introduction", "about": "Nothing."},
        {"heading": "Heat of heaps", "about": "Again."},
        {"heading": "Rats and meat", "about": "What to leave out."},
        {"heading": "Quantum gravity", "about": "Elsewhere."},
    ],
}


def test_a_plan_keeps_the_headings_that_the_sources_can_fill() -> None:
    outline = outlines.read(PLAN, topic="hot compost", passages=FOUND)

    assert [each.heading for each in outline.sections] == [
        "The heat of the heap",
        "Oxygen by turning",
        "Rats and meat",
    ]
    assert (outline.title, outline.tags, outline.trouble) == ("Compost that is hot", ("heat",), "")
    assert outlines.Outline.from_json(outline.as_json()) == outline


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        {"sections": "none"},
        {"sections": [{"heading": 3}, "x", None]},
        {**PLAN, "sections": PLAN["sections"][2:4]},
    ],
)
def test_a_plan_that_cannot_be_used_gives_way_to_the_headings_of_the_sources(answer: Any) -> None:
    outline = outlines.read(answer, topic="how to make hot compost", passages=FOUND)

    assert [(each.heading, each.lead) for each in outline.sections] == [
        ("Air", 3),
        ("Heat", 7),
        ("Kitchen waste", 5),
    ]
    assert (outline.title, outline.tags) == ("How to make hot compost", ("garden",))
    assert outline.trouble


def judged(**more: Any) -> dict[str, Any]:
    return {"scores": {"grounding": 9, "clarity": 7}, "issues": [], "addressed": [], "verdict": "pass"} | more


BODY, _ = articles.assemble(TEXT)


def test_a_critique_is_used_as_far_as_it_quotes_the_text() -> None:
    issues = [
        {"quote": "“That is hot.”", "problem": "says nothing"},
        {"quote": "That is cold.", "problem": "wrong"},
    ]

    critique = critiques.read(judged(issues=issues), BODY)

    assert critique.issues == (("That is hot.", "says nothing"),)
    assert critiques.points_by_section(critique, TEXT) == {0: ["“That is hot.”: says nothing"]}
    assert critiques.Critique.from_json(critique.as_json()) == critique


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        judged(scores={"grounding": 11, "clarity": True}),
        judged(issues=[{"quote": "not in the text", "problem": "x"}]),
        judged(issues=[{"quote": "That is hot.", "problem": "That is hot."}]),
    ],
)
def test_a_critique_that_does_not_fit_the_text_is_not_used_and_that_is_said(answer: Any) -> None:
    critique = critiques.read(answer, BODY, trouble="it was cut")

    assert critique.scores == {}
    assert critiques.as_check(critique).state == "warn"
    assert "could not be used" in critiques.as_check(critique).message


def test_the_score_is_never_better_than_the_checks_or_the_model_say() -> None:
    warned = [
        Check(name="a", state="warn", message=""),
        Check(name="b", state="fail", message=""),
        Check(name="c", state="pass", message=""),
    ]
    critique = critiques.read(judged(), BODY)

    assert critiques.overall(critique, []) == 8.0
    assert critiques.overall(critique, warned) == 6.0
    assert critiques.overall(critiques.unusable("x"), warned) == 6.0
    assert critiques.passes(critique, 8.0)
    assert not critiques.passes(replace(critique, verdict="revise"), 8.0)


def with_more(text: str) -> Article:
    first = TEXT.sections[0]
    return TEXT.with_section(0, replace(first, body=f"{first.body}\n\n{text}"))


@pytest.mark.parametrize(
    ("point", "new", "met"),
    [
        ("Please say more about weed seeds.", with_more("Weed seeds are killed by the heat. [1]"), True),
        ("Please say more about weed seeds.", with_more("Something else is told here. [1]"), False),
        ("Please say more about weed seeds.", TEXT, False),
        (
            "Make it longer.",
            with_more("Weed seeds are killed by the heat of the heap within days. [1]"),
            True,
        ),
        ("Make it shorter.", with_more("Weed seeds are killed by the heat. [1]"), False),
        ("Make it shorter.", article(TEXT.sections[0]), True),
        ("Remove the part about oxygen.", article(TEXT.sections[0]), True),
        ("Remove the part about oxygen.", TEXT, False),
        ("Write better.", with_more("Weed seeds are killed. [1]"), False),
    ],
)
def test_a_point_is_addressed_when_the_text_shows_it(point: str, new: Article, *, met: bool) -> None:
    assert critiques.is_addressed(point, number=1, old=TEXT, new=new, critique=critiques.unusable("")) is met


def test_a_model_may_show_that_a_point_is_addressed_but_only_by_new_words() -> None:
    new = with_more("All of it reads like a poem now.")
    shown = replace(
        critiques.unusable(""), addressed=((2, "reads like a poem"), (1, "The centre should reach"))
    )

    assert critiques.is_addressed("Be kinder.", number=2, old=TEXT, new=new, critique=shown)
    assert not critiques.is_addressed("Be kinder.", number=1, old=TEXT, new=new, critique=shown)


def test_a_point_belongs_to_the_section_that_speaks_of_its_matter() -> None:
    assert critiques.locate("Say more about oxygen.", TEXT) == [1]
    assert critiques.locate("Explain the printing press.", TEXT) == []
    assert critiques.locate("Please rewrite it.", TEXT) == [0, 1]


def test_a_citation_reads_back_from_json_with_ids_as_text() -> None:
    citation = NewCitation(marker=1, chunk_id="c", document_id=None, document_title="T", quote="Q")

    assert NewCitation(**articles.cited(citation)) == citation
