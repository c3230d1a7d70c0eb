"""Documents that name code name what exists, and what they take from the code is not stale."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
BUILD = runpy.run_path(str(DOCS / "build_reference.py"))
BENCH_BLOCKS = ("bench_bars", "bench_ratios", "bench_figures", "bench_bottleneck", "bench_soak", "bench_origin")
MOST_README_LINES = 250
MOST_COLUMNS = 120


def build_reference(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DOCS / "build_reference.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_nothing_that_comes_from_the_code_is_stale() -> None:
    checked = build_reference("--check")
    assert checked.returncode == 0, checked.stderr


def test_the_tables_of_the_benchmarks_are_those_of_the_measurements(tmp_path: Path) -> None:
    text = (DOCS / "benchmarks.md").read_text()
    for name in BENCH_BLOCKS:
        assert f"<!-- generated:{name} -->" in text, f"docs/benchmarks.md has no block '{name}'"
    flattered = tmp_path / "benchmarks.md"
    flattered.write_text(re.sub(r"(?m)^(\| memory \(RSS\) \|.*) (met|missed) \|$", r"\1 splendid |", text))
    checked = build_reference("--check", "--page", flattered)
    assert checked.returncode == 1
    assert "benchmarks.md: stale blocks: bench_bars;" in checked.stderr


def test_stale_blocks_are_named_and_rebuilt_and_the_rest_left_alone(tmp_path: Path) -> None:
    page, names = tmp_path / "page.md", ("demo", "cost_presets", "bench_soak")
    page.write_text("".join(f"text\n<!-- generated:{name} -->\nold words\n<!-- /generated -->\n" for name in names))
    stale = build_reference("--check", "--page", page)
    assert stale.returncode == 1
    assert f"stale blocks: {', '.join(names)}" in stale.stderr
    assert page.read_text().count("old words") == 3
    assert build_reference("--page", page).returncode == 0
    text = page.read_text()
    assert "| `h100` | NVIDIA H100 80 GB |" in text
    assert (text.count("text\n<!--"), text.count("old words")) == (3, 0)


def test_an_unknown_block_is_refused_and_nothing_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- generated:weather -->\n<!-- /generated -->\n")
    refused = build_reference("--page", page)
    assert refused.returncode == 2
    assert "no such block: weather" in refused.stderr
    assert "weather -->\n<!-- /generated" in page.read_text()


def test_the_reference_names_every_command_setting_metric_path_and_module() -> None:
    def reference(name: str) -> str:
        return (DOCS / "reference" / name).read_text()

    assert re.search(
        r"(?m)^\| \[`turntable adapters promote`\]\(#turntable-adapters-promote\) \| .+ \|$", reference("cli.md")
    )
    assert "* `--expect-live`" in reference("cli.md")
    assert "| `data_dir` | `TURNTABLE_DATA_DIR` | `var` |" in reference("settings.md")
    assert "| `turntable_requests_total` | counter |" in reference("metrics.md")
    assert "| `POST /admin/v1/adapters/{name}/promote` |" in reference("http-api.md")
    assert re.search(r"(?m)^ +loss_mask\.py +\S", reference("modules.md"))
    assert "| `lora_alpha` | `32` |" in reference("recipe.md")
    assert "| `min_items` | `50` |" in reference("task.md")


def test_the_readme_is_short_and_shows_lines_of_the_captured_demo_with_its_verdict() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= MOST_README_LINES
    shown = "\n".join(lines).partition("<!-- generated:demo -->\n```\n")[2].partition("\n```")[0].splitlines()
    captured = iter((DOCS / "reference" / "demo.txt").read_text().splitlines())
    assert 10 <= len(shown) <= 25
    assert all(line in captured for line in shown), "these are not lines of the capture, in its order"
    for needed in (
        BUILD["VERDICT"],
        r"\$ turntable train .*",
        r"support-triage: .*",
        r".*\(bill\).*",
        r"The whole loop took .*",
    ):
        assert any(re.fullmatch(needed, line) for line in shown), f"no line of the README's excerpt matches {needed}"


def typed_commands() -> list[str]:
    """Every `turntable …` line that a reader may copy from a code block that is not generated."""
    lines = []
    for page in PAGES:
        text = re.sub(r"<!-- generated:.*?<!-- /generated -->", "", page.read_text(), flags=re.DOTALL)
        for block in re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL):
            lines += [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("turntable ")]
    return sorted(set(lines))


@pytest.mark.parametrize("line", typed_commands())
def test_commands_that_readers_copy_are_understood(line: str) -> None:
    _, name, *words = shlex.split(line, comments=True)
    command: Any = BUILD["top_command"](name)
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
    broken = [link for link in local if not (page.parent / link).exists() and not is_picture_to_come(link)]
    assert not broken, f"{page.relative_to(ROOT)} links to {', '.join(broken)}, which do not exist"
    named = [link.partition("#") for link in links if "#" in link and not re.match(r"[a-z]+:", link)]
    lost = [f"{file}#{name}" for file, _, name in named if name not in anchors(page.parent / file if file else page)]
    assert not lost, f"{page.relative_to(ROOT)} links to {', '.join(lost)}, headings that do not exist"


def is_picture_to_come(link: str) -> bool:
    """The pictures are made by the project's own pages; without their folder none is expected."""
    return link.startswith("docs/images/") and not (DOCS / "images").exists()


