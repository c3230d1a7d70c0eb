"""Publish, verify and retire over a mock engine: every state is truthful, whatever happens in between."""

import asyncio
import hashlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters import Store, StoreError
from adapters.archive import pack, unpack
from gateway.settings import Settings
from gateway.threads import entered_in_file_thread
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockSettings
from tests.adapters.conftest import ALL_LINEAR, Adapter, in_layers, lora
from tests.conftest import TURNTABLE
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready
from tests.waiting import eventually


def directory(scratch: Path, seed: int) -> Path:
    return Adapter(tensors=lora(in_layers(ALL_LINEAR), seed=seed)).write(scratch / f"source-{seed}")


def upload(http: httpx.Client, name: str, adapter: Path) -> httpx.Response:
    with tempfile.TemporaryDirectory() as scratch, pack(adapter, Path(scratch) / "x.tar.gz").open("rb") as file:
        return http.post("/admin/v1/adapters", data={"name": name}, files={"file": file})


def document_of(http: httpx.Client, name: str) -> dict[str, Any]:
    document: dict[str, Any] = http.get(f"/admin/v1/adapters/{name}").json()
    return document


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Attached]:
    (tmp_path / "data").mkdir()
    settings = Settings(data_dir=tmp_path / "data", adapter_sources=(str(tmp_path),))
    with serving(MockSettings(tokens=2)) as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        attached = Attached(url, engine, tmp_path / "data")
        yield attached
        attached.http.close()


def test_a_version_is_ready_with_the_evidence_and_the_history_that_led_there(gateway: Attached, tmp_path: Path) -> None:
    created = upload(gateway.http, "mine", directory(tmp_path, 1))
    assert created.status_code == 201
    assert created.json() | {"digest": ""} == created.json() | {
        "name": "mine",
        "version": "v1",
        "digest": "",
        "state": "ready",
        "traffic": "",
        "live": False,
        "resident": ["engine-0"],
        "step": None,
        "parity": "no vectors",
        "warnings": [],
        "converted": [],
    }
    (version,) = document_of(gateway.http, "mine")["versions"]
    assert [change["state"] for change in version["history"]] == ["registered", "ready"]
    assert {change["actor"] for change in version["history"]} == {"admin"}
    (probe,) = version["evidence"]
    assert (probe["kind"], probe["document"]["verdict"]) == ("probe", "effect")
    assert probe["document"]["largest_delta"] > 0


def test_an_adapter_without_effect_is_quarantined_with_evidence_and_never_routed(
    gateway: Attached, tmp_path: Path
) -> None:
    gateway.engine.inert.add("mine")
    refused = upload(gateway.http, "mine", directory(tmp_path, 1))
    assert refused.status_code == 422
    assert "has no effect" in refused.json()["error"]["message"]
    (version,) = document_of(gateway.http, "mine")["versions"]
    assert version["state"] == "quarantined"
    assert "has no effect" in version["reason"]
    assert version["evidence"][0]["document"]["verdict"] == "no_effect"
    assert gateway.chat(model="mine@v1").status_code == 404
    promoted = gateway.http.post("/admin/v1/adapters/mine/promote", json={"version": "v1"})
    assert promoted.status_code == 409
    assert eventually(lambda: not gateway.engine.adapters)
    again = upload(gateway.http, "mine", directory(tmp_path, 1))
    assert (again.status_code, "verify mine v1" in again.json()["error"]["message"]) == (422, True)


def test_verifying_lifts_a_quarantine_only_when_the_cause_is_gone(gateway: Attached, tmp_path: Path) -> None:
    gateway.engine.inert.add("mine")
    upload(gateway.http, "mine", directory(tmp_path, 1))
    verify = "/admin/v1/adapters/mine/versions/v1/verify"
    assert gateway.http.post(verify).json()["ok"] is False
    gateway.engine.inert.clear()
    passed = gateway.http.post(verify).json()
    assert (passed["ok"], passed["failure"], passed["state"], passed["reason"]) == (True, "", "ready", "")
    assert gateway.http.post("/admin/v1/adapters/mine/promote", json={"version": 1}).json()["live"] is True
    (promotion,) = gateway.http.get("/admin/v1/audit?limit=1").json()["data"]
    assert (promotion["action"], promotion["evidence"]["probe"]) == ("promote", "effect")


