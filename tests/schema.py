"""Writes sql/schema.sql: the whole schema of today in one piece, for people who read it. Nothing runs it.

    python -m tests.schema

Made by pg_dump from a freshly migrated database. Functions are left out, since sql/functions has them; so are the partitions of
months, which depend on the day.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
from pathlib import Path

from server import cluster, embedded, migrations

FILE = Path(__file__).parents[1] / "sql" / "schema.sql"
HEAD = """-- The whole schema, made from the migrations by `make schema`; nothing runs it. All of it belongs to galley_owner.
-- Functions are in sql/functions. History, events and steps have a partition for each month, which are left out.
"""
_IN_SQL_FUNCTIONS = re.compile(r"^\d+; \d+ \d+ (FUNCTION|AGGREGATE|ACL \w+ (FUNCTION|AGGREGATE)) ", re.ASCII)
_SAID_BY_THE_PROGRAM = re.compile(
    r"^(--|\\(un)?restrict |SET |SELECT pg_catalog\.set_config).*\n", re.MULTILINE
)


def dump(dsn: str) -> str:
    """Return the schema of the database at *dsn*, which needs the PostgreSQL of the embedded one. Raises: CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        whole, contents = Path(folder) / "whole", Path(folder) / "contents"
        options = (
            "--schema-only",
            "--no-statistics",
            "--format=custom",
            "--exclude-table=*.*_2???_??",
            "--exclude-table=*.*_default",
        )
        _run("pg_dump", *options, f"--file={whole}", dsn)
        listed = _run("pg_restore", "--list", whole).splitlines(keepends=True)
        contents.write_text("".join(line for line in listed if not _IN_SQL_FUNCTIONS.match(line)))
        text = _run("pg_restore", "--no-owner", f"--use-list={contents}", "--file=-", whole)
    return HEAD + "\n" + re.sub(r"\n{2,}", "\n\n", _SAID_BY_THE_PROGRAM.sub("", text)).strip() + "\n"


def _run(program: str, *arguments: str | Path) -> str:
    command = [cluster.programs() / program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="galley-schema-") as folder:
        running = embedded.start_postgres(Path(folder) / "data", durable=False)
        try:
            asyncio.run(migrations.migrate(running.admin_dsn))
            FILE.write_text(dump(running.admin_dsn))
        finally:
            embedded.stop_postgres(running)


if __name__ == "__main__":
    main()
