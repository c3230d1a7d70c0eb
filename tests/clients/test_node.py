"""JavaScript's clients: each file in `node/` is a suite of its own, run by the Node.js that npm brought with them."""

import re
import subprocess
from pathlib import Path

import pytest

from gateway.settings import inherited_environment
from tests.clients.conftest import QUESTION
from tests.conftest import Served
from tests.gateway.conftest import KEY, Attached

FOLDER = Path(__file__).parent / "node"
NODE = FOLDER / "node_modules" / ".bin" / "node"


def run_suite(name: str, url: str, key: str) -> None:
    """Run one suite; fails with its report unless every test in it ran and passed."""
    assert NODE.exists(), "the JavaScript clients are not installed; run `make clients`"
    environment = inherited_environment() | {"GATEWAY_URL": url, "GATEWAY_KEY": key, "QUESTION": QUESTION}
    command = [str(NODE), "--test", "--test-reporter=tap", f"{name}.test.mjs"]
    done = subprocess.run(
        command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    totals = {name: int(count) for name, count in re.findall(r"(?m)^# (tests|pass) (\d+)$", done.stdout)}
    assert totals["pass"] == totals["tests"] > 0, done.stdout


@pytest.mark.parametrize("suite", ["openai", "anthropic", "vercel", "vercel-providers"])
def test_a_javascript_client_works_over_the_real_engine(served: Served, suite: str) -> None:
    run_suite(suite, served.url, served.key)


def test_openai_node_meets_faults_as_its_documentation_says(attached_to_mock: Attached) -> None:
    run_suite("faults", attached_to_mock.url, KEY)


def test_every_suite_is_run_by_a_test_here() -> None:
    names = {path.name.removesuffix(".test.mjs") for path in FOLDER.glob("*.test.mjs")}
    source = Path(__file__).read_text()
    assert names
    assert all(f'"{name}"' in source for name in names)
