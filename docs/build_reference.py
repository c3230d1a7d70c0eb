"""Writes the generated blocks of README.md and of pages in docs/: `python docs/build_reference.py [--check]`.

A block lies between `<!-- generated:NAME -->` and `<!-- /generated -->`; NAME is `tree`, `commands`, `settings`,
`recipe_fields` or `task_fields`, made from the code, or `bench_…` or `cost_…`, made from code and the JSON in
docs/benchmarks/. With `--check` nothing is written, and a stale block is an error.
"""

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import typer
from pydantic import BaseModel

from gateway.costs import docs_tables as costs
from gateway.money import usd_text
from gateway.settings import Settings
from loadtest.bench import adapters
from loadtest.bench import results as bench_page
from loadtest.bench.adapters import AdapterResult
from loadtest.bench.results import Result, Soak
from trainer.benchmark import page as trainer_page
from trainer.eval.task import FrontierTable, GateRules, JudgeTable, RetrievalTable, Task
from trainer.training.recipe import Dpo, Lora, Recipe, Sweep, Training
from turntable.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- generated:(?P<name>\w+) -->\n.*?<!-- /generated -->", re.DOTALL)
PAGES = (
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("benchmarks.md", "costs.md", "proof.md", "training.md", "usage.md")),
)
MEASURED = ROOT / "docs" / "benchmarks"
LISTED = ("adapters", "gateway", "trainer", "loadtest", "examples")
NAMED = {
    "tests": "Mirrors the packages, plus whole-loop tests in tests/e2e",
    "docs": "How a request lives, decisions and measurements; build_reference.py writes these blocks",
    "requirements": "Every package pinned, one list per purpose",
}


def main() -> None:
    """Rewrite the blocks of the pages, or only check them."""
    parser = argparse.ArgumentParser(description="Write the generated blocks of README.md and docs/benchmarks.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a block is stale")
    parser.add_argument("--readme", type=Path, help="the one file to work on, instead of those two")
    arguments = parser.parse_args()
    for page in [arguments.readme] if arguments.readme else PAGES:
        build(page, check=arguments.check)


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


def tree() -> str:
    """The folders and modules with the first sentence of each docstring."""
    entries = [("turntable/cli.py", first_sentence(ROOT / "turntable/cli.py"))]
    for folder in LISTED:
        entries += folder_entries(ROOT / folder, depth=0)
    entries += [(f"{name}/", sentence) for name, sentence in NAMED.items() if (ROOT / name).is_dir()]
    return fenced(aligned(entries))


def folder_entries(folder: Path, depth: int) -> Iterator[tuple[str, str]]:
    """A package, its modules, then its sub-packages, indented by depth."""
    indent = "  " * depth
    yield f"{indent}{folder.name}/", first_sentence(folder / "__init__.py")
    for file in sorted(folder.glob("*.py")):
        if file.name != "__init__.py":
            yield f"{indent}  {file.name}", first_sentence(file)
    for package in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from folder_entries(package, depth + 1)


def first_sentence(file: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.(?:\s|$)", paragraph, maxsplit=1)[0].rstrip(":")


def commands() -> str:
    """Every command with its arguments and the first sentence of its help."""
    return fenced(aligned([entry for name in COMMANDS for entry in command_entries(name)]))


def command_entries(name: str) -> Iterator[tuple[str, str]]:
    """The command `turntable NAME`, or the commands of that group."""
    yield from leaves(f"turntable {name}", typer.main.get_command(COMMANDS[name].load()))


def leaves(path: str, command: Any) -> Iterator[tuple[str, str]]:
    """The commands without sub-commands below a Click command."""
    children = getattr(command, "commands", {})
    if children and getattr(command, "invoke_without_command", False):
        yield path, first_paragraph(command)
    for name, child in children.items():
        yield from leaves(f"{path} {name}", child)
    if not children:
        pieces = command.collect_usage_pieces(typer.Context(command))
        arguments = [re.sub(r"[{}]", "", piece).upper() for piece in pieces if piece != "[OPTIONS]"]
        yield " ".join([path, *arguments]), first_paragraph(command)


def first_paragraph(command: Any) -> str:
    """What a command's help begins with."""
    return " ".join((command.help or "").partition("\n\n")[0].split()).rstrip(".")


def settings() -> str:
    """Every setting with its environment variable, default and meaning."""
    prefix = Settings.model_config["env_prefix"]
    rows = [
        f"| `{name}` | `{(prefix + name).upper()}` | {shown(field.default)} | {field.description or ''} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| setting | environment | default | meaning |", "|---|---|---|---|", *rows])


def recipe_fields() -> str:
    """Every field of a recipe, table by table."""
    tables: list[tuple[str, type[BaseModel]]] = [("the file itself", Recipe), ("`[lora]`", Lora)]
    return described([*tables, ("`[training]`", Training), ("`[dpo]`", Dpo), ("`[sweep]`", Sweep)])


def task_fields() -> str:
    """Every field of a comparison's task, table by table."""
    tables: list[tuple[str, type[BaseModel]]] = [("the file itself", Task), ("`[gate]`", GateRules)]
    tables += [("`[retrieval]`", RetrievalTable), ("`[frontier]`", FrontierTable), ("`[judge]`", JudgeTable)]
    return described(tables)


def described(tables: list[tuple[str, type[BaseModel]]]) -> str:
    """Fields with their defaults and meanings, a table for each model."""
    lines = []
    for name, table in tables:
        lines += ["", f"**{name}**", "", "| field | default | meaning |", "|---|---|---|"]
        for field, info in table.model_fields.items():
            if info.description:
                is_table = isinstance(info.default, BaseModel)
                default = "" if info.is_required() or is_table else shown(info.default)
                lines.append(f"| `{field}` | {default} | {info.description} |")
    return "\n".join(lines[1:])


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
    "tree": tree,
    "commands": commands,
    "settings": settings,
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
    "recipe_fields": recipe_fields,
    "task_fields": task_fields,
    "bench_soak": lambda: bench_page.soak_table(Soak(**measured("soak"))),
}

if __name__ == "__main__":
    main()
