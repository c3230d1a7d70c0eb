"""Compute the cost of each arm and the saving of the candidate; a missing price is reported, never taken for 0."""

from collections import Counter
from collections.abc import Sequence

from trainer.eval.answers import Answer
from trainer.eval.report import Arm, ArmCost

BASIS = "cost_basis"
"""The setting of an arm that counts its priced requests by what their cost was computed from."""
FRONTIER_PRICES = "frontier prices"
_BASES = {
    "calibrated": "weights that `turntable costs calibrate` measured",
    "recent": "what work cost lately while engines were busy",
    "stated": "stated weights, which no calibration has measured",
    FRONTIER_PRICES: "the prices in [frontier]",
}


def cost_of(answers: Sequence[Answer], correct: int) -> ArmCost:
    """Return the cost of an arm: per request the mean of the priced requests, in total only when all have a price.

    Without any price, all values are None: a gateway has no price before its first requests.
    """
    costs = [answer.cost_nano_usd for answer in answers if answer.error is None]
    known = [cost for cost in costs if cost is not None]
    if not known:
        return ArmCost(total=None, per_request=None, per_correct=None)
    per_request = sum(known) / len(known)
    return ArmCost(
        total=sum(known) if len(known) == len(costs) else None,
        per_request=round(per_request),
        per_correct=round(per_request * len(costs) / correct) if correct else None,
    )


def basis_of(answers: Sequence[Answer]) -> dict[str, dict[str, int]]:
    """Return the sources of an arm's prices, as a setting of the report; empty without prices."""
    priced = (one for one in answers if one.cost_nano_usd is not None and one.cost_basis)
    counts = Counter(str(one.cost_basis) for one in priced)
    return {BASIS: dict(counts)} if counts else {}


def basis_word(arm: Arm) -> str:
    """Return the sources of an arm's prices, for a table."""
    return ", ".join(arm.settings.get(BASIS, {})) or "unknown"


def basis_sentence(arms: Sequence[Arm], when: str) -> str:
    """Return a sentence on the sources and the date of the costs; empty without prices."""
    if not any(arm.cost_nano_usd.per_request for arm in arms):
        return ""
    bases = sorted({name for arm in arms for name in arm.settings.get(BASIS, {})})
    named = "; ".join(f"{name}: {_BASES.get(name, 'as the gateway reports')}" for name in bases) or "basis unknown"
    more = " A calibration changes them: hold only costs of one basis against each other." if bases else ""
    return f"Costs as of {when[:10]} ({named}).{more}"


def cost_saving(candidate: Arm, others: Sequence[Arm]) -> str:
    """Compare the cost of 1,000 requests and of 1,000 correct answers with the other arms, in a sentence."""
    mine = candidate.cost_nano_usd
    if mine.per_request is None:
        return f"The cost of {candidate.name} is unknown: the gateway gave no price for its requests."
    amounts = [f"1,000 requests cost {_usd(mine.per_request)} with {candidate.name}{_right(mine)}"]
    for other in others:
        cost = other.cost_nano_usd
        if cost.per_request is None:
            amounts.append(f"{other.name} has no price")
            continue
        amounts.append(f"{other.name} {_usd(cost.per_request)}{_right(cost)}{_saved(mine, cost)}")
    return f"{'; '.join(amounts)}."


def _right(cost: ArmCost) -> str:
    return ", which was never right" if cost.per_correct is None else f", 1,000 right answers {_usd(cost.per_correct)}"


def _saved(mine: ArmCost, other: ArmCost) -> str:
    if not other.per_request or mine.per_request is None:
        return ""
    share = 1 - mine.per_request / other.per_request
    word = "less" if share >= 0 else "more"
    return f" ({abs(share):.0%} {word} with the candidate)"


def _usd(nano_usd: int) -> str:
    """The price of a thousand."""
    usd = nano_usd / 1e6
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}"
