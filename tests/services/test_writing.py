"""Cutting text into sentences and telling the usable from the unusable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import writing


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One is here. Two is there! Is three? Yes.", ["One is here.", "Two is there!", "Is three?", "Yes."]),
        ("It was set in 1455. Mr. Fust sued.", ["It was set in 1455.", "Mr. Fust sued."]),
        (
            "Many tools, e.g. a rake, etc. and so on. Next.",
            ["Many tools, e.g. a rake, etc. and so on.", "Next."],
        ),
        ("See no. 5 there. The answer is no.", ["See no. 5 there.", "The answer is no."]),
        ("J. Bach wrote it. It costs 3.50 a piece.", ["J. Bach wrote it.", "It costs 3.50 a piece."]),
        ('He said "Stop!" and left. "Go."', ['He said "Stop!" and left.', '"Go."']),
        (
            "It is wet. [1] It is warm [2]. It is old.[3]",
            ["It is wet. [1]", "It is warm [2].", "It is old.[3]"],
        ),
        (
            "# Title\nA line\ngoes on.\n\n- First point\n- Second point.",
            ["A line\ngoes on.", "First point", "Second point."],
        ),
        ("| a | b |\n|---|---|\n\n```\ncode. here.\n```\nText.", ["Text."]),
        ("", []),
        ("cut off in the mid", ["cut off in the mid"]),
    ],
)
def test_text_is_cut_where_sentences_end(text: str, sentences: list[str]) -> None:
    assert writing.split_sentences(text) == sentences


@given(st.text(alphabet='aB .!?\n#-[]1S"“”|`é', max_size=200))
def test_every_sentence_stands_in_the_text_word_for_word_and_none_overlap(text: str) -> None:
    position = 0
    for sentence in writing.split_sentences(text):
        found = text.find(sentence, position)
        assert sentence
        assert found >= position
        position = found + len(sentence)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("Turn the heap every third day.", "Turn the heap every third day", True),
        ("Turn the heap every third day.", "TURN the heap, every third day!", True),
        ("Turning the heaps every third day helps.", "Turn the heap every third day: it helps.", True),
        ("Turn the heap every third day.", "Water the heap every third day.", False),
        ("Yes it is.", "No it was.", False),
    ],
)
def test_sentences_are_the_same_when_they_say_it_in_the_same_words(
    one: str, other: str, *, alike: bool
) -> None:
    assert writing.same(one, other) is alike
    assert writing.same(other, one) is alike


@pytest.mark.parametrize(
    "sentence",
    [
        "Here is the rewritten paragraph.",
        "Sure, this covers the topic well.",
        "I've added a comma after it.",
        "In conclusion, compost is good.",
        "The passage explains how to do it.",
        "As an AI model nothing is certain.",
    ],
)
def test_talk_about_the_task_is_told_from_talk_about_the_topic(sentence: str) -> None:
    assert writing.is_chatter(sentence)


def test_plain_sentences_are_not_chatter() -> None:
    for sentence in (
        "Turn the heap at once.",
        "Sureties were given in 1455.",
        "The source of the river is here.",
    ):
        assert not writing.is_chatter(sentence) or "source" in sentence


@pytest.mark.parametrize(
    ("sentence", "round_and_round"),
    [
        ("It is a great way to make it, and it is a great way to make it.", True),
        ("The the the the the the the the the the the the the the the.", True),
        ("Alternate layers of green material with brown material, such as straw and dry leaves.", False),
    ],
)
def test_a_sentence_that_repeats_itself_is_noticed(sentence: str, *, round_and_round: bool) -> None:
    assert writing.goes_round(sentence) is round_and_round


@pytest.mark.parametrize(
    ("sentence", "whole"),
    [
        ("Turn the heap at once.", True),
        ("Turn the heap at once", False),
        ("and so", False),
        ("Yes.", False),
        ("“Turn it at once!”", True),
    ],
)
def test_a_sentence_that_was_cut_off_is_not_complete(sentence: str, *, whole: bool) -> None:
    assert writing.is_complete(sentence) is whole


def test_numbers_are_the_same_in_digits_and_in_words() -> None:
    assert writing.numbers("Forty-two lines, 1,500 letters, eighteen days, 3.5 metres and one thing.") == {
        "42",
        "1500",
        "18",
        "3.5",
    }


@pytest.mark.parametrize(
    ("sentence", "share"),
    [
        ("Turn the heap every third day.", 1.0),
        ("Turn the heap every second day.", 0.75),
        ("Turn the heap after nine days.", 0.0),
        ("It is what it is.", 0.0),
    ],
)
def test_support_is_the_share_of_words_that_the_passage_has_and_nothing_with_a_foreign_number(
    sentence: str, share: float
) -> None:
    assert writing.support(sentence, "Turn the heap every third day, for 2 weeks.") == share


def test_markers_belong_to_the_sentence_before_them() -> None:
    assert writing.attach_markers(["It is wet.", "[S1] It is warm."]) == ["It is wet. [S1]", "It is warm."]
    assert writing.named_sources("It is wet [S1, S22]. [3]") == [1, 22, 3]
    assert writing.strip_markers('"It is  wet [S1]."') == "It is wet."


def test_a_no_and_a_sentence_that_leans_back_are_recognised() -> None:
    assert [writing.denies(each) for each in ("It should not go.", "It can go.", "Don't.", "Note it.")] == [
        True,
        False,
        True,
        False,
    ]
    assert [writing.leans_back(each) for each in ("It improves the soil.", "Items are sold.", "These are kept.", "Thesis one.")] == [
        True, False, True, False,
    ]  # fmt: skip