def test_changed_bytes_fail_a_verification_and_only_idle_versions_are_quarantined(
    gateway: Attached, tmp_path: Path
) -> None:
    for seed in (1, 2):
        digest = upload(gateway.http, "mine", directory(tmp_path, seed)).json()["digest"]
        with (gateway.data_dir / "adapters" / digest / "adapter_model.safetensors").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x7f")
    gateway.http.post("/admin/v1/adapters/mine/promote", json={"version": "v1"})
    found = [gateway.http.post(f"/admin/v1/adapters/mine/versions/v{n}/verify").json() for n in (1, 2)]
    assert [(f["ok"], f["state"]) for f in found] == [(False, "ready"), (False, "quarantined")]
    assert all("has changed on disk" in f["failure"] for f in found)
    assert gateway.chat(model="mine").status_code == 200


def test_two_uploads_of_one_name_at_once_are_two_versions_and_of_one_content_are_one(
    gateway: Attached, tmp_path: Path
) -> None:
    sources = [directory(tmp_path, 1), directory(tmp_path, 2)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda path: upload(gateway.http, "mine", path).json(), [*sources, *sources]))
    assert {answer["version"] for answer in answers} == {"v1", "v2"}
    assert {answer["state"] for answer in answers} == {"ready"}
    assert len({(answer["version"], answer["digest"]) for answer in answers}) == 2
    assert len(document_of(gateway.http, "mine")["versions"]) == 2


def test_an_upload_that_is_too_large_is_cut_off_and_leaves_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, max_upload_bytes=1 << 20)
    with serving(MockSettings()) as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        form = {"name": (None, b"mine"), "file": ("x.tar.gz", os.urandom(3 << 20))}
        refused = httpx.post(f"{url}/admin/v1/adapters", headers={"authorization": f"Bearer {KEY}"}, files=form)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")
        assert not list((tmp_path / "adapters").glob("[0-9a-z]*"))


def test_sources_are_fetched_from_allowed_places_only(gateway: Attached, tmp_path: Path) -> None:
    inside = directory(tmp_path, 1)
    ask = {"name": "mine", "source": str(inside)}
    assert gateway.http.post("/admin/v1/adapters", json=ask).json()["state"] == "ready"
    for source in ("/etc", f"{inside}/../../..", "hf://acme/mine", "https://example.org/x", "mine"):
        refused = gateway.http.post("/admin/v1/adapters", json=ask | {"source": source})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "source"), source
    (entry,) = [e for e in gateway.http.get("/admin/v1/audit").json()["data"] if e["action"] == "add"]
    assert entry["evidence"]["source"] == str(inside)


def wrapped(scratch: Path, seed: int) -> Path:
    """An adapter that was saved out of a compiled model, with a pattern that means nothing."""
    adapter = Adapter(tensors=lora(in_layers(ALL_LINEAR), seed=seed))
    adapter.config["alpha_pattern"] = {"q_prj": 32}
    adapter.tensors = {f"_orig_mod.{name}": tensor for name, tensor in adapter.tensors.items()}
    return adapter.write(scratch / f"wrapped-{seed}")


