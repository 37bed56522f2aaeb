"""What holds for every template, read as text: nothing that the content security policy would refuse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TEMPLATES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "templates").rglob("*.html"))
INLINE_STYLE = re.compile(r"\sstyle\s*=|<style\b", re.IGNORECASE)
INLINE_HANDLER = re.compile(r"\son[a-z]+\s*=|javascript:", re.IGNORECASE)
SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script>", re.IGNORECASE | re.DOTALL)
ELSEWHERE = re.compile(r"(?:src|href|action)=\"(?:https?:)?//", re.IGNORECASE)


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_template_carries_styles_handlers_or_scripts_of_its_own(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")

    assert INLINE_STYLE.findall(text) == []
    assert INLINE_HANDLER.findall(text) == []
    for attributes, body in SCRIPT.findall(text):
        assert "src=" in attributes or "application/ld+json" in attributes, body


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_template_loads_anything_from_elsewhere(name: str) -> None:
    assert ELSEWHERE.findall((ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_form_that_changes_something_carries_the_token(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")

    forms = re.findall(r"<form\b[^>]*method=\"post\".*?</form>", text, re.DOTALL)

    assert all("csrf()" in form for form in forms)