def anchors(page: Path) -> set[str]:
    """The names under which GitHub links to the headings of a page."""
    return {BUILD["anchor"](heading) for heading in re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)}


def test_every_page_can_be_reached_from_the_index() -> None:
    reached: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#:]+)", page.read_text())
        waiting += [(page.parent / link).resolve() for link in links if (page.parent / link).is_file()]
    unreached = [page.relative_to(ROOT).as_posix() for page in DOCS.rglob("*.md") if page not in reached]
    assert not unreached, f"no link leads from docs/index.md to {', '.join(unreached)}"


def test_every_generated_block_has_its_place_in_a_page() -> None:
    placed = {name for page in PAGES for name in re.findall(r"<!-- generated:(\w+) -->", page.read_text())}
    assert set(BUILD["BUILDERS"]) == placed


def test_modules_and_pages_that_prose_names_exist() -> None:
    """Paths such as `gateway/quota/manager.py`."""
    folders = "adapters|docs|examples|gateway|loadtest|tests|trainer|turntable"
    path = re.compile(rf"(?<![\w./-])(?:{folders})/[\w./-]*\.(?:py|md|toml|json|txt)\b")
    texts = {page: page.read_text() for page in PAGES if page.name not in ("CHANGELOG.md", "modules.md")}
    lost = {
        f"{page.name}: {name}"
        for page, text in texts.items()
        for name in path.findall(text)
        if not (ROOT / name).exists()
    }
    assert not lost, f"these are named and do not exist: {'; '.join(sorted(lost))}"


def test_metrics_and_settings_that_prose_names_exist() -> None:
    metrics = set(re.findall(r"(?m)^\| `(\w+)` \|", (DOCS / "reference" / "metrics.md").read_text()))
    metrics |= {"turntable_patches", "turntable_residency"}  # vLLM's plugins of this package
    variables = set(re.findall(r"TURNTABLE_\w+", (DOCS / "reference" / "settings.md").read_text()))
    variables |= {"TURNTABLE_GATEWAY_URL"}  # read by commands, not by the gateway
    lost: set[str] = set()
    for page in PAGES:
        if page.name != "CHANGELOG.md" and page.parent.name != "decisions":
            text = page.read_text()
            lost |= {
                f"{page.name}: {name}" for name in re.findall(r"`(turntable_\w+)[`{]", text) if name not in metrics
            }
            lost |= {f"{page.name}: {name}" for name in re.findall(r"TURNTABLE_\w+", text) if name not in variables}
    assert not lost, f"these are named and do not exist: {'; '.join(sorted(lost))}"


def test_pages_that_code_names_exist() -> None:
    lost = []
    for folder in ("turntable", "adapters", "gateway", "trainer", "loadtest", "examples", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            named = re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text())
            lost += [f"{file.relative_to(ROOT)}: {name}" for name in named if not (ROOT / name).exists()]
    assert not lost, f"these are named and do not exist: {'; '.join(sorted(lost))}"


WIDE = re.compile(r"^\||https?://|^ *\{|^#+ |<!--|\]\(")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_of_prose_fit_a_screen(page: Path) -> None:
    text = re.sub(r"<!-- generated:.*?<!-- /generated -->|```.*?```", "", page.read_text(), flags=re.DOTALL)
    older_decision = page.parent.name == "decisions" and page.name < "0019"
    if page.name == "CHANGELOG.md" or older_decision or BUILD["WRITTEN"] in text or "Written by `python -m" in text:
        return
    wide = [line for line in text.splitlines() if len(line) > MOST_COLUMNS and not WIDE.search(line)]
    assert not wide, f"{page.relative_to(ROOT)}: longer than {MOST_COLUMNS} columns: {wide[0]}"