@pytest.mark.parametrize("way", ["upload", "source"])
def test_a_conversion_and_its_warnings_are_on_record_wherever_versions_are_shown(
    gateway: Attached, tmp_path: Path, way: str
) -> None:
    adapter = wrapped(tmp_path, 5)

    def publish(convert: bool) -> httpx.Response:
        if way == "source":
            body = {"name": "mine", "source": str(adapter), "convert": convert}
            return gateway.http.post("/admin/v1/adapters", json=body)
        packed = pack(adapter, tmp_path / "x.tar.gz").read_bytes()
        data = {"name": "mine", "convert": "true" if convert else "false"}
        return gateway.http.post("/admin/v1/adapters", data=data, files={"file": packed})

    refused = publish(convert=False)
    assert (refused.status_code, "publish it with --convert" in refused.json()["error"]["message"]) == (422, True)
    created = publish(convert=True).json()
    assert created["warnings"] == [
        "The key 'q_prj' of alpha_pattern names no module that is adapted, so it has no effect."
    ]
    assert created["converted"] == ["names adjusted: '_orig_mod.' of torch.compile"]
    (shown,) = document_of(gateway.http, "mine")["versions"]
    (listed,) = gateway.http.get("/admin/v1/adapters").json()["data"]
    verified = gateway.http.post("/admin/v1/adapters/mine/versions/v1/verify").json()
    for row in (shown, listed, verified):
        assert (row["warnings"], row["converted"]) == (created["warnings"], created["converted"])
    kept = shown["manifest"]["converted"]
    weights = adapter / "adapter_model.safetensors"
    assert kept["original_files"][weights.name] == hashlib.sha256(weights.read_bytes()).hexdigest()
    (entry,) = [e for e in gateway.http.get("/admin/v1/audit").json()["data"] if e["action"] == "add"]
    assert entry["evidence"]["original"] == kept["original_digest"]
    assert "_orig_mod" in entry["evidence"]["converted"]


@pytest.mark.parametrize("said", ["perhaps", "", "1"])
def test_whether_to_convert_is_true_or_false(gateway: Attached, tmp_path: Path, said: str) -> None:
    packed = pack(directory(tmp_path, 1), tmp_path / "x.tar.gz").read_bytes()
    data = {"name": "mine", "convert": said}
    refused = gateway.http.post("/admin/v1/adapters", data=data, files={"file": packed})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "convert")


class WatchedStore(Store):
    """Notes in which thread each scratch directory is removed."""

    removers: list[threading.Thread]

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        try:
            with super().incoming() as scratch:
                yield scratch
        finally:
            self.removers.append(threading.current_thread())


@pytest.mark.parametrize(
    "ends", [None, OSError(28, "full"), asyncio.CancelledError()], ids=["well", "badly", "cut off"]
)
async def test_gigabytes_are_removed_off_the_event_loop(tmp_path: Path, ends: BaseException | None) -> None:
    store = WatchedStore(tmp_path / "store")
    store.removers = []
    raised: BaseException | None = None
    try:
        async with entered_in_file_thread(store.incoming()) as scratch:
            (scratch / "large").write_bytes(bytes(1 << 20))
            if ends is not None:
                raise ends
    except (StoreError, asyncio.CancelledError) as error:
        raised = error
    assert [thread is threading.current_thread() for thread in store.removers] == [False]
    assert not scratch.exists()
    assert type(raised) is (StoreError if isinstance(ends, OSError) else type(ends))


def test_a_retired_version_leaves_the_engine_and_its_files_go_with_it(gateway: Attached, tmp_path: Path) -> None:
    for seed in (1, 2):
        upload(gateway.http, "mine", directory(tmp_path, seed))
    gateway.http.post("/admin/v1/adapters/mine/promote", json={"version": "v1"})
    refused = gateway.http.delete("/admin/v1/adapters/mine/versions/v1")
    assert (refused.status_code, "takes traffic" in refused.json()["error"]["message"]) == (409, True)
    retired = gateway.http.delete("/admin/v1/adapters/mine/versions/v2").json()
    assert (retired["state"], retired["files"]) == ("retired", "released")
    assert [(engine["engine"], engine["left"]) for engine in retired["engines"]] == [("engine-0", "forgotten")]
    assert not (gateway.data_dir / "adapters" / retired["digest"]).exists()
    assert [name.partition("@")[0] for name in gateway.engine.adapters] == ["mine"]
    assert gateway.chat(model="mine@v2").status_code == 404
    back = upload(gateway.http, "mine", directory(tmp_path, 2)).json()
    assert (back["version"], back["state"], back["resident"]) == ("v2", "ready", ["engine-0"])


