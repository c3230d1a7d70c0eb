"""The facts behind one document: what the operator stated, what was measured, and the prices in force."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from gateway.costs.comparators import Comparator, factor_for, read_factors
from gateway.costs.evidence import (
    CapacityFact,
    ComparisonFact,
    CostEvidence,
    CostEvidenceStore,
    EvidenceKind,
    WeightsFact,
)
from gateway.costs.plan import CostPlan, Preset, read_plan, read_presets
from gateway.costs.prices.book import PriceBook
from gateway.costs.prices.rates import PriceError
from gateway.costs.prices.update import DEFAULT_COMPARISON
from gateway.costs.weights import Weights


@dataclass(frozen=True)
class PricePeriod:
    """Weights, and from when on the bill goes by them: never before they were measured."""

    since_us: int
    weights: Weights
    chars_per_token: Decimal | None = None


@dataclass(frozen=True)
class CostInputs:
    """Everything but the usage."""

    plan: CostPlan
    presets: dict[str, Preset]
    book: PriceBook | None
    """None when nothing is compared: reading it takes half a second and 40 MB."""
    eras: Sequence[PricePeriod]
    """The weights of each time, the oldest first; the first hold from the beginning."""
    chars_per_token: Decimal | None
    capacity: CapacityFact | None
    capacity_words: str
    quality: ComparisonFact | None
    comparators: Sequence[Comparator]
    missing: dict[str, str]
    """Comparators of the default that have no price any more, with the reason."""

    @property
    def weights(self) -> Weights:
        """Those in force at the end of the window."""
        return self.eras[-1].weights


def gather(
    data_dir: Path,
    store: CostEvidenceStore,
    open_book: Callable[[], PriceBook],
    vs: Sequence[str] | None,
    until_us: int | None = None,
) -> CostInputs:
    """Read everything; raises for a mistake in a file, and for a comparator that was named and has no price.

    Weights that were measured after the end of the window do not count, so a closed bill stays as it is.
    """
    eras = [one for one in read_eras(store) if until_us is None or one.since_us < until_us]
    chars = eras[-1].chars_per_token
    capacity = store.newest(EvidenceKind.CAPACITY)
    quality = store.newest(EvidenceKind.QUALITY)
    factors, missing = read_factors(), {}
    comparators: list[Comparator] = []
    names = list(DEFAULT_COMPARISON if vs is None else dict.fromkeys(vs))
    book = open_book() if names else None
    for name in names:
        assert book is not None
        try:
            listing = book.find(name)
        except PriceError as error:
            if vs is not None:
                raise
            missing[name] = str(error)
            continue
        comparators.append(Comparator(listing, factor_for(name, factors).relative_to(chars)))
    return CostInputs(
        plan=read_plan(data_dir),
        presets=read_presets(),
        book=book,
        eras=eras,
        chars_per_token=chars,
        capacity=None if capacity is None else CapacityFact.model_validate(capacity.document),
        capacity_words=_capacity_words(capacity),
        quality=None if quality is None else ComparisonFact.model_validate(quality.document),
        comparators=comparators,
        missing=missing,
    )


def read_eras(store: CostEvidenceStore) -> list[PricePeriod]:
    """All weights that ever were in force, the stated ones first."""
    return [PricePeriod(0, Weights()), *map(_era, store.all(EvidenceKind.WEIGHTS))]


def read_weights(store: CostEvidenceStore) -> Weights:
    """The weights in force now."""
    found = store.newest(EvidenceKind.WEIGHTS)
    return Weights() if found is None else _era(found).weights


def _era(found: CostEvidence) -> PricePeriod:
    fact = WeightsFact.model_validate(found.document)
    basis = (
        f"measured on {found.made_on} with {fact.batches} batches of {fact.concurrency} requests at a time: "
        f"{fact.prompt_ps / 1e6:.3g}, {fact.cached_ps / 1e6:.3g} and {fact.output_ps / 1e6:.3g} us of engine time per "
        f"uncached, cached and generated token; error {fact.error_share:.1%} of a batch's time"
    )
    chars = None if fact.chars_per_token is None else Decimal(str(fact.chars_per_token))
    weights = Weights(fact.prompt_ps, fact.cached_ps, fact.output_ps, is_measured=True, basis=basis)
    return PricePeriod(found.made_us, weights, chars)


def _capacity_words(found: CostEvidence | None) -> str:
    if found is None:
        return (
            "not measured: run `turntable loadtest capacity --json capacity.json`, "
            "then `turntable costs record capacity.json`"
        )
    fact = CapacityFact.model_validate(found.document)
    words = f"measured on {found.made_on}: {fact.conclusion.rstrip('.')}"
    if fact.provenance is not None and fact.provenance.url:
        where = f", machine {fact.provenance.machine}" if fact.provenance.machine else ""
        words += f" ({', '.join(fact.provenance.models)} at {fact.provenance.url}{where})"
    return words if fact.despite is None else f"{words}; counts despite: {fact.despite}"
