"""Write what the documentation takes from the code: `python docs/build_reference.py [--check]`.

Whole pages in docs/reference (commands, settings, recipe, task, metrics, HTTP API, modules) come from the code, blocks
between `<!-- generated:NAME -->` and `<!-- /generated -->` from code, from the JSON in docs/benchmarks/, or from the
captured demo in docs/reference/demo.txt. With `--check` nothing is written, and what is stale is an error.
"""

import argparse
import ast
import asyncio
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import typer
from pydantic import BaseModel

from gateway.app import Turntable
from gateway.costs import docs_tables as costs
from gateway.engines.slot_plan import SlotPlan
from gateway.money import usd_text
from gateway.settings import Settings
from gateway.wiring import Setup
from loadtest.bench import adapters
from loadtest.bench import results as bench_page
from loadtest.bench.adapters import AdapterResult
from loadtest.bench.results import Result, Soak
from trainer.benchmark import page as trainer_page
from trainer.benchmark import supported_models
from trainer.eval.task import FrontierTable, GateRules, JudgeTable, RetrievalTable, Task
from trainer.training.recipe import Data, Dpo, Kto, Lora, Orpo, Recipe, Sweep, TrainFile, Training
from turntable.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
MEASURED = ROOT / "docs" / "benchmarks"
DEMO = REFERENCE / "demo.txt"
BLOCK = re.compile(r"<!-- generated:(?P<name>\w+) -->\n.*?<!-- /generated -->", re.DOTALL)
BLOCK_PAGES = (
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("index.md", "benchmarks.md", "explanation/costs.md", "explanation/ledger.md")),
)
PACKAGES = ("turntable", "adapters", "gateway", "trainer", "loadtest", "examples")
WRITTEN = "<!-- Written by `python docs/build_reference.py` from the code. -->"
VERDICT = r".*\b(PROMOTE|DO.NOT.DEPLOY|NOT.ENOUGH.\w+)\b *[─-].*"
# Lines of the captured demo that the README shows, in the demo's order: each pattern takes every line that it matches
# whole. The verdict's box is shown down to its first empty line. tests/test_docs.py says what may not be missing.
EXCERPT = (
    r"\$ turntable (data check|train|adapters add|compare|adapters promote) .*",
    r"verdict: .*",
    r"(held out|eval loss) .* before, .*",
    r"[│| ]*correct .*\d.*",
    VERDICT,
    r"support-triage: \{.*",
    r"[│| ]*\((idle|bill)\) .*",
    r"[│| ]*(openai|anthropic|google):.*",
    r"The whole loop took .*",
)
MOST_EXCERPT_LINES = 25


def main() -> None:
    """Write or check every page."""
    parser = argparse.ArgumentParser(description="Write the parts of the documentation that come from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when something is stale")
    parser.add_argument("--page", type=Path, help="only the blocks of this file")
    arguments = parser.parse_args()
    for page in [arguments.page] if arguments.page else BLOCK_PAGES:
        build(page, check=arguments.check)
    if not arguments.page:
        write_reference(check=arguments.check)


def write_reference(*, check: bool) -> None:
    """Write the pages of docs/reference that come from the code whole, or only check them."""
    for name, made in REFERENCE_PAGES.items():
        page, text = REFERENCE / name, f"{made()}\n"
        if not check:
            page.write_text(text, encoding="utf-8")
        elif not page.exists() or page.read_text(encoding="utf-8") != text:
            fail(1, f"docs/reference/{name} is stale; run `python docs/build_reference.py`")


def build(page: Path, *, check: bool) -> None:
    """Rewrite the blocks of one page, or only check them."""
    text = page.read_text(encoding="utf-8")
    unknown = {match["name"] for match in BLOCK.finditer(text)} - BUILDERS.keys()
    if unknown:
        fail(2, f"{page.name}: no such block: {', '.join(sorted(unknown))}; use {', '.join(BUILDERS)}")
    rebuilt = BLOCK.sub(lambda match: block(match["name"]), text)
    if not check:
        page.write_text(rebuilt, encoding="utf-8")
    elif rebuilt != text:
        stale = [old["name"] for old in BLOCK.finditer(text) if old.group() != block(old["name"])]
        names = ", ".join(dict.fromkeys(stale))
        fail(1, f"{page.name}: stale blocks: {names}; run `python docs/build_reference.py`")


def fail(code: int, sentence: str) -> None:
    """Leave with one sentence on standard error."""
    sys.stderr.write(f"error: {sentence}\n")
    sys.exit(code)


def block(name: str) -> str:
    """A whole block with its markers."""
    return f"<!-- generated:{name} -->\n{BUILDERS[name]()}\n<!-- /generated -->"


