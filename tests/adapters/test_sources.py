"""Sources: only what the operator allows is fetched, only the adapter's own files, and never more than the limit."""

from pathlib import Path

import pytest

from adapters import AllowedSources, SourceError, SourceProvenance, fetch
from tests.adapters.conftest import names

MAX_BYTES = 1 << 20


def below(*prefixes: str | Path) -> AllowedSources:
    return AllowedSources(tuple(map(str, prefixes)))


def test_the_adapters_own_files_are_copied_from_a_directory(adapter_dir: Path, into: Path, tmp_path: Path) -> None:
    (adapter_dir / "optimizer.pt").write_bytes(b"state")
    (adapter_dir / "training.json").write_text("{}")
    provenance = fetch(str(adapter_dir), into, max_bytes=MAX_BYTES, allowed=below(tmp_path))
    assert provenance == SourceProvenance(str(adapter_dir))
    assert names(into) == ["adapter_config.json", "adapter_model.safetensors", "training.json"]
    for path in into.iterdir():
        assert path.read_bytes() == (adapter_dir / path.name).read_bytes()


def test_nothing_is_allowed_unless_the_operator_says_so(adapter_dir: Path, into: Path) -> None:
    for source in (str(adapter_dir), "hf://org/repo@main", "s3://bucket/prefix"):
        with pytest.raises(SourceError, match="is not among the sources that the operator allows"):
            fetch(source, into, max_bytes=MAX_BYTES, allowed=AllowedSources())
    assert names(into) == []


@pytest.mark.parametrize("way", ["../adapter", "link", "../allowed-not/adapter"])
def test_no_way_leads_out_of_an_allowed_directory(adapter_dir: Path, into: Path, tmp_path: Path, way: str) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link").symlink_to(adapter_dir)
    (tmp_path / "allowed-not").symlink_to(tmp_path)
    with pytest.raises(SourceError, match="is not among the sources that the operator allows"):
        fetch(f"{allowed}/{way}", into, max_bytes=MAX_BYTES, allowed=below(allowed))
    assert names(into) == []


@pytest.mark.parametrize(
    "source", ["adapter", "./adapter", "file:///etc", "http://127.0.0.1:1/", "ftp://x/y", "", "\0"]
)
def test_what_is_no_source_is_refused_by_name(into: Path, source: str) -> None:
    with pytest.raises(SourceError, match="is not a source; give an absolute directory"):
        fetch(source, into, max_bytes=MAX_BYTES, allowed=below("/", source))


def test_a_directory_without_an_adapter_is_refused(into: Path, tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "absent"):
        with pytest.raises(SourceError, match=r"holds no adapter_config\.json; give the folder of an adapter"):
            fetch(str(source), into, max_bytes=MAX_BYTES, allowed=below(tmp_path))


def test_more_than_the_limit_is_not_copied(adapter_dir: Path, into: Path, tmp_path: Path) -> None:
    weights_bytes = (adapter_dir / "adapter_model.safetensors").stat().st_size
    with pytest.raises(SourceError, match="makes the adapter larger than allowed; raise max_upload_bytes"):
        fetch(str(adapter_dir), into, max_bytes=weights_bytes, allowed=below(tmp_path))
    assert sum(path.stat().st_size for path in into.iterdir()) <= weights_bytes
