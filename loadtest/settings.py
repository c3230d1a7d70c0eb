"""Settings of a load test, validated on construction."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from loadtest.arrivals import Rate
from loadtest.errors import InvalidWorkloadError
from loadtest.metrics import Slo
from loadtest.model_mix import model_sequence
from loadtest.traces import FORMATS
from loadtest.workload import Lengths

DEFAULT_CONCURRENCY = 8
DEFAULT_REQUESTS = 64
ARRIVALS = ("poisson", "gamma", "constant", "trace")


@dataclass(frozen=True, slots=True)
class PromotionPlan:
    """Promotions during the test: `versions` of `adapter` become live in turn, one every `every_s` seconds."""

    adapter: str
    versions: tuple[int, ...]
    every_s: float
    admin_url: str
    admin_key: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str, every_s: float, admin_url: str, admin_key: str | None) -> "PromotionPlan":
        """Parse `support=2,3`: the adapter and the versions to promote."""
        name, _, numbers = text.partition("=")
        try:
            versions = tuple(int(number.strip().removeprefix("v")) for number in numbers.split(","))
        except ValueError:
            versions = ()
        if not name or not versions or min(versions) < 1:
            raise InvalidWorkloadError(f"--promote must look like my-adapter=2,3 (versions), not {text!r}.")
        return cls(name, versions, every_s, checked_url(admin_url, "--admin-url"), admin_key)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Settings of one load test. A rate, a ramp or trace times make an open loop; `concurrency` caps it."""

    url: str
    models: tuple[str, ...]
    requests: int | None = None
    """None: 64, or as many as the time or the trace holds."""
    concurrency: int | None = None
    rate_per_s: float | None = None
    max_tokens: int = 64
    prompts: Path | None = None
    seed: int = 0
    run: int = 0
    """Number of this run in a study; each run draws its own words, gaps and models."""
    exact_offer: bool = False
    """Open loop of a fixed time: send exactly rate x time requests."""
    timeout_s: float = 120.0
    key: str | None = field(default=None, repr=False)
    url_from: str = "the address given"
    """Source of the address, for the message when nothing answers there."""
    duration_s: float | None = None
    """No request leaves later than so many seconds after the start."""
    arrivals: str = "poisson"
    burstiness: float = 1.0
    """Shape of gamma arrivals: 1 is Poisson, less is burstier."""
    ramp: str | None = None
    think_s: float = 0.0
    popularity: str = "uniform"
    prompt_words: str | None = None
    output_tokens: str | None = None
    turns: int = 1
    conversations: int = 8
    prefix_words: int = 0
    trace: Path | None = None
    trace_format: str = "auto"
    speedup: float = 1.0
    warmup: int = 1
    """Requests to every model before the test begins; 0 measures cold starts."""
    cold_after_s: float | None = None
    """A model that has not answered for so long counts as cold again."""
    processes: int = 1
    slo: Slo = field(default_factory=Slo)
    usd_per_hour: float | None = None
    promotions: PromotionPlan | None = None

    def __post_init__(self) -> None:
        checked_url(self.url, "--url")
        if not self.models or not all(self.models):
            raise InvalidWorkloadError("--models needs at least one model name, such as base,support-triage.")
        if len(set(self.models)) < len(self.models):
            raise InvalidWorkloadError("--models names a model twice; shares are given by --popularity.")
        model_sequence(self.popularity, self.models, self.seed)
        for lengths, option in ((self.prompt_words, "--prompt-words"), (self.output_tokens, "--output-tokens")):
            if lengths is not None:
                Lengths.parse(lengths, option)
        self._check_arrivals()
        if self.promotions and self.processes > 1:
            raise InvalidWorkloadError("--promote works with --processes 1 only.")

    def _check_arrivals(self) -> None:
        if self.arrivals not in ARRIVALS:
            raise InvalidWorkloadError(f"--arrivals must be one of {', '.join(ARRIVALS)}, not {self.arrivals!r}.")
        if self.trace_format not in FORMATS:
            raise InvalidWorkloadError(
                f"--trace-format must be one of {', '.join(FORMATS)}, not {self.trace_format!r}."
            )
        if self.arrivals == "trace" and not self.trace:
            raise InvalidWorkloadError("--arrivals trace needs --trace FILE.")
        if self.rate_per_s and self.ramp:
            raise InvalidWorkloadError("--rate and --ramp exclude each other.")
        if self.prompts and (self.trace or self.prompt_words):
            raise InvalidWorkloadError("--prompts excludes --trace and --prompt-words: they make their own prompts.")
        if self.ramp:
            Rate.parse(self.ramp)

    @property
    def base_url(self) -> str:
        """The server's root, without `/v1`."""
        return self.url.rstrip("/").removesuffix("/v1")

    @property
    def rate(self) -> Rate | None:
        """The open loop's rate; None in a closed loop and when a trace sets the times."""
        if self.ramp:
            return Rate.parse(self.ramp)
        return Rate(self.rate_per_s, self.rate_per_s) if self.rate_per_s else None

    @property
    def is_open_loop(self) -> bool:
        """Whether send times are fixed in advance."""
        return self.arrivals == "trace" or self.rate is not None

    @property
    def is_steady(self) -> bool:
        """Whether the request rate is constant."""
        return bool(self.rate_per_s) and self.arrivals != "trace"

    @property
    def shape(self) -> float | None:
        """Shape of the gamma distribution of the gaps; None when they are constant."""
        return {"constant": None, "gamma": self.burstiness}.get(self.arrivals, 1.0)

    @property
    def most_requests(self) -> int:
        """Maximum number of requests."""
        if self.requests is not None:
            return self.requests
        return DEFAULT_REQUESTS if self.duration_s is None and self.trace is None else 1 << 62

    @property
    def until_s(self) -> float:
        """Latest send time."""
        return math.inf if self.duration_s is None else self.duration_s


def checked_url(url: str, option: str) -> str:
    """Return the address; raises InvalidWorkloadError when it is not an http(s) URL."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidWorkloadError(f"{option} must look like http://127.0.0.1:8080, not {url!r}.")
    return url
