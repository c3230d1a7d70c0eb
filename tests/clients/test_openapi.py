"""Schemathesis makes up requests from the API's own description: none may be a server error, every refusal has its
API's shape.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from gateway.settings import inherited_environment
from tests.clients.inference_paths import operations
from tests.conftest import ROOT, Served
from tests.gateway.conftest import KEY, Attached

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
OPTIONS = (
    *("--generation-deterministic", "--max-examples", "30"),
    *("--phases", "examples,coverage,fuzzing"),
    *("--checks", "not_a_server_error,error_shape"),
    *("--warnings", "off"),
    *("--request-timeout", "120"),  # an example may ask for as many tokens as the context has room for
)


def description(url: str) -> dict[str, Any]:
    """The gateway's own OpenAPI document."""
    document: dict[str, Any] = httpx.get(f"{url}/openapi.json").raise_for_status().json()
    return document


def fuzz(document: dict[str, Any], url: str, key: str, folder: Path) -> None:
    """Run Schemathesis over a document; fails with its report when a check failed."""
    file = folder / "openapi.json"
    file.write_text(json.dumps(document))
    command = [
        str(SCHEMATHESIS),
        "--no-color",
        "run",
        str(file),
        "--url",
        url,
        "--header",
        f"Authorization:Bearer {key}",
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.clients.error_shapes", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *OPTIONS],
        cwd=folder,
        env=inherited_environment() | hooks,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    operations_listed = sum(len(item) for item in document["paths"].values())
    assert f"Tested: {operations_listed}\n" in done.stdout, done.stdout


def test_no_request_of_an_application_is_a_server_error(served: Served, tmp_path: Path) -> None:
    document = description(served.url)
    paths = {path: item for path, item in document["paths"].items() if not path.startswith("/admin")}
    fuzz(document | {"paths": paths | operations()}, served.url, served.key, tmp_path)


def test_no_request_of_an_operator_is_a_server_error(attached_to_mock: Attached, tmp_path: Path) -> None:
    document = description(attached_to_mock.url)
    paths = {path: item for path, item in document["paths"].items() if path.startswith("/admin")}
    fuzz(document | {"paths": paths}, attached_to_mock.url, KEY, tmp_path)
