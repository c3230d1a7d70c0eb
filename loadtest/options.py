"""The options that every load command shares, each declared once."""

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

Limit = Annotated[float | None, typer.Option(min=0.001, help="Limit in ms that a good request keeps.")]
UsdPerHour = Annotated[float | None, typer.Option(min=0, help="Price of the server: adds costs.")]


@dataclass(frozen=True)
class ReportFiles:
    """Where a report is written, as command-line options."""

    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write the report as JSON; - prints it, without the table.")
    ] = None
    csv_out: Annotated[Path | None, typer.Option("--csv", help="Write one line per load level and model.")] = None
    html_out: Annotated[Path | None, typer.Option("--html", help="Write one self-contained page with charts.")] = None


@dataclass(frozen=True)
class LoadOptions(ReportFiles):
    """What to send where, as command-line options."""

    url: Annotated[
        str | None,
        typer.Option(
            envvar=URL_VARIABLE,
            help="The server's address.",
            show_default="that of the gateway on the data directory, else http://127.0.0.1:8080",
        ),
    ] = None
    models: Annotated[str, typer.Option(help="Models to ask, separated by commas.")] = "base"
    requests: Annotated[int | None, typer.Option(min=1, help="How many requests to send; 64 without --duration-s.")] = (
        None
    )
    duration_s: Annotated[float | None, typer.Option(min=0.1, help="Send for so long.")] = None
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests at a time: 8, or no limit with --rate.")] = (
        None
    )
    think_s: Annotated[float, typer.Option(min=0, help="Closed loop: pause of a user after an answer.")] = 0.0
    rate: Annotated[float | None, typer.Option(min=0.001, help="Open loop: requests per second.")] = None
    ramp: Annotated[str | None, typer.Option(help="Open loop: 1:10:60 goes from 1 to 10 per second in 60 s.")] = None
    arrivals: Annotated[str, typer.Option(help="poisson, gamma, constant, or trace (the times of --trace).")] = (
        "poisson"
    )
    burstiness: Annotated[float, typer.Option(min=0.01, help="Shape of gamma arrivals: below 1 is bursty.")] = 1.0
    popularity: Annotated[
        str,
        typer.Option(help="uniform, weights:5,3,1, zipf:1.0, geometric:1.5, drift:1.0:500 or churn:1.0:500:4."),
    ] = "uniform"
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64
    output_tokens: Annotated[
        str | None, typer.Option(help="Exact answer lengths: 128, uniform:16:256 or lognormal:128:0.8.")
    ] = None
    prompts: Annotated[
        Path | None, typer.Option(help="JSONL with `messages` or `prompt` per line; else built-in ones.")
    ] = None
    prompt_words: Annotated[str | None, typer.Option(help="Random prompts: 128, uniform:… or lognormal:….")] = None
    turns: Annotated[int, typer.Option(min=1, help="Requests per conversation; each repeats all before it.")] = 1
    conversations: Annotated[int, typer.Option(min=1, help="Conversations that take turns.")] = 8
    prefix_words: Annotated[int, typer.Option(min=0, help="Words of a system prompt that all requests share.")] = 0
    trace: Annotated[Path | None, typer.Option(help="Recorded lengths and times to replay.")] = None
    trace_format: Annotated[str, typer.Option(help="auto, turntable, azure, burstgpt or mooncake.")] = "auto"
    speedup: Annotated[float, typer.Option(min=0.001, help="Replay a trace so many times as fast.")] = 1.0
    warmup: Annotated[int, typer.Option(min=0, help="Requests to every model before the test; 0: cold starts.")] = 1
    cold_after_s: Annotated[
        float | None, typer.Option(min=0.001, help="A model unanswered for so long counts as cold.")
    ] = None
    slo_ttft_ms: Limit = None
    slo_itl_ms: Limit = None
    slo_tpot_ms: Limit = None
    slo_e2e_ms: Limit = None
    usd_per_hour: UsdPerHour = None
    processes: Annotated[
        int | None, typer.Option(min=1, help="Sending processes: 1, or more for rates above 2,000 per second.")
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same requests and arrival times.")] = 0
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Seconds after which a request counts as failed.")] = 120
    key: Annotated[
        str | None,
        typer.Option(
            envvar=["TURNTABLE_API_KEY", "TURNTABLE_ADMIN_KEY"], help="API key; else a local gateway's admin.key."
        ),
    ] = None
    data_dir: Annotated[
        Path, typer.Option(envvar="TURNTABLE_DATA_DIR", help="Where a local gateway left admin.key.")
    ] = Path("var")
    promote: Annotated[str | None, typer.Option(help="Promotions during the test: my-adapter=2,3 in turn.")] = None
    promote_every_s: Annotated[float, typer.Option(min=0.1, help="Time between two promotions.")] = 5.0
    admin_url: Annotated[str | None, typer.Option(help="Gateway that promotes; else --url.")] = None
    admin_key: Annotated[str | None, typer.Option(envvar="TURNTABLE_ADMIN_KEY", help="Its admin key; else --key.")] = (
        None
    )
    records: Annotated[
        Path | None,
        typer.Option(help="Write raw timestamps, a JSON line per request; of several runs raw.jsonl, raw.2.jsonl, …"),
    ] = None

    def settings(self) -> RunSettings:
        """The load test that these options ask for; InvalidWorkloadError when they do not fit together."""
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
    """A function that Typer can make a command of: it takes the fields of `options` and calls `body` with them."""
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
    """The server's address and how we came to it: as given, else of a local gateway, else the default."""
    if given:
        named = os.environ.get(URL_VARIABLE) == given
        return given, f"the address in {URL_VARIABLE}" if named else "the address given"
    if found := running_gateway(data_dir):
        return found, f"the address in {data_dir / ADDRESS_FILE}"
    return DEFAULT_URL, f"the default, as no gateway runs on the data directory {data_dir}"


def running_gateway(data_dir: Path) -> str | None:
    """The address that a gateway on this machine left in its data directory; None when it no longer runs."""
    try:
        said = json.loads((data_dir / ADDRESS_FILE).read_text(encoding="utf-8"))
        os.kill(int(said["pid"]), 0)
        return str(said["url"])
    except PermissionError:
        return str(said["url"])
    except (OSError, OverflowError, ValueError, KeyError, TypeError):
        return None


def origin(url: str) -> tuple[str, str, int | None]:
    """What a key is meant for: scheme, host and port of an address."""
    parts = urlsplit(url)
    try:
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:
        port = None
    return parts.scheme, (parts.hostname or "").rstrip("."), port


def local_admin_key(url: str, data_dir: Path) -> str | None:
    """The key that a gateway on this machine left in its data directory; it never goes to another host."""
    if urlsplit(url).hostname not in LOOPBACK:
        return None
    try:
        return (data_dir / "admin.key").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _default(field: "Field[Any]") -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default
