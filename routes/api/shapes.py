"""What API models are made of: bases for bodies, queries and answers, and field types that JSON Schema and pydantic read alike."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

Item = TypeVar("Item")

_WHOLE = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _whole(value: object) -> object:
    # JSON Schema counts 5.0 among the integers; strict pydantic does not.
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _digits(value: object) -> object:
    # Lax pydantic would also take " 5", "5.0" and "1_000" from a query string.
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError("must be a whole number")
    return value


def _instant(value: object) -> object:
    # Strict pydantic takes no text here once a validator stands before it, and lax pydantic takes "1700000000".
    if not isinstance(value, str):
        return value
    if not _RFC_3339.fullmatch(value):
        raise ValueError("must be a time as in RFC 3339, with its zone")
    moment = datetime.fromisoformat(value.upper())
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1 to 9999 of UTC") from None
    return moment


Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # PostgreSQL cannot store NUL
Int = Annotated[int, BeforeValidator(_whole)]
QueryInt = Annotated[int, BeforeValidator(_digits)]
Instant = Annotated[AwareDatetime, BeforeValidator(_instant)]
JSONObject = dict[str, Any]


class Body(BaseModel):
    """What a caller sends as JSON: unknown fields are refused and nothing is converted on the quiet."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Query(BaseModel):
    """What a caller sends behind the question mark: unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PageQuery(Query):
    """A query for a list that is read page by page."""

    limit: QueryInt = Field(default=50, ge=1, le=200, description="How many items at most.")
    cursor: Text | None = Field(
        default=None, max_length=2000, description="`next_cursor` of the page before; opaque."
    )


class View(BaseModel):
    """What an answer shows of a row: read from the attributes of whatever the service returned."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


class Page(View, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(
        description="Send it as `cursor` for the next page; null on the last one."
    )
