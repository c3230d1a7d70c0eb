"""Metering: durable accounting of what every request used. The life of a ledger entry:

    entry.py               a `LedgerEntry` is opened before the engine sees the request and settled once, at its end
    journal.py             opening and settling append one line each to a journal file: a request waits for no database
    ledger.py              a thread folds journal lines into the database, also those that killed processes left
    fold.py                lines become rows of `usage_ledger`; in the same transaction costs are added to `spending`
    usage_summary.py       rows are summed by hour (SQL in usage_queries.py); closed hours are checked and kept
    retention.py           old rows are deleted once their hours are summed; a tenant's name can be erased
    reconcile/             ledger tokens against the engines' own counters; recovery of rows that a crash cut off

Beside it: engine_uptime.py (hours up and adapter loads, for the bill), own_requests.py (probes), refusal_log.py
(requests without a row), request_history.py and export.py (reading rows back), service.py (all as one service).
"""

from gateway.metering.entry import OWN_KEY as OWN_KEY
from gateway.metering.entry import OWN_LABEL as OWN_LABEL
from gateway.metering.entry import SHADOW_KEY as SHADOW_KEY
from gateway.metering.entry import Finish as Finish
from gateway.metering.entry import LedgerEntry as LedgerEntry
from gateway.metering.ledger import Ledger as Ledger
from gateway.metering.own_requests import OwnRequest as OwnRequest
from gateway.metering.own_requests import OwnRequests as OwnRequests
from gateway.metering.tables import spending as spending
from gateway.metering.tables import usage_ledger as usage_ledger
