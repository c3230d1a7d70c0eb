"""The usage ledger: one row per request, durable before the engine sees it, settled once however it ends."""

from gateway.ledger.entry import OWN_KEY as OWN_KEY
from gateway.ledger.entry import OWN_LABEL as OWN_LABEL
from gateway.ledger.entry import SHADOW_KEY as SHADOW_KEY
from gateway.ledger.entry import SHADOW_SUFFIX as SHADOW_SUFFIX
from gateway.ledger.entry import Entry as Entry
from gateway.ledger.entry import Finish as Finish
from gateway.ledger.entry import now_us as now_us
from gateway.ledger.entry import shadow_label as shadow_label
from gateway.ledger.ledger import Ledger as Ledger
from gateway.ledger.own import OwnRequest as OwnRequest
from gateway.ledger.own import OwnRequests as OwnRequests
from gateway.ledger.spending import spending as spending
from gateway.ledger.table import usage_ledger as usage_ledger