def excerpt() -> str:
    """Return the lines of the captured demo that EXCERPT names."""
    captured = DEMO.read_text(encoding="utf-8").splitlines()
    taken = {place for place, line in enumerate(captured) if any(re.fullmatch(pattern, line) for pattern in EXCERPT)}
    verdict = next(place for place, line in enumerate(captured) if re.fullmatch(VERDICT, line))
    end = next(place for place in range(verdict, len(captured)) if re.fullmatch(r"[│|] *[│|]|[╰+].*", captured[place]))
    lines = [captured[place] for place in sorted(taken | set(range(verdict, end)))]
    if len(lines) > MOST_EXCERPT_LINES:
        fail(2, f"EXCERPT takes {len(lines)} lines of the demo, at most {MOST_EXCERPT_LINES} are shown")
    return fenced(lines)


def decisions() -> str:
    """A link to every decision, by its title."""
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    titles = [page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for page in pages]
    return "\n".join(f"* [{title}](decisions/{page.name})" for title, page in zip(titles, pages, strict=True))


def modules() -> str:
    """The page of every folder and module with the first sentence of its docstring."""
    entries: list[tuple[str, str]] = []
    for package in PACKAGES:
        entries += folder_entries(ROOT / package, depth=0)
    about = (
        "Every module in a line: the first sentence of its docstring. A folder's name is a question, the file in it "
        "the answer\n([decision 19](../decisions/0019-the-house.md)). `tests/` has the same folders."
    )
    return "\n".join(["# Modules", "", WRITTEN, "", about, "", fenced(aligned(entries))])


def folder_entries(folder: Path, depth: int) -> Iterator[tuple[str, str]]:
    """Yield a folder, its modules, then its sub-folders, indented by depth; folders without code are left out."""
    indent = "  " * depth
    package = folder / "__init__.py"
    yield f"{indent}{folder.name}/", first_sentence(package) if package.exists() else ""
    for file in sorted(folder.glob("*.py")):
        if file.name != "__init__.py":
            yield f"{indent}  {file.name}", first_sentence(file)
    for child in sorted({file.relative_to(folder).parts[0] for file in folder.rglob("*/*.py")}):
        yield from folder_entries(folder / child, depth + 1)


