"""Adapter loads: when an engine spent how long on bringing an adapter in; the bill charges that time to the adapter."""

import logging
from collections.abc import Callable

from sqlalchemy import Engine, insert
from sqlalchemy.exc import SQLAlchemyError

from gateway.costs.tables import adapter_loads
from gateway.ledger import now_us

log = logging.getLogger(__name__)


class AdapterLoads:
    """Writes down adapter loads; a load that cannot be written down is logged, and has happened all the same."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    def recorder(self, engine: str) -> Callable[[str, float], None]:
        """What an engine's loader tells adapter and seconds to, when a load is done; blocks."""

        def record(adapter: str, load_s: float) -> None:
            load_us = int(load_s * 1e6)
            row = {"at_us": now_us() - load_us, "load_us": load_us, "engine": engine, "adapter": adapter}
            try:
                with self._database.begin() as connection:
                    connection.execute(insert(adapter_loads).values(row))
            except SQLAlchemyError:
                log.exception("the load of %s on %s is missing from the bill", adapter, engine)

        return record
