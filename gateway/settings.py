"""Settings of the gateway, from command line, environment and turntable.toml; only this file reads the environment."""

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
    """Settings of `turntable serve`: command line over `TURNTABLE_*` over turntable.toml over these defaults."""

    model_config = SettingsConfigDict(
        env_prefix="TURNTABLE_", toml_file="turntable.toml", frozen=True, extra="forbid", validate_default=True
    )

    host: str = Field("127.0.0.1", description="Address that the gateway listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port that the gateway listens on; 0 picks a free one.")
    admin_host: str = Field("127.0.0.1", description="Address of the admin listener, with `admin_port`.")
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the admin listener; the public one then serves no admin API, metrics and API docs.",
    )
    tls_cert: Path | None = Field(None, description="Certificate with its chain (PEM); clients then use https.")
    tls_key: Path | None = Field(
        None, description="Private key of the certificate (PEM); by default in the certificate's file."
    )
    tls_client_ca: Path | None = Field(
        None, description="CA certificate (PEM): clients must present a certificate signed by it (mTLS)."
    )
    plain_http: bool = Field(
        False, description="Listen beyond loopback without TLS, behind a proxy that terminates TLS."
    )
    data_dir: Path = Field(Path("var"), description="Data directory: database, adapters, logs, keys.")
    database_url: str = Field("", description="SQLAlchemy URL; empty means `turntable.db` in the data directory.")
    admin_key: SecretStr | None = Field(None, description="Admin API key; generated at the first start when not given.")
    key_pepper: SecretStr | None = Field(
        None,
        description="Secret that API keys are hashed with, the same for all gateways on a database; by default "
        "generated in `key.pepper` in the data directory.",
    )
    model: str = Field(EMBEDDED, description="Base model: `embedded`, a local directory, or a hub name.")
    engines: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="URLs of running vLLM servers to attach to, instead of starting one."
    )
    served_model_name: str = Field("base", description="Model name of the base model in requests.")
    engine_port: int = Field(
        8001, ge=0, le=65535, description="Loopback port of the managed engine; 0 picks a free one."
    )
    engine_api_key: SecretStr | None = Field(
        None,
        description="API key of the engines: sent to attached ones and required by a managed one, which otherwise gets "
        "a new random key at each start.",
    )
    engine_args: Annotated[tuple[str, ...], NoDecode] = Field((), description="More command-line arguments for vLLM.")
    max_model_len: int | None = Field(None, gt=0, description="Context length in tokens; by default the model's own.")
    max_loras: int | None = Field(
        None, gt=0, description="Adapter slots in the engine's batch; by default computed from memory and adapters."
    )
    max_cpu_loras: int | None = Field(
        None, gt=0, description="Adapters that the engine keeps in memory, slots included; by default computed as well."
    )
    max_lora_rank: int | None = Field(
        None,
        gt=0,
        description="Highest LoRA rank that the engine accepts; by default 16, or more if registered adapters need it.",
    )
    kv_cache_gib: int = Field(1, gt=0, description="Memory for the KV cache of a CPU engine, in GiB.")
    engine_usd_per_hour: Decimal | None = Field(
        None, ge=0, le=MOST_USD_PER_HOUR, description="Price of the engine's machine in USD per hour."
    )
    start_timeout_s: float = Field(600, gt=0, description="Timeout for the start of an engine until it is healthy.")
    hang_timeout_s: float = Field(
        60,
        gt=0,
        description="Timeout of an engine's liveness probe, after which it gets no requests; a managed engine is "
        "restarted after the same time again.",
    )
    max_in_flight: int = Field(1024, gt=0, description="Maximum number of running requests; more wait in the queue.")
    max_sequences: int = Field(
        128, gt=0, description="Maximum number of sequences of one request: prompts times choices."
    )
    share_prefix_cache: bool = Field(
        False,
        description="Share the engine's prefix cache between tenants: faster, but a tenant can detect the "
        "prompts of others.",
    )
    max_queue: int = Field(1024, ge=0, description="Maximum number of waiting requests; more are rejected with a 503.")
    queue_timeout_s: float = Field(30, gt=0, description="Maximum time of a request in the queue.")
    connect_timeout_s: float = Field(2, gt=0, description="Timeout for a connection to the engine.")
    first_byte_timeout_s: float = Field(300, gt=0, description="Timeout for the first byte of a stream.")
    idle_timeout_s: float = Field(300, gt=0, description="Maximum time without data from the engine within one answer.")
    total_timeout_s: float = Field(1800, gt=0, description="Timeout for a complete answer.")
    keep_alive_s: float = Field(
        15, ge=0, description="Interval of keep-alive comments in a stream without data; 0 sends none."
    )
    public_metrics: bool = Field(
        False, description="Serve `/metrics` without an API key; it contains the names of all used adapters."
    )
    suspect_s: float = Field(
        600,
        ge=0,
        description="How long a poison request, which was running when an engine died, is rejected; 0 never rejects.",
    )
    otlp_endpoint: str = Field(
        "", description="URL of an OpenTelemetry collector (OTLP over HTTP) for one span per request; none by default."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose web pages may call the API (CORS); none by default."
    )
    shutdown_timeout_s: float = Field(30, gt=0, description="How long running requests may take to finish at shutdown.")
    header_timeout_s: float = Field(10, gt=0, description="Timeout for the headers of a client's request.")
    body_timeout_s: float = Field(30, gt=0, description="Timeout for the body of a client's request.")
    max_header_bytes: int = Field(64 << 10, gt=0, description="Maximum size of the request line with all headers.")
    max_connections: int = Field(
        4096, gt=0, description="Maximum number of client connections; more are closed at once."
    )
    max_body_bytes: int = Field(8 << 20, gt=0, description="Maximum size of a request body.")
    max_answer_bytes: int = Field(
        64 << 20, gt=0, description="Maximum size of an answer that is not streamed, which is held in memory."
    )
    max_journal_bytes: int = Field(
        64 << 20,
        gt=0,
        description="Maximum size of the ledger's journal while the database is unavailable; beyond it, "
        "requests are rejected.",
    )
    ledger_retention_days: int = Field(
        0, ge=0, description="Days after which ledger rows are deleted and only their sums kept; 0 keeps all rows."
    )
    reconcile_every_s: float = Field(
        15, ge=0, description="Interval of the reconciliation of the ledger with the engines' counters; 0 turns it off."
    )
    max_upload_bytes: int = Field(4 << 30, gt=0, description="Maximum size of an adapter, packed or unpacked.")
    adapter_sources: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Allowed sources of adapters besides uploads: directories, hf://org, s3://bucket/prefix.",
    )
    hub_endpoint: str | None = Field(None, description="Hub endpoint for hf:// sources; Hugging Face by default.")
    s3_endpoint: str | None = Field(None, description="S3 endpoint for s3:// sources; AWS by default.")
    drain_timeout_s: float = Field(
        60, ge=0, description="How long running requests may take to finish on a version that is being unloaded."
    )
    require_verdict: bool = Field(
        True, description="Require a valid verdict, or an override on record, to make a version live."
    )
    require_approval: bool = Field(
        False, description="Require an approval with another admin key to make a version live."
    )
    watch_percent: float = Field(
        5,
        ge=0,
        le=100,
        description="Percentage of answers sampled for drift, of adapters whose training left a baseline.",
    )
    retrain_feedback: int = Field(
        50, gt=0, description="Number of feedback ratings since a promotion after which retraining is due."
    )
    retrain_days: int = Field(90, gt=0, description="Days after a promotion after which retraining is due.")
    max_shadowed: int = Field(2, gt=0, description="Maximum number of running shadow requests; more are dropped.")

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
                    f"{source!r:.200} is not a source; use an absolute directory, hf://org or s3://bucket/prefix, "
                    'several separated by commas or as a JSON list like ["/a", "hf://org"]'
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
        """SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite:///{self.data_dir / 'turntable.db'}"

    @property
    def adapters_dir(self) -> Path:
        """Root of the adapter store."""
        return self.data_dir / "adapters"

    @property
    def ledger_dir(self) -> Path:
        """Directory of the ledger's journal."""
        return self.data_dir / "ledger"

    @property
    def logs_dir(self) -> Path:
        """Directory of the engine's logs."""
        return self.data_dir / "logs"


def _json_list(text: str, split: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
    """Parse a JSON list of strings; text that does not start with `[` is passed to `split`."""
    if not text.lstrip().startswith("["):
        return split(text)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f'is not a JSON list ({error}); write ["a", "b"], or the items without brackets') from error
    if not all(isinstance(item, str) for item in found):
        raise ValueError('must be a list of strings; write ["a", "b"]')
    return tuple(found)


def inherited_environment() -> dict[str, str]:
    """Return this process's environment for a child process, without `TURNTABLE_*`, which may hold secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TURNTABLE_")}
