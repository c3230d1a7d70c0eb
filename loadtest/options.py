"""Options that the load test commands share."""

import inspect
import json
import os
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints
from urllib.parse import urlsplit

import typer

from loadtest.metrics import Slo
from loadtest.settings import DEFAULT_CONCURRENCY, PromotionPlan, RunSettings

LOOPBACK = ("127.0.0.1", "::1", "localhost")
URL_VARIABLE = "TURNTABLE_GATEWAY_URL"
ADDRESS_FILE = "gateway.json"
"""In the data directory of a running gateway: its `url` and `pid`."""
DEFAULT_URL = "http://127.0.0.1:8080"
PORTS = {"http": 80, "https": 443}
MOST_RATE_PER_PROCESS = 2000

Limit = Annotated[float | None, typer.Option(min=0.001, help="SLO in ms; requests within it count as goodput.")]
UsdPerHour = Annotated[float | None, typer.Option(min=0, help="Price of the server, for cost figures.")]


@dataclass(frozen=True)
class ReportFiles:
    """Output options of a report."""

    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write the report as JSON; - prints it instead of the tables.")
    ] = None
    csv_out: Annotated[Path | None, typer.Option("--csv", help="Write CSV, one line per load level and model.")] = None
    html_out: Annotated[Path | None, typer.Option("--html", help="Write a self-contained HTML page with charts.")] = (
        None
    )


