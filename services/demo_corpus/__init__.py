"""Ten short documents about printing, old and new, for a first look at Galley: what the demo tenant starts with.

Written for this project. Each folder is a collection, each file a document whose first line is its title.
"""

from __future__ import annotations

from pathlib import Path

from services.documents import NewDocument

FOLDER = Path(__file__).parent


def read() -> list[NewDocument]:
    """Return the documents by collection and file name."""
    return [
        NewDocument(
            collection=path.parent.name,
            title=text.partition("\n")[0].removeprefix("# "),
            text=text,
            mime="text/markdown",
            metadata={"demo": True, "file": path.name},
        )
        for path in sorted(FOLDER.glob("*/*.md"))
        for text in [path.read_text(encoding="utf-8")]
    ]
