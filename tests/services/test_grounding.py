"""What is kept of a model's words, and which sentence of which passage stands behind each."""

from __future__ import annotations

from services import grounding
from services.grounding import Passage

HEAT = Passage(
    number=1, chunk_id="c1", document_id="d1", document_title="Compost at home", heading="Compost at home › Heat",
    text="Within three to five days the centre should reach 55 to 65 degrees. At this temperature most weed seeds are killed. "
    "It never gets as hot in a small heap. If the thermometer shows more than 70 degrees, turn the heap at once.",
)  # fmt: skip
WASTE = Passage(
    number=2, chunk_id="c2", document_id="d2", document_title="Kitchen waste", heading="",
    text="Meat and fish attract rats and should not go into an open heap. Citrus peel and onions can be added in small amounts.",
)  # fmt: skip
BOTH = [HEAT, WASTE]


def told(raw: str, **more: object) -> list[tuple[str, int | None]]:
    prose = grounding.read_prose(raw, BOTH, heading="Heat", **more)  # type: ignore[arg-type]
    return [(sentence.text, sentence.source) for sentence in prose.sentences]


def test_a_sentence_that_names_its_source_keeps_its_own_words_and_gets_the_nearest_quote() -> None:
    [sentence] = grounding.read_prose(
        "A good heap warms to 65 degrees within days [S1].", BOTH, heading="x"
    ).sentences

    assert sentence.text == "A good heap warms to 65 degrees within days."
    assert sentence.quote == "Within three to five days the centre should reach 55 to 65 degrees."
    assert sentence.quote in HEAT.text
    assert not sentence.verbatim


def test_a_number_that_the_source_does_not_have_costs_the_sentence() -> None:
    assert told("A good heap warms to 90 degrees within days [S1].") == []


def test_a_model_that_names_its_sources_may_connect_its_sentences() -> None:
    raw = "Heat is what does the work. The centre should reach 55 to 65 degrees [S1]. Rats are drawn by meat and fish [S2]."

    assert told(raw) == [
        ("Heat is what does the work.", None),
        ("The centre should reach 55 to 65 degrees.", 1),
        ("Rats are drawn by meat and fish.", 2),
    ]


def test_of_a_model_that_names_nothing_only_what_the_sources_say_remains() -> None:
    prose = grounding.read_prose(
        "Heat is what does the work. The centre should reach 55 to 65 degrees within three to five days. What is all that heat for?",
        BOTH,
        heading="x",
    )

    assert [sentence.text for sentence in prose.sentences] == [
        "The centre should reach 55 to 65 degrees within three to five days."
    ]
    assert prose.removed == {"not in the sources": 1, "a question": 1}


def test_a_word_of_the_models_own_is_replaced_by_the_words_of_the_source() -> None:
    assert told("Meat and poultry and fish attract rats and should not go into an open heap.") == [
        ("Meat and fish attract rats and should not go into an open heap.", 2)
    ]


def test_a_yes_is_not_supported_by_a_no() -> None:
    assert told("Meat and fish attract rats and should go into an open heap.") == []


def test_repetition_chatter_labels_and_what_was_cut_off_go() -> None:
    raw = (
        "[S1] Compost at home, Heat\nHere is the paragraph. At this temperature most weed seeds are killed. At this temperature most weed "
        "seeds are killed! Citrus peel and onions can be added in"
    )
    prose = grounding.read_prose(raw, BOTH, heading="x")

    assert [sentence.text for sentence in prose.sentences][
        -1
    ] == "At this temperature most weed seeds are killed."
    assert prose.removed == {"about the task": 1, "repeated": 1, "cut off": 1}


def test_what_was_said_in_another_section_is_not_said_again() -> None:
    said = ["Citrus peel and onions can be added in small amounts."]

    assert told("Onions and citrus peel can be added in small amounts [S2].", before=said) == []
    assert grounding.pick_quotations("onions", [WASTE], count=2, before=said)[0].text.startswith("Meat")


def test_a_sentence_that_leans_on_another_brings_it_along() -> None:
    leaning = grounding.pick_quotations("small heap never hot", [HEAT], count=1)
    assert [sentence.text for sentence in leaning] == [
        "Within three to five days the centre should reach 55 to 65 degrees.",
        "At this temperature most weed seeds are killed.",
        "It never gets as hot in a small heap.",
    ]


def test_quotations_stand_in_their_passages_word_for_word() -> None:
    chosen = grounding.pick_quotations("heap", BOTH, count=10)

    texts = {passage.number: passage.text for passage in BOTH}
    assert chosen
    assert all(sentence.quote and sentence.quote in texts[sentence.source or 0] for sentence in chosen)
