"""The usage ledger: one row per request, durable before the engine sees it, settled once however it ends."""

from gateway.metering.entry import OWN_KEY as OWN_KEY
from gateway.metering.entry import OWN_LABEL as OWN_LABEL
from gateway.metering.entry import SHADOW_KEY as SHADOW_KEY
from gateway.metering.entry import Entry as Entry
from gateway.metering.entry import Finish as Finish
from gateway.metering.entry import now_us as now_us
from gateway.metering.fold import spending as spending
from gateway.metering.fold import usage_ledger as usage_ledger
from gateway.metering.ledger import Ledger as Ledger
from gateway.metering.own_requests import OwnRequest as OwnRequest
from gateway.metering.own_requests import OwnRequests as OwnRequests
