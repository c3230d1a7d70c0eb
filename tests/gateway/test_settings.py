"""Settings: where they come from, which wins, and what is refused."""

from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.settings import Settings, inherited_environment


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_command_line_wins_over_the_environment_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("turntable.toml").write_text('port = 1001\nhost = "127.0.0.2"\nmax_loras = 3\n')
    monkeypatch.setenv("TURNTABLE_PORT", "1002")
    monkeypatch.setenv("TURNTABLE_HOST", "127.0.0.3")
    settings = Settings(port=1003)
    assert (settings.port, settings.host, settings.max_loras) == (1003, "127.0.0.3", 3)


def test_only_loopback_is_listened_on_by_default() -> None:
    assert Settings().host == "127.0.0.1"


def test_the_database_is_in_the_data_directory_by_default() -> None:
    assert Settings(data_dir=Path("there")).database == "sqlite:///there/turntable.db"
    assert Settings(database_url="postgresql://db").database == "postgresql://db"


def test_unknown_and_impossible_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="max_loras"):
        Settings(max_loras=0)
    with pytest.raises(ValidationError, match="engine_usd_per_hour"):
        Settings(engine_usd_per_hour=Decimal(2_690_000))
    Path("turntable.toml").write_text("max_lora = 3\n")
    with pytest.raises(ValidationError, match="max_lora"):
        Settings()


def test_the_admin_key_is_not_printed() -> None:
    assert "tt-secret" not in repr(Settings(admin_key="tt-secret"))


def test_child_processes_do_not_see_our_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNTABLE_ADMIN_KEY", "tt-secret")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    environment = inherited_environment()
    assert environment["SOMETHING_ELSE"] == "1"
    assert not any(name.startswith("TURNTABLE_") for name in environment)


def test_engine_arguments_are_split_as_a_shell_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNTABLE_ENGINE_ARGS", "--dtype bfloat16 --chat-template 'my template.jinja'")
    assert Settings().engine_args == ("--dtype", "bfloat16", "--chat-template", "my template.jinja")


@pytest.mark.parametrize(
    "text", ['["/a", "hf://org"]', ' ["/a","hf://org"]', "/a,hf://org", "/a hf://org", " /a , hf://org "]
)
def test_a_list_is_written_as_json_or_with_commas(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TURNTABLE_ADAPTER_SOURCES", text)
    assert Settings().adapter_sources == ("/a", "hf://org")


@pytest.mark.parametrize(
    ("field", "text", "read"),
    [
        ("engines", '["http://127.0.0.1:1", "http://127.0.0.1:2"]', ("http://127.0.0.1:1", "http://127.0.0.1:2")),
        ("cors_origins", '["https://a.example"]', ("https://a.example",)),
        ("engine_args", '["--chat-template", "my template.jinja"]', ("--chat-template", "my template.jinja")),
        ("adapter_sources", '["/with a space"]', ("/with a space",)),
        ("adapter_sources", "[]", ()),
    ],
)
def test_every_list_may_be_json(monkeypatch: pytest.MonkeyPatch, field: str, text: str, read: tuple[str, ...]) -> None:
    monkeypatch.setenv(f"TURNTABLE_{field.upper()}", text)
    assert getattr(Settings(), field) == read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("['/a']", r'is not a JSON list .*; write \["a", "b"\]'),
        ('["/a"', "is not a JSON list"),
        ("[1]", "must be a list of strings"),
        ("adapters", "'adapters' is not a source; use an absolute directory, hf://org or s3://bucket/prefix"),
        ("~/adapters", "is not a source"),
        ("https://hub.example", "is not a source"),
    ],
)
def test_a_source_that_would_never_match_is_refused_with_the_right_form(
    monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.setenv("TURNTABLE_ADAPTER_SOURCES", text)
    with pytest.raises(ValidationError, match=said):
        Settings()