@dataclass(frozen=True)
class LoadOptions(ReportFiles):
    """Options of the load, the server and its limits."""

    url: Annotated[
        str | None,
        typer.Option(
            envvar=URL_VARIABLE,
            help="The server's address.",
            show_default="that of the gateway on the data directory, else http://127.0.0.1:8080",
        ),
    ] = None
    models: Annotated[str, typer.Option(help="Models to send requests to, comma-separated.")] = "base"
    requests: Annotated[
        int | None, typer.Option(min=1, help="Number of requests.", show_default="64 without --duration-s")
    ] = None
    duration_s: Annotated[float | None, typer.Option(min=0.1, help="Send for this many seconds.")] = None
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Concurrent requests.", show_default="8, or no limit with --rate")
    ] = None
    think_s: Annotated[float, typer.Option(min=0, help="Closed loop: think time of a user after an answer.")] = 0.0
    rate: Annotated[float | None, typer.Option(min=0.001, help="Open loop: requests per second.")] = None
    ramp: Annotated[str | None, typer.Option(help="Open loop: 1:10:60 ramps from 1 to 10 per second in 60 s.")] = None
    arrivals: Annotated[str, typer.Option(help="poisson, gamma, constant, or trace (the times of --trace).")] = (
        "poisson"
    )
    burstiness: Annotated[float, typer.Option(min=0.01, help="Shape of gamma arrivals: below 1 is bursty.")] = 1.0
    popularity: Annotated[
        str,
        typer.Option(help="uniform, weights:5,3,1, zipf:1.0, geometric:1.5, drift:1.0:500 or churn:1.0:500:4."),
    ] = "uniform"
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 64
    output_tokens: Annotated[
        str | None, typer.Option(help="Exact answer lengths: 128, uniform:16:256 or lognormal:128:0.8.")
    ] = None
    prompts: Annotated[
        Path | None, typer.Option(help="JSONL with `messages` or `prompt` per line.", show_default="built-in prompts")
    ] = None
    prompt_words: Annotated[str | None, typer.Option(help="Random prompts: 128, uniform:… or lognormal:….")] = None
    turns: Annotated[int, typer.Option(min=1, help="Requests per conversation; each includes all earlier ones.")] = 1
    conversations: Annotated[int, typer.Option(min=1, help="Concurrent conversations.")] = 8
    prefix_words: Annotated[int, typer.Option(min=0, help="Words of a system prompt shared by all requests.")] = 0
    trace: Annotated[Path | None, typer.Option(help="Trace of request lengths and arrival times to replay.")] = None
    trace_format: Annotated[str, typer.Option(help="auto, turntable, azure, burstgpt or mooncake.")] = "auto"
    speedup: Annotated[float, typer.Option(min=0.001, help="Speed factor of the replay.")] = 1.0
    warmup: Annotated[int, typer.Option(min=0, help="Warm-up requests to every model; 0 measures cold starts.")] = 1
    cold_after_s: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds without requests after which a model counts as cold.")
    ] = None
    slo_ttft_ms: Limit = None
    slo_itl_ms: Limit = None
    slo_tpot_ms: Limit = None
    slo_e2e_ms: Limit = None
    usd_per_hour: UsdPerHour = None
    processes: Annotated[
        int | None, typer.Option(min=1, help="Client processes.", show_default="1 per 2,000 requests per second")
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Random seed of requests and arrival times.")] = 0
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Timeout of a request in seconds.")] = 120
    key: Annotated[
        str | None,
        typer.Option(
            envvar=["TURNTABLE_API_KEY", "TURNTABLE_ADMIN_KEY"],
            help="API key.",
            show_default="the admin key of a local gateway",
        ),
    ] = None
    data_dir: Annotated[
        Path, typer.Option(envvar="TURNTABLE_DATA_DIR", help="The data directory of a local gateway.")
    ] = Path("var")
    promote: Annotated[
        str | None, typer.Option(help="Promotions during the test: my-adapter=2,3 alternates between the two.")
    ] = None
    promote_every_s: Annotated[float, typer.Option(min=0.1, help="Seconds between two promotions.")] = 5.0
    admin_url: Annotated[str | None, typer.Option(help="Gateway for the promotions.", show_default="that of --url")] = (
        None
    )
    admin_key: Annotated[
        str | None,
        typer.Option(envvar="TURNTABLE_ADMIN_KEY", help="Admin key for the promotions.", show_default="that of --key"),
    ] = None
    records: Annotated[
        Path | None,
        typer.Option(help="Write raw timestamps, one JSON line per request; further runs go to raw.2.jsonl and so on."),
    ] = None

    def settings(self) -> RunSettings:
        """The settings of the load test; raises `InvalidWorkloadError` when the options contradict each other."""
        url, url_from = server_address(self.url, self.data_dir)
        key = self.key or local_admin_key(url, self.data_dir)
        admin_url = self.admin_url or url.rstrip("/").removesuffix("/v1")
        is_same = origin(admin_url) == origin(url)
        admin_key = self.admin_key or (key if is_same else local_admin_key(admin_url, self.data_dir))
        return RunSettings(
            url=url,
            url_from=url_from,
            models=tuple(name.strip() for name in self.models.split(",")),
            requests=self.requests,
            concurrency=self.concurrency or (None if self._is_open_loop else DEFAULT_CONCURRENCY),
            rate_per_s=self.rate,
            key=key,
            processes=self.processes or (1 + int(self.rate or 0) // MOST_RATE_PER_PROCESS),
            slo=Slo(self.slo_ttft_ms, self.slo_itl_ms, self.slo_tpot_ms, self.slo_e2e_ms),
            promotions=PromotionPlan.parse(self.promote, self.promote_every_s, admin_url, admin_key)
            if self.promote
            else None,
            **{name: getattr(self, name) for name in _SAME},
        )

    @property
    def _is_open_loop(self) -> bool:
        return bool(self.rate or self.ramp or self.arrivals == "trace")


_NAMES = {option.name for option in fields(LoadOptions)}
_SAME = sorted(_NAMES.intersection(option.name for option in fields(RunSettings)) - {
    "url", "url_from", "models", "requests", "concurrency", "key", "processes", "slo", "promotions"
})  # fmt: skip

Options = TypeVar("Options", bound=ReportFiles)


def command_of(options: type[Options], body: Callable[[Options], None]) -> Callable[..., None]:
    """A function with one option for each field of `options`, which calls `body` with them; for `App.command`."""
    hints = get_type_hints(options, include_extras=True)

    def command(**values: Any) -> None:
        body(options(**values))

    parameters = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=hints[field.name]
        )
        for field in fields(options)
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {name: hints[name] for name in (field.name for field in fields(options))}
    command.__doc__ = body.__doc__
    command.__name__ = body.__name__
    return command


def server_address(given: str | None, data_dir: Path) -> tuple[str, str]:
    """The server's address and its origin: given, else of a local gateway, else the default."""
    if given:
        named = os.environ.get(URL_VARIABLE) == given
        return given, f"the address in {URL_VARIABLE}" if named else "the address given"
    if found := running_gateway(data_dir):
        return found, f"the address in {data_dir / ADDRESS_FILE}"
    return DEFAULT_URL, f"the default, as no gateway runs on the data directory {data_dir}"


def running_gateway(data_dir: Path) -> str | None:
    """The address in the data directory of a gateway that runs on this machine; None when none runs."""
    try:
        found = json.loads((data_dir / ADDRESS_FILE).read_text(encoding="utf-8"))
        os.kill(int(found["pid"]), 0)
        return str(found["url"])
    except PermissionError:
        return str(found["url"])
    except (OSError, OverflowError, ValueError, KeyError, TypeError):
        return None


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address: a key is sent to its own origin only."""
    parts = urlsplit(url)
    try:
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:
        port = None
    return parts.scheme, (parts.hostname or "").rstrip("."), port


def local_admin_key(url: str, data_dir: Path) -> str | None:
    """The admin key in the data directory of a local gateway; None for an address on another host."""
    if urlsplit(url).hostname not in LOOPBACK:
        return None
    try:
        return (data_dir / "admin.key").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _default(field: "Field[Any]") -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default