def test_files_stay_while_another_name_has_the_same_content(gateway: Attached, tmp_path: Path) -> None:
    upload(gateway.http, "mine", directory(tmp_path, 1))
    digest = upload(gateway.http, "other", directory(tmp_path, 1)).json()["digest"]
    retired = gateway.http.delete("/admin/v1/adapters/mine/versions/1").json()
    assert retired["files"] == "kept: other@v1 has the same files"
    assert (gateway.data_dir / "adapters" / digest).exists()


@contextmanager
def gateway_process(data_dir: Path, engine_url: str) -> Iterator["tuple[httpx.Client, subprocess.Popen[str]]"]:
    """A gateway of its own that can be killed."""
    command = [TURNTABLE, "serve", "--port", "0", "--data-dir", str(data_dir), "--engine-url", engine_url]
    environment = os.environ | {"TURNTABLE_ADMIN_KEY": KEY}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = next(line.split()[3] for line in process.stderr if "listening on" in line)
        wait_until_ready(url)
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as http:
            yield http, process
        process.kill()


def test_a_gateway_killed_while_it_loads_leaves_the_truth_and_a_retry_goes_on(tmp_path: Path) -> None:
    adapter = directory(tmp_path, 1)
    with (
        serving(MockSettings(tokens=2, load_ms=2_500)) as slow,
        gateway_process(tmp_path / "data", slow.url) as (http, process),
        ThreadPoolExecutor(1) as pool,
    ):
        publishing = pool.submit(upload, http, "mine", adapter)
        assert eventually(lambda: "loading" in json.dumps(document_of(http, "mine").get("in_work", [])))
        (version,) = document_of(http, "mine")["versions"]
        assert (version["state"], version["step"]) == ("registered", "loading")
        process.kill()
        with pytest.raises(httpx.HTTPError):
            publishing.result()
    with serving(MockSettings(tokens=2)) as engine, gateway_process(tmp_path / "data", engine.url) as (http, _):
        (version,) = document_of(http, "mine")["versions"]
        assert (version["state"], version["step"]) == ("registered", None)
        assert http.post("/admin/v1/adapters/mine/promote", json={"version": "v1"}).status_code == 409
        again = upload(http, "mine", adapter).json()
        assert (again["version"], again["state"]) == ("v1", "ready")


def test_uploads_that_take_for_ever_do_not_hold_up_keys(
    gateway: Attached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing and unpacking have threads of their own: revoking a key must not wait for an upload's disk."""
    goes_on, begun = threading.Event(), threading.Semaphore(0)

    def slow(*arguments: Any, **options: Any) -> None:
        begun.release()
        assert goes_on.wait(60)
        unpack(*arguments, **options)

    monkeypatch.setattr("gateway.releases.publish.unpack", slow)
    made = gateway.http.post("/admin/v1/keys", json={"name": "leaver"}).json()
    with ThreadPoolExecutor(20) as uploaders:
        source = directory(tmp_path, 1)
        uploads = [uploaders.submit(upload, gateway.http, f"slow-{number}", source) for number in range(20)]
        try:
            assert begun.acquire(timeout=20)
            answer = gateway.http.post("/admin/v1/keys", json={"name": "comer"})
            assert answer.status_code == 201
            assert gateway.http.delete(f"/admin/v1/keys/{made['id']}").status_code == 200
            revoked = httpx.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {made['key']}"})
            assert revoked.status_code == 401
        finally:
            goes_on.set()
        assert {done.result().status_code for done in uploads} == {201}
