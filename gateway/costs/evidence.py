"""Evidence: measured facts that costs rest on (weights, capacity, quality), kept with their date; the newest counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, insert, select

from gateway.costs.tables import cost_evidence, work_prices
from gateway.ledger import now_us


class Kind(StrEnum):
    """What was measured."""

    WEIGHTS = "weights"
    CAPACITY = "capacity"
    QUALITY = "quality"


@dataclass(frozen=True)
class Evidence:
    """One measurement."""

    made_us: int
    document: Mapping[str, Any]

    @property
    def made_on(self) -> str:
        """The day, for people."""
        return datetime.fromtimestamp(self.made_us / 1e6, UTC).date().isoformat()


class EvidenceStore:
    """Keeps evidence in the database; nothing is ever deleted. Methods block."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    def add(self, kind: Kind, document: Mapping[str, Any], made_us: int | None = None) -> None:
        """Keep a measurement; from now on (or from `made_us`) it is the one that counts."""
        with self._database.begin() as connection:
            values = {"kind": kind, "made_us": made_us or now_us(), "document": dict(document)}
            connection.execute(insert(cost_evidence).values(values))

    def keep_price(self, version: str, document: Mapping[str, Any]) -> None:
        """Keep what a price version stands for, so that the costs of its rows can be computed again."""
        with self._database.begin() as connection:
            row = work_prices.c
            if connection.execute(select(row.version).where(row.version == version)).first() is None:
                values = {"version": version, "since_us": now_us(), "document": dict(document)}
                connection.execute(insert(work_prices).values(values))

    def newest(self, kind: Kind) -> Evidence | None:
        """The latest measurement of a kind."""
        row = cost_evidence.c
        query = select(row.made_us, row.document).where(row.kind == kind).order_by(row.id.desc()).limit(1)
        with self._database.connect() as connection:
            found = connection.execute(query).first()
        return None if found is None else Evidence(found.made_us, found.document)

    def all(self, kind: Kind) -> Sequence[Evidence]:
        """Every measurement of a kind, the oldest first."""
        row = cost_evidence.c
        query = select(row.made_us, row.document).where(row.kind == kind).order_by(row.made_us, row.id)
        with self._database.connect() as connection:
            return [Evidence(found.made_us, found.document) for found in connection.execute(query)]
