"""What one tenant may see of a cost document: its own lines, and nothing that the work of others could be read from."""

from dataclasses import replace

from gateway.clock import DAY_US
from gateway.costs.document import CostDocument
from gateway.costs.report import CostQuery
from gateway.errors import InvalidRequestError


def asked_by_tenant(question: CostQuery) -> CostQuery:
    """The question as a tenant may ask it: grouped by tenant among others, of whole days.

    Raises `InvalidRequestError` for what would tell how busy engines are, and with whose work.
    """
    for name, given in (("idle", question.idle), ("usd_per_hour", question.usd_per_hour)):
        if given is not None:
            raise InvalidRequestError(f"'{name}' takes an admin key; leave it out.", param=name)
    if "engine" in question.group_by:
        raise InvalidRequestError("Grouping by engine takes an admin key; leave it out.", param="group_by")
    until = question.until_us
    return replace(
        question,
        since_us=question.since_us // DAY_US * DAY_US,
        until_us=None if until is None else -(-until // DAY_US) * DAY_US,
        group_by=tuple(dict.fromkeys(("tenant", *question.group_by))),
    )


def only_of(tenant: str, document: CostDocument) -> CostDocument:
    """The document, grouped by tenant among others, with the lines of one tenant; its bill is their sum.

    How much of a line is idle time is left out: it would tell how busy the engines were.
    """
    lines = [line for line in document.data if line.tenant == tenant]
    costs = [line.cost_nano_usd for line in lines]
    return document.model_copy(
        update={
            "data": [line.model_copy(update={"active_nano_usd": None, "idle_share_nano_usd": None}) for line in lines],
            "bill_nano_usd": None if None in costs else sum(cost for cost in costs if cost is not None),
            "idle_nano_usd": None,
            "booked_nano_usd": None,
            "engine_up_s": 0.0,
            "engine_busy_s": 0.0,
            "capacity": "",
            "notes": [f"Only what the tenant '{tenant}' caused; the whole bill takes an admin key."],
            **{part: [] for part in ("overhead", "engines", "levels", "comparators", "payback", "quality")},
        }
    )
