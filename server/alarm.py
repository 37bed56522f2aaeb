"""Looks at the alert rules of all tenants every few seconds, whichever replica comes first, and logs what opens and closes."""

from __future__ import annotations

import asyncio
import logging
import random

from server.database import Database
from server.supervisor import Beat
from sql import SQL

log = logging.getLogger(__name__)

ROUND_SECONDS = 15.0
REST_SECONDS = 10  # between two rounds, whatever the number of replicas


class Alarm:
    """One loop."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, beat: Beat) -> None:
        """Evaluate until cancelled."""
        while True:
            await self.evaluate()
            beat()
            await asyncio.sleep(ROUND_SECONDS * random.uniform(0.8, 1.0))  # noqa: S311 - keeps replicas out of step

    async def evaluate(self) -> None:
        """Look at every rule once, unless somebody just has."""
        async with self._database.statement() as db:
            rows = await db.fetch(SQL["alerts.evaluate"], REST_SECONDS)
        for row in rows:
            facts = {
                "alert_id": str(row["alert_id"]),
                "tenant_id": str(row["tenant_id"]),
                "kind": row["kind"],
                "queue": row["queue"],
                "task_type": row["type"],
                "threshold": row["threshold"],
                "value": round(row["value"], 3),
            }
            if row["opened"]:
                log.warning("alert opened", extra=facts)
            else:
                log.info("alert closed", extra=facts)
