"""What the scripted model says: text that follows from the prompt alone, so that the same request has the same answer.

It does what a good model does with Galley's own prompts: plans from the headings of the sources, writes sentences that stand in
them and names each, judges, and meets the points that were made.
"""

from __future__ import annotations

import json
import re
from typing import Any

Messages = list[dict[str, str]]

KINDS = {
    "outline": "Plan an article on this topic",
    "draft_section": "Write the section ",
    "refine_section": "Rewrite the section ",
    "critique": "Review the article below",
    "retell_passage": "Rewrite this passage",
}
_SOURCE = re.compile(
    r"^\[S(\d+)\] ([^\n]*)\n(.+?)(?=\n\n\[S\d+\] |\n\n(?:Re)?[Ww]rite |\Z)", re.MULTILINE | re.DOTALL
)
_BEGINNING = re.compile(r"^\[S\d+\] ([^\n:]*)", re.MULTILINE)
_SENTENCE = re.compile(r"[^.!?]+[.!?](?=\s|$)")


def kind(messages: Messages) -> str:
    """Return which of Galley's prompts this is; `other` for anything else. Only the last question counts."""
    asked = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    questions = [message["content"] for message in messages if message["role"] == "user"]
    for name, words in KINDS.items():
        if words in asked:
            return name
    return next((name for name, words in KINDS.items() if any(words in each for each in questions)), "other")


def answer(messages: Messages, body: dict[str, Any]) -> str:
    """Return the answer to a request; JSON where a schema was sent or the prompt is one that wants it."""
    prompts = [message["content"] for message in messages if message["role"] == "user"]
    makers = {
        "outline": _outline,
        "draft_section": _section,
        "refine_section": _refined,
        "critique": _critique,
        "retell_passage": lambda prompt: prompt.rpartition("\n\n")[2],
    }
    which = kind(messages)
    if which not in makers:
        return "This is a scripted answer. It says the same each time."
    prompt = next(each for each in reversed(prompts) if KINDS[which] in each)
    return makers[which](prompt)


def _outline(prompt: str) -> str:
    topic = _line(prompt, "Plan an article on this topic: ")
    labels = list(dict.fromkeys(label.rpartition(", ")[2] for label in _BEGINNING.findall(prompt)))
    headings = [label for label in labels if 1 <= len(label.split()) <= 12][:4]
    return json.dumps(
        {
            "title": topic[:100],
            "summary": f"What the sources say about {topic[:150].rstrip('.')}.",
            "tags": [word.lower() for word in re.findall(r"[A-Za-z]{5,}", topic)][:3] or ["article"],
            "sections": [
                {"heading": heading, "about": f"What there is to know about {heading}."}
                for heading in headings
            ],
        }
    )


def _section(prompt: str) -> str:
    """Two sentences of each source, word for word, in one paragraph a source."""
    paragraphs = []
    for number, _, text in _SOURCE.findall(prompt):
        sentences = [" ".join(each.split()) for each in _SENTENCE.findall(text)]
        told = [each for each in sentences if len(each.split()) >= 5][:2]
        paragraphs.append(" ".join(f"{each[:-1]} [S{number}]{each[-1]}" for each in told))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _refined(prompt: str) -> str:
    """The sentences of the sources that share most words with the points, then the section as it was."""
    points = prompt.partition("meets these points:")[2].partition("The section now:")[0]
    wanted = set(re.findall(r"[a-z]{4,}", points.lower()))
    told = []
    for number, _, text in _SOURCE.findall(prompt):
        for each in _SENTENCE.findall(text):
            words = set(re.findall(r"[a-z]{4,}", each.lower()))
            if wanted & words and len(each.split()) >= 5:
                told.append((len(wanted & words), f"{' '.join(each.split())[:-1]} [S{number}]."))
    best = [each for _, each in sorted(told, key=lambda entry: -entry[0])[:2]]
    now = prompt.partition("The section now:\n\n")[2].partition("\n\nWrite the whole section anew")[0]
    return " ".join(best) + "\n\n" + now


def _critique(prompt: str) -> str:
    """Good scores; each point of the reviewers is shown by the first sentence of the text."""
    article = prompt.partition("\n\n")[2].partition("\n\nWhat its markers quote:")[0]
    first = next(
        (each.strip() for each in _SENTENCE.findall(article) if len(each.split()) >= 5), article[:100]
    )
    points = re.findall(
        r"^(\d+)\. ",
        prompt.partition("which it should meet:")[2].partition("Give three scores")[0],
        re.MULTILINE,
    )
    quote = first.rpartition("\n")[2][:200]
    return json.dumps(
        {
            "scores": {"grounding": 9, "clarity": 8, "structure": 8},
            "issues": [],
            "addressed": [{"point": int(point), "quote": quote} for point in points],
            "verdict": "pass",
        }
    )


def _line(prompt: str, start: str) -> str:
    return prompt.partition(start)[2].partition("\n")[0].strip()
