"""A run is pushed to the hub without what tells about its data; each obstacle is a sentence with its fix."""

import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfApi

from tests.trainer import commands
from tests.trainer.commands import run
from trainer.training.hub import published_metadata, push

PUSHED = {"adapter_model.safetensors", "adapter_config.json", "README.md", "training.json", "loss.svg"}
KEPT_HERE = {"rows.jsonl", "run.json", "parity.json", "metrics.jsonl", "mlflow.db", "notes.txt"}
TRAINING: dict[str, Any] = {
    "format": 3,
    "base_model": "smollm2",
    "recipe": {
        "train": [{"path": "/home/jane/acme/train.jsonl", "weight": 2.0}, {"path": "hf://datasets/acme/rows/a.csv"}],
        "valid": "../acme/valid.jsonl",
        "base_model": "/models/smollm2",
        "lora": {"r": 8, "init": "/home/jane/run"},
        "data": {"chat_template": "{% for m in messages %}</{{ m }}>{% endfor %}"},
    },
    "data": {"train": {"file": "/home/jane/acme/train.jsonl, hf://datasets/acme/rows/a.csv", "rows": 3}},
    "baseline": {"shape": {"classes": {"answer": ["Jane Doe"]}}},
}


class Hub(BaseHTTPRequestHandler):
    """Answers what the hub's client asks for small files; `seen` is what was asked, by path."""

    seen: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((self.path, body))
        if self.path.endswith("/preupload/main"):
            files = [{**one, "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            address = f"http://{self.headers['host']}/me/late/commit/{'1' * 40}"
            self._answer({"commitUrl": address, "commitOid": "1" * 40})
        else:
            self._answer({"url": f"http://{self.headers['host']}/me/late", "name": "me/late"})

    def do_GET(self) -> None:
        self._answer({"id": "me/late", "sha": "0" * 40, "siblings": []})

    def _answer(self, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def hub() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    seen: list[tuple[str, bytes]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisTest", (Hub,), {"seen": seen}))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    for name in PUSHED | KEPT_HERE:
        (tmp_path / name).write_text("{}", encoding="utf-8")
    (tmp_path / "training.json").write_text(json.dumps(TRAINING), encoding="utf-8")
    (tmp_path / "checkpoint-000004").mkdir()
    (tmp_path / "checkpoint-000004" / "README.md").touch()
    return tmp_path


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_test")


def test_rows_and_paths_stay_on_this_machine(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub() as (address, seen):
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: HfApi(endpoint=address, token="hf_test"))
        assert push(finished, "me/late", is_private=True) == f"{address}/me/late"
    (made,) = [json.loads(body) for path, body in seen if path == "/api/repos/create"]
    assert made["visibility"] == "private"
    (commit,) = [body for path, body in seen if "/commit/" in path]
    lines = [json.loads(line) for line in commit.splitlines()]
    pushed = {line["value"]["path"]: b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
    assert pushed.keys() == PUSHED
    assert json.loads(pushed["training.json"]) == published_metadata(finished)


def test_pushed_metadata_name_no_folder_of_this_machine_and_no_label_of_an_answer(finished: Path) -> None:
    published = published_metadata(finished)
    assert "baseline" not in published
    assert published["data"]["train"]["file"] == "train.jsonl, hf://datasets/acme/rows/a.csv"
    files = [{"path": "train.jsonl", "weight": 2.0}, {"path": "hf://datasets/acme/rows/a.csv"}]
    template = TRAINING["recipe"]["data"]["chat_template"]
    assert published["recipe"] == {
        "train": files,
        "valid": "valid.jsonl",
        "base_model": "smollm2",
        "lora": {"r": 8, "init": "run"},
        "data": {"chat_template": template},
    }


@pytest.mark.parametrize(
    ("obstacle", "said"),
    [
        ("offline", "HF_HUB_OFFLINE is set, so nothing is pushed; unset it."),
        ("no token", "there is no token of the hub; set HF_TOKEN, or log in"),
        ("no run", "has no adapter_model.safetensors; give the directory of a finished run."),
        ("no network", "is not pushed to me/late"),
        ("bad name", "is no name of a repository; write OWNER/NAME."),
        ("no owner", "is no name of a repository; write OWNER/NAME."),
    ],
)
def test_an_obstacle_is_a_sentence(finished: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str, said: str) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9", token="hf"))
    if obstacle == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if obstacle == "no token":
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    if obstacle == "no run":
        (finished / "adapter_model.safetensors").unlink()
    repository = {"bad name": "me/late..", "no owner": "late"}.get(obstacle, "me/late")
    failed = run(commands.push, finished, repository)
    assert failed.exit_code == 2
    assert said in failed.stderr.replace("\n", " ")
    assert "Traceback" not in failed.output
