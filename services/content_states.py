"""The life of a content item as data. The state speaks of the latest version; what readers see is in services/publications.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

State = Literal["draft", "in_review", "changes_requested", "rejected", "approved", "published"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state that is allowed."""

    sources: tuple[State, ...]
    target: State


# Every change goes through content.move or, for a new version, content.add_version and content.edit; app.close_reviews does "close".
TRANSITIONS: dict[str, Transition] = {
    "revise": Transition(
        ("draft", "changes_requested", "rejected", "approved", "published"), "draft"
    ),  # a new version
    "supersede": Transition(
        ("in_review",), "in_review"
    ),  # a new version takes the place of the one under review
    "submit": Transition(("draft",), "in_review"),
    "close": Transition(("in_review",), "draft"),  # the review ends without a decision
    "request_changes": Transition(("in_review",), "changes_requested"),
    "reject": Transition(("in_review",), "rejected"),
    "approve": Transition(("in_review",), "approved"),
    "publish": Transition(("approved",), "published"),
    "withdraw": Transition(("published",), "approved"),  # readers no longer see it
}
