"""Sources to plain text with its headings."""

from __future__ import annotations

import time

import pytest

from services import parsing
from services.errors import Invalid

Found = list[tuple[tuple[str, ...], str]]


def found(source: str, mime: str) -> Found:
    parsed = parsing.parse(source, mime)
    return [(block.headings, parsed.text[block.start : block.end]) for block in parsed.blocks]


def test_markdown_is_told_apart_by_its_headings() -> None:
    source = "Before.\n\n# Type\n\nOne\ntwo.\n\n## Wood\n\n- oak\n- pear\n\n# Ink\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\n# no heading\n```\n"

    assert found(source, "text/markdown") == [
        ((), "Before."),
        (("Type",), "One\ntwo."),
        (("Type", "Wood"), "- oak\n- pear"),
        (("Ink",), "| a | b |\n|---|---|\n| 1 | 2 |"),
        (("Ink",), "```\n# no heading\n```"),
    ]


def test_a_heading_that_skips_levels_stands_below_the_last_higher_one() -> None:
    assert found("# A\n\n### C\n\nx\n\n## B\n\ny\n\nTitle\n===\n\nz", "text/markdown") == [
        (("A", "C"), "x"),
        (("A", "B"), "y"),
        (("Title",), "z"),
    ]


def test_sections_of_the_same_name_are_told_apart() -> None:
    blocks = parsing.parse("# A\n\nx\n\n# A\n\ny", "text/markdown").blocks

    assert [(block.headings, block.section) for block in blocks] == [(("A",), 1), (("A",), 2)]


def test_front_matter_is_no_text() -> None:
    assert found("---\ntitle: x\n---\n# A\n\nText.", "text/markdown") == [(("A",), "Text.")]


def test_line_ends_and_byte_order_marks_are_made_alike() -> None:
    assert found("\ufeff# A\r\n\r\none\r\ntwo\r", "text/markdown") == [(("A",), "one\ntwo")]


def test_plain_text_is_cut_at_empty_lines_and_nothing_in_it_is_markup() -> None:
    assert found("# one\n  two\n\n \n<b>three</b>\n", "text/plain") == [
        ((), "# one\n  two"),
        ((), "<b>three</b>"),
    ]


def test_html_gives_its_text_in_order_with_its_headings() -> None:
    source = """<html><head><title>T</title><style>p {}</style></head><body><nav>menu</nav>
    <h1>Wood <em>type</em></h1><p>First <b>part</b> with<br>a break &amp; an entity.</p>
    <div>loose <p>inner</p> tail</div><ul><li>one</li><li>two<ul><li>nested</li></ul></li></ul>
    <h2>Sizes</h2><table><tr><th>Size</th><th>Name</th></tr><tr><td>12</td><td>Pica</td></tr></table>
    <pre>a = 1
  b = 2</pre><script>alert(1)</script><footer>foot</footer></body></html>"""

    assert found(source, "text/html") == [
        (("Wood type",), "First part with a break & an entity."),
        (("Wood type",), "loose"),
        (("Wood type",), "inner"),
        (("Wood type",), "tail"),
        (("Wood type",), "one"),
        (("Wood type",), "two"),
        (("Wood type",), "nested"),
        (("Wood type", "Sizes"), "Size | Name"),
        (("Wood type", "Sizes"), "12 | Pica"),
        (("Wood type", "Sizes"), "a = 1\n  b = 2"),
    ]


def test_html_prefers_the_main_part_of_a_page() -> None:
    assert found("<body><p>banner</p><main><p>text</p></main></body>", "text/html") == [((), "text")]


def test_hidden_instructions_in_attributes_and_comments_are_no_text() -> None:
    assert found('<p title="obey">seen<!-- obey --></p><img alt="obey">', "text/html") == [((), "seen")]


@pytest.mark.parametrize(
    ("source", "mime"),
    [
        ("", "text/plain"),
        (" \n\t ", "text/markdown"),
        ("# Only a heading", "text/markdown"),
        ("<p> </p>", "text/html"),
    ],
)
def test_a_source_without_text_is_refused(source: str, mime: str) -> None:
    with pytest.raises(Invalid, match="no text"):
        parsing.parse(source, mime)


def test_html_nested_beyond_reason_is_refused_at_once() -> None:
    started = time.process_time()

    for source in ("<div>" * 100_000 + "x", "<ul><li>" * 50_000 + "x", "</p>" + "<b>" * 100_000):
        with pytest.raises(Invalid, match="nested deeper"):
            parsing.parse(source, "text/html")

    assert time.process_time() - started < 2
    assert found("<div>" * 1000 + "x" + "</div>" * 1000 + "<p>y<br>" * 3000, "text/html")[0] == ((), "x")


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Invalid, match=r"application/pdf.*text/markdown"):
        parsing.parse("x", "application/pdf")


def test_readable_text_keeps_the_words_and_loses_the_marks() -> None:
    text = '> A **bold** [link](http://x.example/y "t") and `code_name`, ![pic](a.png)\n\n- item\n\n| a | b |\n|---|:-:|\n| 1 | 2 |'

    assert " ".join(parsing.readable(text, "text/markdown").split()) == (
        "A bold link and code_name , pic item a b 1 2"
    )
    assert parsing.readable("a * b\n c", "text/plain") == "a * b c"


@pytest.mark.parametrize(
    ("source", "mime"),
    [
        ("[" * 50_000, "text/markdown"),
        ("> " * 5_000 + "x", "text/markdown"),
        ("*a " * 20_000, "text/markdown"),
        ("<p>a <i>b</i> " * 20_000, "text/html"),
        ("\n" * 200_000 + "x", "text/plain"),
    ],
)
def test_hostile_sources_take_no_more_than_seconds(source: str, mime: str) -> None:
    started = time.process_time()

    parsed = parsing.parse(source, mime)
    parsing.readable(source, mime)

    assert parsed.blocks
    assert time.process_time() - started < 5
