"""Settings: the only reader of the environment and of turntable.toml. Frozen, checked at start, passed along."""

import json
import os
import shlex
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from gateway.money import MOST_USD_PER_HOUR

EMBEDDED = "embedded"


class Settings(BaseSettings):
    """What `turntable serve` runs with: command line over `TURNTABLE_*` over turntable.toml over these defaults."""

    model_config = SettingsConfigDict(
        env_prefix="TURNTABLE_", toml_file="turntable.toml", frozen=True, extra="forbid", validate_default=True
    )

    host: str = Field("127.0.0.1", description="Address the gateway listens on; loopback unless told.")
    port: int = Field(8080, ge=0, le=65535, description="Port the gateway listens on; 0 takes a free one.")
    admin_host: str = Field("127.0.0.1", description="Address that operators use, where `admin_port` is given.")
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port that serves operators; the other then has no admin surface, no metrics and no docs.",
    )
    tls_cert: Path | None = Field(None, description="Certificate with its chain (PEM); clients then use https.")
    tls_key: Path | None = Field(None, description="The certificate's key (PEM); in the same file when not given.")
    tls_client_ca: Path | None = Field(
        None, description="Serve only clients whose certificate this authority (PEM) has signed."
    )
    plain_http: bool = Field(
        False, description="Listen beyond loopback without TLS, because something in front of the gateway speaks it."
    )
    data_dir: Path = Field(Path("var"), description="Everything durable: database, adapters, logs, keys.")
    database_url: str = Field("", description="SQLAlchemy URL; empty means `turntable.db` in the data directory.")
    admin_key: SecretStr | None = Field(None, description="The admin key; generated on first start when not given.")
    key_pepper: SecretStr | None = Field(
        None,
        description="What keys are hashed under, the same for all gateways on a database; `key.pepper` in the data "
        "directory when not given.",
    )
    model: str = Field(EMBEDDED, description="Base model: `embedded`, a local directory, or a hub name.")
    engines: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Attach to these running vLLM servers (URLs) instead of starting one."
    )
    served_model_name: str = Field("base", description="The name by which applications ask for the base model.")
    engine_port: int = Field(
        8001, ge=0, le=65535, description="Loopback port of the managed engine; 0 takes a free one."
    )
    engine_api_key: SecretStr | None = Field(
        None,
        description="The engines' own key, sent to attached ones; a managed one demands it, or without it a fresh "
        "secret per start.",
    )
    engine_args: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="More arguments for vLLM, as written there."
    )
    max_model_len: int | None = Field(
        None, gt=0, description="Context length in tokens; the model's own when not given."
    )
    max_loras: int | None = Field(None, gt=0, description="Adapter slots in the engine; planned when not given.")
    max_cpu_loras: int | None = Field(
        None, gt=0, description="Adapters that the engine keeps in memory, those in slots included; planned as well."
    )
    max_lora_rank: int | None = Field(
        None, gt=0, description="Highest adapter rank the engine takes; 16, or what registered adapters need."
    )
    kv_cache_gib: int = Field(1, gt=0, description="CPU engines: memory for the KV cache.")
    engine_usd_per_hour: Decimal | None = Field(
        None, ge=0, le=MOST_USD_PER_HOUR, description="What the engine's machine costs per hour, in dollars."
    )
    start_timeout_s: float = Field(600, gt=0, description="How long an engine may take until it is healthy.")
    hang_timeout_s: float = Field(
        60,
        gt=0,
        description="How long an engine may give no sign of life until it gets no more requests; a managed one is "
        "restarted after as long again.",
    )
    max_in_flight: int = Field(1024, gt=0, description="Requests that may run at a time; more wait in a queue.")
    max_sequences: int = Field(
        128, gt=0, description="Sequences that one request may ask for: its prompts times the answers to each."
    )
    share_prefix_cache: bool = Field(
        False,
        description="Tenants share the engine's cache of prompts: faster, and a tenant can tell what others asked.",
    )
    max_queue: int = Field(1024, ge=0, description="Requests that may wait; more are turned away with a 503.")
    queue_timeout_s: float = Field(30, gt=0, description="How long a request may wait for its turn.")
    connect_timeout_s: float = Field(2, gt=0, description="How long to wait for a connection to the engine.")
    first_byte_timeout_s: float = Field(300, gt=0, description="How long a stream may take until its first byte.")
    idle_timeout_s: float = Field(300, gt=0, description="Longest silence of the engine within one answer.")
    total_timeout_s: float = Field(1800, gt=0, description="How long a whole answer may take.")
    keep_alive_s: float = Field(15, ge=0, description="Silence after which a stream carries a comment; 0 sends none.")
    public_metrics: bool = Field(
        False, description="Answer `/metrics` without a key; it names every adapter that is used."
    )
    suspect_s: float = Field(
        600, ge=0, description="How long a request is refused that was running when an engine died; 0 never does."
    )
    otlp_endpoint: str = Field(
        "", description="OpenTelemetry collector (OTLP over HTTP) that gets a span per request; none by default."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose web pages may call this API; none by default."
    )
    shutdown_timeout_s: float = Field(30, gt=0, description="How long running requests may take to finish at shutdown.")
    header_timeout_s: float = Field(10, gt=0, description="How long a client may take to send a request's headers.")
    body_timeout_s: float = Field(30, gt=0, description="How long a client may take to send a request's body.")
    max_header_bytes: int = Field(64 << 10, gt=0, description="Largest request line with all headers.")
    max_connections: int = Field(4096, gt=0, description="Open client connections; more are closed at once.")
    max_body_bytes: int = Field(8 << 20, gt=0, description="Largest request body.")
    max_answer_bytes: int = Field(
        64 << 20, gt=0, description="Largest answer of an engine that is not streamed; it is kept in memory whole."
    )
    max_journal_bytes: int = Field(
        64 << 20, gt=0, description="Usage kept on disk while the database is away; beyond it, requests are refused."
    )
    ledger_retention_days: int = Field(
        0, ge=0, description="Days after which the ledger's rows are deleted, their sums kept; 0 keeps them for ever."
    )
    reconcile_every_s: float = Field(
        15, ge=0, description="How often the ledger is compared with the engines' own counters; 0 never does."
    )
    max_upload_bytes: int = Field(4 << 30, gt=0, description="Largest adapter, packed or unpacked.")
    adapter_sources: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Where adapters may be fetched from besides uploads: directories, hf://org, s3://bucket/prefix.",
    )
    hub_endpoint: str | None = Field(None, description="Hub that hf:// sources are fetched from; its own by default.")
    s3_endpoint: str | None = Field(None, description="Service that s3:// sources are fetched from; AWS by default.")
    drain_timeout_s: float = Field(
        60, ge=0, description="How long requests may still run on a version that is to leave the engines."
    )
    require_verdict: bool = Field(
        True, description="A version goes live only with a verdict that counts, or an override on record."
    )
    require_approval: bool = Field(False, description="A version goes live only after approval with another admin key.")
    watch_percent: float = Field(
        5, ge=0, le=100, description="Share of answers looked at for drift, of adapters whose training left a baseline."
    )
    retrain_feedback: int = Field(50, gt=0, description="Pieces of feedback since a promotion that make a new round.")
    retrain_days: int = Field(90, gt=0, description="Days after a promotion at which an adapter is due to be reviewed.")
    max_shadowed: int = Field(2, gt=0, description="Shadow requests that may run at a time; more are dropped.")

    @field_validator("engine_args", mode="before")
    @classmethod
    def _split_arguments(cls, value: object) -> object:
        return value if not isinstance(value, str) else _json_list(value, lambda text: tuple(shlex.split(text)))

    @field_validator("engines", "cors_origins", "adapter_sources", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return _json_list(value, lambda text: tuple(text.replace(",", " ").split()))

    @field_validator("adapter_sources")
    @classmethod
    def _check_sources(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        for source in sources:
            if not source.startswith(("/", "hf://", "s3://")):
                raise ValueError(
                    f"{source!r:.200} is no source; write an absolute directory, hf://org or s3://bucket/prefix, "
                    'several with commas or as a JSON list like ["/a", "hf://org"]'
                )
        return sources

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.data_dir / 'turntable.db'}"

    @property
    def adapters_dir(self) -> Path:
        """Root of the adapter store."""
        return self.data_dir / "adapters"

    @property
    def ledger_dir(self) -> Path:
        """Where usage lies until the database has it."""
        return self.data_dir / "ledger"

    @property
    def logs_dir(self) -> Path:
        """Where the engine's log is kept."""
        return self.data_dir / "logs"


def _json_list(text: str, split: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
    """The texts of a JSON list, or of what does not look like one, as `split` finds them."""
    if not text.lstrip().startswith("["):
        return split(text)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f'is no JSON list ({error}); write ["a", "b"], or the texts without brackets') from error
    if not all(isinstance(one, str) for one in found):
        raise ValueError('must be a list of texts; write ["a", "b"]')
    return tuple(found)


def inherited_environment() -> dict[str, str]:
    """This process's environment without our own variables, which hold keys: what a child process may see."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TURNTABLE_")}
