"""SECURITY.md claims nothing that no test holds, and leaves out no test of an attack."""

import ast
import re
from pathlib import Path

from tests.conftest import ROOT

PAGE = (ROOT / "SECURITY.md").read_text()
NAMED = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE))


def names_of_tests(path: Path) -> set[str]:
    names = {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return {name for name in names if name.startswith("test_")}


def test_every_test_that_the_page_names_exists() -> None:
    assert len(NAMED) > 30
    missing = {f"{file}::{name}" for file, name in NAMED if name not in names_of_tests(ROOT / file)}
    assert not missing


def test_every_defence_names_its_test_and_every_file_of_attacks_is_named() -> None:
    table = PAGE.partition("## What is defended where")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 25
    assert [row for row in rows if "::" not in row] == []
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "security").glob("test_*.py")}
    assert files - {file for file, _ in NAMED} == {"tests/security/test_security_page.py"}


def test_every_flaw_that_others_had_is_on_the_page_or_in_a_test() -> None:
    """The advisories that the defences were written from, each named where its class is tested."""
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "security").glob("test_*.py"))
    for flaw in (
        *("CVE-2026-42208", "CVE-2026-35030", "CVE-2026-35029", "GHSA-69x8-hrgq-fjj8", "CVE-2026-47101"),
        *("CVE-2026-47102", "CVE-2026-12798", "CVE-2026-48710", "GHSA-4xpc-pv4p-pm3w", "CVE-2024-6587"),
        *("CVE-2026-3198", "CVE-2026-2652", "CVE-2026-2393", "GHSA-j6gc-4893-qwmp", "CVE-2026-22807"),
        *("CVE-2025-53643", "CVE-2025-61620", "CVE-2025-62164"),
    ):
        assert flaw in tests, flaw
