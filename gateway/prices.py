"""Prices: what frontier APIs charge for given tokens on a given day, from the dated data that genai-prices ships.
Offline.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib import metadata

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

from gateway.errors import InvalidRequestError
from gateway.usage import Usage

DEFAULT_COMPARISON = ("openai:gpt-6.1-terra", "anthropic:claude-sonnet-5-5", "google:gemini-3.8-flash")


@dataclass(frozen=True)
class FrontierModel:
    """A model of another provider at its list price (standard tier, no batch discount)."""

    provider: str
    model: str

    @classmethod
    def parse(cls, text: str) -> "FrontierModel":
        """Read `provider:model`, like `openai:gpt-6.1-terra`; raises `InvalidRequestError` when it has no price."""
        provider, colon, model = text.partition(":")
        if not colon:
            raise InvalidRequestError(f"'{text}' is not a priced model; write provider:model.", param="vs")
        parsed = cls(provider, model)
        parsed.charge_nano_usd([Usage(1, 1)], at=datetime.now(UTC))
        return parsed

    @property
    def name(self) -> str:
        """`provider:model`."""
        return f"{self.provider}:{self.model}"

    def charge_nano_usd(self, usages: Iterable[Usage], *, at: datetime) -> int:
        """What these requests would have cost there on that day, if its tokenizer counted as ours does.

        Summed per request, because prices may have tiers by prompt length. No price is an error, never 0.
        """
        try:
            total = sum((self._price(usage, at) for usage in usages), Decimal(0))
        except LookupError as error:
            raise InvalidRequestError(f"There is no price for '{self.name}'; it is unpriced.", param="vs") from error
        return int((total * 10**9).to_integral_value())

    def _price(self, usage: Usage, at: datetime) -> Decimal:
        priced = PricedUsage(
            input_tokens=usage.prompt_tokens,
            cache_read_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
        )
        return calc_price(
            priced, model_ref=self.model, provider_id=self.provider, genai_request_timestamp=at
        ).total_price


def price_source() -> str:
    """Where the prices come from, with their version, for every page that shows one."""
    return f"genai-prices {metadata.version('genai-prices')}"


def frontier_models(names: Sequence[str] = DEFAULT_COMPARISON) -> list[FrontierModel]:
    """The models to compare with."""
    return [FrontierModel.parse(name) for name in names]
