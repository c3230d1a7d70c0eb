"""What one tenant may see of a cost document: its own lines, and nothing that the work of others could be read from."""

from gateway.costs.document import CostDocument


def only_of(tenant: str, document: CostDocument) -> CostDocument:
    """The document, grouped by tenant among others, with the lines of one tenant; its bill is their sum."""
    lines = [line for line in document.data if line.tenant == tenant]
    costs = [line.cost_nano_usd for line in lines]
    return document.model_copy(
        update={
            "data": lines,
            "bill_nano_usd": None if None in costs else sum(cost for cost in costs if cost is not None),
            "idle_nano_usd": None,
            "engine_up_s": 0.0,
            "engine_busy_s": 0.0,
            "capacity": "",
            "notes": [f"Only what the tenant '{tenant}' caused; the whole bill takes an admin key."],
            **{part: [] for part in ("overhead", "engines", "levels", "comparators", "payback", "quality")},
        }
    )
