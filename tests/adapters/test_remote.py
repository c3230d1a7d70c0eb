"""Sources on other machines: a server that speaks the hub's API, and a real S3 server, both in this process."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from adapters import AllowedSources, BaseModel, SourceError, SourceProvenance, Store, fetch, preflight
from tests.adapters.conftest import names
from tests.adapters.hub_server import Hub, serving

MAX_BYTES = 1 << 20
FIRST, SECOND = "1" * 40, "2" * 40
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def hub(adapter_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", False
    )  # the trainer's tests keep it off the network
    (adapter_dir / "optimizer.pt").write_bytes(b"state")
    (adapter_dir / "adapter_model.bin").write_bytes(b"pickle")
    repository = Hub("org/tone")
    repository.commit(FIRST, adapter_dir, "main", "release/1")
    with serving(repository):
        yield repository


def allowing(hub: Hub, *prefixes: str) -> AllowedSources:
    return AllowedSources(prefixes or ("hf://org",), hub_endpoint=hub.url)


@pytest.mark.parametrize("revision", ["main", "release/1", FIRST])
def test_an_adapter_on_a_hub_is_fetched_at_the_commit_that_a_revision_means(
    hub: Hub, adapter_dir: Path, into: Path, revision: str
) -> None:
    source = f"hf://org/tone@{revision}"
    assert fetch(source, into, max_bytes=MAX_BYTES, allowed=allowing(hub)) == SourceProvenance(source, FIRST)
    assert names(into) == sorted(hub.downloads) == ["adapter_config.json", WEIGHTS]
    assert (into / WEIGHTS).read_bytes() == (adapter_dir / WEIGHTS).read_bytes()


def test_what_came_from_a_hub_goes_through_preflight_into_the_store(hub: Hub, base: BaseModel, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.incoming() as scratch:
        fetch("hf://org/tone@main", scratch, max_bytes=MAX_BYTES, allowed=allowing(hub))
        manifest = store.put(scratch, preflight(scratch, base, max_rank=16))
    assert store.verify(manifest.digest).is_dir()


@pytest.mark.parametrize("prefix", ["hf://org", "hf://org/", "hf://org/tone", "hf://"])
def test_an_organisation_or_a_repository_can_be_allowed(hub: Hub, into: Path, prefix: str) -> None:
    fetch("hf://org/tone@main", into, max_bytes=MAX_BYTES, allowed=allowing(hub, prefix))


@pytest.mark.parametrize("prefix", ["hf://or", "hf://org/ton", "hf://other", "s3://org", "/"])
def test_what_no_prefix_covers_is_not_asked_for(hub: Hub, into: Path, prefix: str) -> None:
    with pytest.raises(SourceError, match="is not among the sources that the operator allows"):
        fetch("hf://org/tone@main", into, max_bytes=MAX_BYTES, allowed=allowing(hub, prefix))
    assert hub.downloads == []


@pytest.mark.parametrize(
    "source",
    [
        "hf://org/tone",
        "hf://org/tone@",
        "hf://org/tone/sub@main",
        "hf://org/../other/tone@main",
        "hf://org/tone@../../../api",
        "hf://org/tone@main?x=1",
        "hf://org/tone@main#x",
        "hf://org/host:1@main",
    ],
)
def test_a_source_on_a_hub_has_one_spelling(hub: Hub, into: Path, source: str) -> None:
    with pytest.raises(SourceError, match="is not written as hf://org/repo@revision; give a branch, a tag or a commit"):
        fetch(source, into, max_bytes=MAX_BYTES, allowed=allowing(hub))


@pytest.mark.parametrize("source", ["hf://org/tone@nowhere", "hf://org/absent@main"])
def test_what_is_not_on_the_hub_is_said_in_one_sentence(hub: Hub, into: Path, source: str) -> None:
    with pytest.raises(SourceError, match=f"^{source} cannot be fetched .*; check the name, the network") as refused:
        fetch(source, into, max_bytes=MAX_BYTES, allowed=allowing(hub))
    assert str(refused.value).isprintable()


def test_a_hub_that_is_not_there_is_said_in_one_sentence(into: Path) -> None:
    nobody = AllowedSources(("hf://org",), hub_endpoint="http://127.0.0.1:1")
    with pytest.raises(SourceError, match="hf://org/tone@main cannot be fetched"):
        fetch("hf://org/tone@main", into, max_bytes=MAX_BYTES, allowed=nobody)


def test_a_download_that_breaks_off_is_no_adapter(hub: Hub, into: Path) -> None:
    hub.cut[WEIGHTS] = 1000
    with pytest.raises(SourceError, match="hf://org/tone@main cannot be fetched"):
        fetch("hf://org/tone@main", into, max_bytes=MAX_BYTES, allowed=allowing(hub))


def test_a_download_stops_at_the_limit(hub: Hub, adapter_dir: Path, into: Path) -> None:
    (adapter_dir / WEIGHTS).write_bytes(bytes(5 * MAX_BYTES))
    with pytest.raises(SourceError, match="makes the adapter larger than allowed; raise max_upload_bytes"):
        fetch("hf://org/tone@main", into, max_bytes=MAX_BYTES, allowed=allowing(hub))
    assert sum(path.stat().st_size for path in into.iterdir()) <= MAX_BYTES


def test_a_repository_without_an_adapter_is_refused(hub: Hub, tmp_path: Path, into: Path) -> None:
    (tmp_path / "other").mkdir()
    hub.commit(SECOND, tmp_path / "other", "main")
    with pytest.raises(SourceError, match=r"holds no adapter_config\.json; give the folder of an adapter"):
        fetch("hf://org/tone@main", into, max_bytes=MAX_BYTES, allowed=allowing(hub))


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_url: str, adapter_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AllowedSources:
    """A bucket that holds the adapter below `team/tone`, beside other files."""
    from s3fs import S3FileSystem

    for variable, value in {
        "ACCESS_KEY_ID": "key",
        "SECRET_ACCESS_KEY": "secret",
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{variable}", value)
    files = S3FileSystem(endpoint_url=s3_url, skip_instance_cache=True)
    files.makedirs("adapters", exist_ok=True)
    for path in adapter_dir.iterdir():
        files.put_file(str(path), f"adapters/team/tone/{path.name}")
    files.pipe_file("adapters/team/tone/optimizer.pt", b"state")
    files.pipe_file("adapters/team/tone/checkpoint-10/README.md", b"deeper")
    return AllowedSources(("s3://adapters/team",), s3_endpoint=s3_url)


@pytest.mark.parametrize("source", ["s3://adapters/team/tone", "s3://adapters/team/tone/"])
def test_an_adapter_on_s3_is_fetched_with_its_etag(
    bucket: AllowedSources, adapter_dir: Path, into: Path, source: str
) -> None:
    provenance = fetch(source, into, max_bytes=MAX_BYTES, allowed=bucket)
    assert (provenance.source, len(provenance.revision)) == (source, 32)
    assert names(into) == ["adapter_config.json", WEIGHTS]
    assert (into / WEIGHTS).read_bytes() == (adapter_dir / WEIGHTS).read_bytes()


@pytest.mark.parametrize("source", ["s3://adapters/team/absent", "s3://adapters/team"])
def test_a_prefix_without_an_adapter_is_refused(bucket: AllowedSources, into: Path, source: str) -> None:
    with pytest.raises(SourceError, match=r"cannot be fetched|holds no adapter_config"):
        fetch(source, into, max_bytes=MAX_BYTES, allowed=bucket)


@pytest.mark.parametrize("source", ["s3://adapters/tea/tone", "s3://adapters", "s3://other/team/tone"])
def test_what_no_prefix_covers_is_not_read_from_s3(into: Path, source: str) -> None:
    with pytest.raises(SourceError, match="is not among the sources that the operator allows"):
        fetch(source, into, max_bytes=MAX_BYTES, allowed=AllowedSources(("s3://adapters/team",)))


@pytest.mark.parametrize("path", ["../private", "tone/../../private", "tone?versionId=1", "*", "tone#x", "[t]one"])
def test_a_source_on_s3_has_one_spelling(into: Path, path: str) -> None:
    with pytest.raises(SourceError, match="is not written as s3://bucket/prefix; give the folder of an adapter"):
        fetch(f"s3://adapters/team/{path}", into, max_bytes=MAX_BYTES, allowed=AllowedSources(("s3://",)))


def test_a_download_from_s3_stops_at_the_limit(bucket: AllowedSources, into: Path) -> None:
    with pytest.raises(SourceError, match="makes the adapter larger than allowed"):
        fetch("s3://adapters/team/tone", into, max_bytes=2_000, allowed=bucket)
    assert sum(path.stat().st_size for path in into.iterdir()) <= 2_000


def test_wrong_credentials_are_said_in_one_sentence(
    bucket: AllowedSources, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{variable}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(SourceError, match=r"s3://adapters/team/tone cannot be fetched .*check the name, the network"):
        fetch("s3://adapters/team/tone", into, max_bytes=MAX_BYTES, allowed=bucket)


@pytest.mark.parametrize(
    ("source", "module", "extra"),
    [("hf://org/tone@main", "huggingface_hub", "hub"), ("s3://adapters/team/tone", "s3fs", "s3")],
)
def test_a_missing_extra_is_named(
    into: Path, monkeypatch: pytest.MonkeyPatch, source: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SourceError, match=rf"run pip install 'turntable-gateway\[{extra}\]'"):
        fetch(source, into, max_bytes=MAX_BYTES, allowed=AllowedSources(("hf://", "s3://")))
