"""What the documents say about the code is generated from it, and what they point to exists."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from turntable.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
BLOCKS = ("tree", "commands", "settings")
BENCH_BLOCKS = ("bench_bars", "bench_ratios", "bench_figures", "bench_bottleneck", "bench_soak", "bench_origin")


def build_reference(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docs" / "build_reference.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_readme_has_every_block_and_none_is_stale() -> None:
    text = (ROOT / "README.md").read_text()
    for name in BLOCKS:
        assert f"<!-- generated:{name} -->" in text, f"README.md has no block '{name}'"
    checked = build_reference("--check")
    assert checked.returncode == 0, checked.stderr


def test_the_tables_of_the_benchmarks_are_those_of_the_measurements(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for name in BENCH_BLOCKS:
        assert f"<!-- generated:{name} -->" in text, f"docs/benchmarks.md has no block '{name}'"
    flattered = tmp_path / "benchmarks.md"
    flattered.write_text(re.sub(r"(?m)^(\| memory \(RSS\) \|.*) (met|missed) \|$", r"\1 splendid |", text))
    checked = build_reference("--check", "--readme", flattered)
    assert checked.returncode == 1
    assert "benchmarks.md: stale blocks: bench_bars;" in checked.stderr


def test_stale_blocks_are_named_and_rebuilt_from_the_code_and_the_rest_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("".join(f"text\n<!-- generated:{name} -->\nold words\n<!-- /generated -->\n" for name in BLOCKS))
    stale = build_reference("--check", "--readme", readme)
    assert stale.returncode == 1
    assert f"stale blocks: {', '.join(BLOCKS)}" in stale.stderr
    assert readme.read_text().count("old words") == 3
    assert build_reference("--readme", readme).returncode == 0
    text = readme.read_text()
    assert re.search(r"(?m)^  metrics\.py +Metrics derived from raw records$", text)
    assert re.search(r"(?m)^turntable adapters promote NAME VERSION +Make a version live", text)
    assert "| `data_dir` | `TURNTABLE_DATA_DIR` | `var` |" in text
    assert (text.count("text\n<!--"), text.count("old words")) == (3, 0)


def test_an_unknown_block_is_refused_and_nothing_written(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- generated:weather -->\n<!-- /generated -->\n")
    refused = build_reference("--readme", readme)
    assert refused.returncode == 2
    assert "no such block: weather" in refused.stderr
    assert "weather -->\n<!-- /generated" in readme.read_text()


def typed_commands() -> list[str]:
    """Every `turntable …` line that a reader may copy, from code blocks that are neither generated nor captured."""
    lines = []
    for page in PAGES:
        text = re.sub(r"<!-- (generated|captured):.*?<!-- /\1 -->", "", page.read_text(), flags=re.DOTALL)
        for block in re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL):
            lines += [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("turntable ")]
    return sorted(set(lines))


@pytest.mark.parametrize("line", typed_commands())
def test_commands_that_readers_copy_are_understood(line: str) -> None:
    _, name, *words = shlex.split(line, comments=True)
    command: Any = COMMANDS[name].load()
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if words and "run" in getattr(command, "commands", {}):
        command = command.commands["run"]  # `compare TASK` is `compare run TASK`
    words = [word for word in words if word != "…"]
    _, left_over, _ = command.make_parser(command.context_class(command)).parse_args(words)
    assert not left_over, f"`{line}`: nothing takes {' '.join(left_over)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link) and not link.startswith("#")]
    broken = [link for link in local if not (page.parent / link).exists()]
    assert not broken, f"{page.relative_to(ROOT)} links to {', '.join(broken)}, which do not exist"
    named = [link.partition("#") for link in links if "#" in link and not re.match(r"[a-z]+:", link)]
    lost = [f"{file}#{name}" for file, _, name in named if name not in anchors(page.parent / file if file else page)]
    assert not lost, f"{page.relative_to(ROOT)} links to {', '.join(lost)}, headings that do not exist"


def anchors(page: Path) -> set[str]:
    """The names under which GitHub links to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_generated_block_has_its_place_in_a_page() -> None:
    placed = {name for page in PAGES for name in re.findall(r"<!-- generated:(\w+) -->", page.read_text())}
    assert set(runpy.run_path(str(ROOT / "docs" / "build_reference.py"))["BUILDERS"]) == placed
