"""What comes in as an adapter is data, never code, and never a way to other files: over HTTP, as an attacker would."""

import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockSettings
from tests.adapters.conftest import ALL_LINEAR, Adapter, in_layers, lora
from tests.gateway.conftest import Attached, running_gateway, wait_until_ready

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Member = tuple[str, bytes, bytes, str]
"""Name, content, type and where a link leads."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    root = tmp_path_factory.mktemp("uploads")
    for name in ("data", "allowed", "secret"):
        (root / name).mkdir()
    settings = Settings(
        data_dir=root / "data", adapter_sources=(str(root / "allowed"), "hf://org"), max_upload_bytes=1 << 20
    )
    with serving(MockSettings(tokens=2)) as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        attached = Attached(url, engine, root / "data")
        yield attached
        attached.http.close()


def file(name: str, content: bytes = b"{}") -> Member:
    return name, content, tarfile.REGTYPE, ""


def link(name: str, leads_to: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    return name, b"", kind, leads_to


def upload(gateway: Attached, members: list[Member]) -> httpx.Response:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content, kind, leads_to in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, leads_to
            tar.addfile(info, io.BytesIO(content))
    archive = ("../../x.tar.gz", packed.getvalue(), "application/gzip")
    return gateway.http.post("/admin/v1/adapters", data={"name": "evil"}, files={"file": archive})


def everything(gateway: Attached) -> set[str]:
    """All files around the gateway but those that it writes to all the time."""
    root = gateway.data_dir.parent
    kept = (path for path in root.rglob("*") if "turntable.db" not in path.name and "ledger" not in path.parts)
    return {str(path.relative_to(root)) for path in kept}


@pytest.mark.parametrize(
    "members",
    [
        [file(f"../{CONFIG}")],
        [file(f"/tmp/{CONFIG}")],
        [file(f"x/../../{CONFIG}")],
        [file(f"..\\{CONFIG}")],
        [link(CONFIG, "/etc/passwd")],
        [link(CONFIG, "/etc/passwd", tarfile.LNKTYPE)],
        [link("x", "/"), file(f"x/{CONFIG}")],
        [link(CONFIG, "", tarfile.FIFOTYPE)],
        [link(CONFIG, "", tarfile.CHRTYPE)],
        [file(CONFIG), file(CONFIG)],
        [file(WEIGHTS, bytes(2 << 20))],
        [file(CONFIG, bytes(200 << 20))],
        [file(f"x{number}") for number in range(1_100)],
    ],
    ids=[
        *("climbs", "absolute", "climbs within", "backslashes", "symbolic link", "hard link", "linked folder", "pipe"),
        *("device", "twice", "too large", "bomb", "too many"),
    ],
)
def test_an_archive_cannot_leave_its_place_or_fill_the_disk(gateway: Attached, members: list[Member]) -> None:
    """Zip slip, links, devices and bombs (the class of CVE-2007-4559)."""
    before = everything(gateway)
    answer = upload(gateway, members)
    assert answer.status_code in (400, 422), answer.text
    assert everything(gateway) == before
    assert not Path(f"/tmp/{CONFIG}").exists()
    assert str(gateway.data_dir) not in answer.text


class Code:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._mark,)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", WEIGHTS, "tokenizer.pkl", "README.md"])
def test_no_pickle_in_an_adapter_is_ever_loaded(gateway: Attached, tmp_path: Path, name: str) -> None:
    """CVE-2026-22807 and every torch.load before it: weights are read as safetensors, and nothing else is read."""
    adapter = Adapter(tensors=lora(in_layers(ALL_LINEAR))).write(tmp_path / "adapter")
    mark = tmp_path / "ran"
    assert pickle.loads(pickle.dumps(Code(mark))) is None
    mark.unlink()
    members = [file(CONFIG, (adapter / CONFIG).read_bytes()), file(name, pickle.dumps(Code(mark)))]
    answer = upload(gateway, members)
    assert answer.status_code == 422, answer.text
    assert not mark.exists()
    assert not [path for path in everything(gateway) if path.endswith((".bin", ".pt", ".pkl"))]


@pytest.mark.parametrize(
    "source",
    [
        *("http://169.254.169.254/latest/meta-data/", "https://127.0.0.1/x", "file:///etc", "ftp://x/y", "gopher://x"),
        *("hf://evil/repo@main", "hf://org/../../evil@main", "hf://org@169.254.169.254/x@main", "hf://org/x@..//y"),
        *("hf://orgevil/repo@main", "HF://org/x@main", "hf:///etc/passwd", "hf://org\\x@main", "hf://org/x@main#@evil"),
        *("s3://169.254.169.254/x", "s3://org/x", "/etc", "/proc/self", "/proc/self/cwd", "../allowed", "~", ""),
        *("{allowed}/../secret", "{allowed}/link", "{allowed}/file-link", "{allowed}evil", "{allowed}/\x00/x"),
        *("\\\\169.254.169.254\\share", "//169.254.169.254/share", "{secret}", "{data}", " /etc", "/etc\n"),
    ],
)
def test_a_source_leads_only_where_the_operator_said(gateway: Attached, source: str) -> None:
    """CVE-2026-12798, MLflow CVE-2026-2393: the server fetched what an address in a request named."""
    root = gateway.data_dir.parent
    places = {"allowed": root / "allowed", "secret": root / "secret", "data": root / "data"}
    Adapter(tensors=lora(in_layers(ALL_LINEAR))).write(places["secret"] / "adapter")
    for name, leads_to in (("link", "secret/adapter"), ("file-link", "")):
        if name == "link" and not (places["allowed"] / name).exists():
            (places["allowed"] / name).symlink_to(root / leads_to)
        if name == "file-link":
            (places["allowed"] / name).mkdir(exist_ok=True)
            if not (places["allowed"] / name / CONFIG).exists():
                (places["allowed"] / name / CONFIG).symlink_to(places["secret"] / "adapter" / CONFIG)
    filled = source.format(**places) if source.startswith("{") else source
    answer = gateway.http.post("/admin/v1/adapters", json={"name": "evil", "source": filled})
    assert answer.status_code == 400, answer.text
    assert gateway.http.get("/admin/v1/adapters").json()["data"] == []