def first_sentence(file: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.(?:\s|$)", paragraph, maxsplit=1)[0].rstrip(":")


def top_command(name: str) -> Any:
    """The Click command `turntable NAME`."""
    return COMMANDS[name].load()


def cli() -> str:
    """The page of every command with its arguments, help and options."""
    found = [entry for name in COMMANDS for entry in leaves(f"turntable {name}", top_command(name))]
    about = (
        "`turntable COMMAND --help` shows the same on a terminal. Exit codes: 0 ok, 1 a failed verdict, 2 bad input."
    )
    overview = [f"| [`{path}`](#{anchor(path)}) | {cell(first_paragraph(command))} |" for path, command in found]
    lines = ["# Commands", "", WRITTEN, "", about, "", "| command | does |", "|---|---|", *overview]
    for path, command in found:
        lines += ["", f"## {path}", "", f"`{usage_line(path, command)}`", *described_command(command)]
    return "\n".join(lines)


def leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield path and Click command of the commands without sub-commands."""
    children = getattr(command, "commands", {})
    if not children or getattr(command, "invoke_without_command", False):
        yield path, command
    for name, child in children.items():
        yield from leaves(f"{path} {name}", child)


def usage_line(path: str, command: Any) -> str:
    """The command with its arguments, as its help shows them."""
    pieces = [] if getattr(command, "commands", {}) else command.collect_usage_pieces(typer.Context(command))
    return " ".join([path, *(re.sub(r"[{}]", "", piece).upper() for piece in pieces)])


def described_command(command: Any) -> Iterator[str]:
    """Yield the help of a command and a line for each of its options."""
    for paragraph in (command.help or "").split("\n\n"):
        yield from ("", " ".join(paragraph.split()))
    options = [
        parameter
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.name.endswith("_completion")
    ]
    yield from [""] if options else []
    for option in options:
        names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
        text = " ".join((getattr(option, "help", None) or "").split())
        yield f"* {names}: {text}{note(option, text)}".rstrip(": ")


def note(option: Any, text: str) -> str:
    """Whether an option is required, or its default where its help does not say it."""
    if option.required:
        return " (required)"
    default = option.default
    is_said = isinstance(default, bool) or "default" in text.lower() or default in ("", None)
    return "" if is_said or not isinstance(default, int | float | str) else f" (default: `{default}`)"


def first_paragraph(command: Any) -> str:
    """What a command's help begins with."""
    return " ".join((command.help or "").partition("\n\n")[0].split()).rstrip(".")


def anchor(heading: str) -> str:
    """The name under which GitHub links to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def cell(text: str) -> str:
    """Text as one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def settings() -> str:
    """The page of every setting with its environment variable, default and meaning."""
    prefix = Settings.model_config["env_prefix"]
    rows = [
        f"| `{name}` | `{(prefix + name).upper()}` | {shown(field.default)} | {cell(field.description or '')} |"
        for name, field in Settings.model_fields.items()
    ]
    about = (
        "The command line wins over the environment, the environment over `turntable.toml`, and that over the defaults."
    )
    table = ["| setting | environment | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join(["# Settings", "", WRITTEN, "", about, "", *table])


def served(path: str) -> str:
    """What a gateway without an engine answers to `GET path`."""

    async def ask(folder: Path) -> str:
        setup = Setup(
            settings=Settings(data_dir=folder, public_metrics=True),
            admin_key="x" * 40,
            engine_urls=["http://127.0.0.1:1"],
            spec=None,
            base_dir=None,
            announce=lambda _line: None,
            give_up=lambda _line: None,
            plan=SlotPlan(8, 8, 16, 1, ""),
        )
        gateway = Turntable(setup)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await gateway({"extensions": {}} | scope, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway") as client:
            return (await client.get(path)).raise_for_status().text

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(ask(Path(folder)))


def metrics() -> str:
    """The page of every Prometheus metric with its type and meaning."""
    text = served("/metrics")
    types = dict(re.findall(r"(?m)^# TYPE (\w+) (\w+)$", text))
    rows = [
        f"| `{name}` | {types[name]} | {cell(meaning)} |"
        for name, meaning in sorted(re.findall(r"(?m)^# HELP (\w+) (.*)$", text))
        if not name.endswith("_created")
    ]
    about = (
        "`GET /metrics` takes a key of the scope `metrics` ([keys](../how-to/api-keys.md)) unless `public_metrics` is\n"
        "set. Labels come from closed lists: adapter names of the registry, engine names, endpoints, statuses."
    )
    table = ["| metric | type | meaning |", "|---|---|---|", *rows]
    return "\n".join(["# Metrics", "", WRITTEN, "", about, "", *table])


def http_api() -> str:
    """The page of every HTTP path with its parameters and meaning."""
    groups: dict[str, list[str]] = {"Inference": [], "Other public paths": [], "Admin": []}
    for path, methods in orjson.loads(served("/openapi.json"))["paths"].items():
        for method, operation in methods.items():
            is_inference = "inference" in operation.get("tags", ())
            group = "Admin" if path.startswith("/admin/") else "Inference" if is_inference else "Other public paths"
            queries = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
            asked = f"?{'&'.join(queries)}" if queries else ""
            meaning = operation.get("description", "").partition("\n\n")[0]
            groups[group].append(f"| `{method.upper()} {path}{asked}` | {cell(meaning)} |")
    about = (
        "`GET /openapi.json` on a running gateway is the whole document, `GET /docs` a page of it. Keys go in\n"
        "`Authorization: Bearer tt-…`; an admin path takes the admin key or a key of the scope `admin`."
    )
    lines = ["# HTTP API", "", WRITTEN, "", about]
    for group, rows in groups.items():
        lines += ["", f"## {group}", "", "| call | does |", "|---|---|", *rows]
    return "\n".join(lines)


def recipe() -> str:
    """The page of every field of a recipe."""
    tables: list[tuple[str, type[BaseModel]]] = [("The file itself", Recipe), ("[lora]", Lora)]
    tables += [
        ("[training]", Training),
        ("[data]", Data),
        ("A file of `train`", TrainFile),
        ("[dpo]", Dpo),
        ("[orpo]", Orpo),
        ("[kto]", Kto),
        ("[sweep]", Sweep),
    ]
    about = (
        "A recipe is a TOML file; paths in it are relative to it. Unknown, invalid or conflicting fields are rejected\n"
        "with the field's name and the allowed values. [Train an adapter](../how-to/train.md) shows a recipe at work."
    )
    return "\n".join(["# Recipe", "", WRITTEN, "", about, described(tables)])


def task() -> str:
    """The page of every field of a comparison's task."""
    tables: list[tuple[str, type[BaseModel]]] = [("The file itself", Task), ("[gate]", GateRules)]
    tables += [("[retrieval]", RetrievalTable), ("[frontier]", FrontierTable), ("[judge]", JudgeTable)]
    about = (
        "A task is the TOML file that `turntable compare` reads; paths in it are relative to it.\n"
        "[The verdict](../explanation/verdict.md) says how the fields decide, and\n"
        "[examples/support-triage/task.toml](../../examples/support-triage/task.toml) is a complete one."
    )
    return "\n".join(["# Task", "", WRITTEN, "", about, described(tables)])


def described(tables: list[tuple[str, type[BaseModel]]]) -> str:
    """Fields with their defaults and meanings, a table for each model."""
    lines = []
    for name, table in tables:
        lines += ["", f"## {name}", "", "| field | default | meaning |", "|---|---|---|"]
        for field, info in table.model_fields.items():
            if info.description:
                is_table = isinstance(info.default, BaseModel)
                default = "" if info.is_required() or is_table else shown(info.default)
                lines.append(f"| `{field}` | {default} | {cell(info.description)} |")
    return "\n".join(lines)


def shown(default: object) -> str:
    """A default as the table shows it; nothing for one that is empty."""
    if isinstance(default, tuple):
        return ", ".join(f"`{value}`" for value in default)
    return "" if default in (None, "", {}) else f"`{default}`"


def aligned(entries: list[tuple[str, str]]) -> list[str]:
    """Two columns as lines."""
    width = max(len(left) for left, _ in entries)
    return [f"{left:<{width}}  {right}".rstrip() for left, right in entries]


def fenced(lines: list[str]) -> str:
    """Lines as a Markdown code block."""
    return "\n".join(["```", *lines, "```"])


def bench(part: Callable[[Result], str]) -> Callable[[], str]:
    """A block made from the last run of `make bench`."""
    return lambda: part(Result.from_json(measured("gateway")))


def measured(name: str) -> dict[str, Any]:
    """The JSON of a measurement."""
    document: dict[str, Any] = orjson.loads((MEASURED / f"{name}.json").read_bytes())
    return document


def adapters_table(document: dict[str, Any]) -> str:
    """What `make bench-adapters` found, with the plan it ran under and where it was measured."""
    found = document["machine"]
    origin = f"{document['started']}, {found['processor']}, {found['cores']} cores. Planned: {document['plan']}."
    return f"{adapters.table(AdapterResult.from_json(document), document['resolve_pin_us'])}\n\n{origin}"


def kills(found: dict[str, Any]) -> str:
    """What came of the kills that were kept, in words."""
    rows, evidence = found["rows"], found["evidence"]
    return (
        f"It is of {found['kills']:,} kills: the engine saw {found['requests_seen_by_engine']:,} requests and counted "
        f"{found['engine_tokens']:,} tokens; {rows['interrupted']:,} rows were interrupted and {rows['settled']:,} "
        f"settled.\n{found['lost']} requests were lost, {found['doubled_tokens']} tokens booked twice, "
        f"{found['missing_tokens']} missing. The rows cost {usd_text(found['cost_nano_usd'])}, the budget of their key "
        f"says {usd_text(found['spent_nano_usd'])}, {found['unpaid']} were not paid.\n{evidence.get('none', 0):,} rows "
        f"are of requests that never reached the engine and have no tokens. In {found['cut_after_answer']:,} cases the "
        "client had its whole answer and\nthe gateway died before settling; they are interrupted, with exact tokens."
    )


BUILDERS: dict[str, Callable[[], str]] = {
    "demo": excerpt,
    "decisions": decisions,
    "cost_presets": costs.presets,
    "cost_factors": costs.factors,
    "cost_example": costs.example,
    "cost_bench": lambda: costs.bench(measured("costs")),
    "bench_bars": bench(bench_page.bars_table),
    "bench_ratios": bench(bench_page.ratios_table),
    "bench_figures": bench(bench_page.figures_table),
    "bench_bottleneck": bench(bench_page.bottleneck_table),
    "bench_origin": bench(bench_page.origin_lines),
    "bench_adapters": lambda: adapters_table(measured("adapters")),
    "bench_kills": lambda: kills(measured("kills")),
    "bench_trainer_bars": lambda: trainer_page.bars(measured("trainer")),
    "bench_trainer_figures": lambda: trainer_page.figures(measured("trainer")),
    "bench_trainer_origin": lambda: trainer_page.origin(measured("trainer")),
    "bench_soak": lambda: bench_page.soak_table(Soak(**measured("soak"))),
}

REFERENCE_PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli,
    "settings.md": settings,
    "recipe.md": recipe,
    "task.md": task,
    "metrics.md": metrics,
    "http-api.md": http_api,
    "modules.md": modules,
    "../supported-models.md": lambda: supported_models.page(measured("families"), WRITTEN),
}

if __name__ == "__main__":
    main()
