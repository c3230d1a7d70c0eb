"""The house rules as tests: who imports whom, where the environment is read, how large a file may grow.

Every rule is a function from one module to problems of the form `file:line: what is wrong and what to do instead`, and
is shown at the end of this file to find what it forbids.
"""

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("turntable", "adapters", "gateway", "trainer", "loadtest")
HEAVY = ("torch", "transformers", "peft", "trl", "vllm")
FORBIDDEN_IMPORTS = {
    "turntable": ("adapters", "gateway", "trainer", "loadtest", "fastapi", "starlette", *HEAVY),
    "adapters": ("gateway", "trainer", "loadtest", "fastapi", "starlette", *HEAVY),
    "gateway": ("trainer", "loadtest", *HEAVY),
    "trainer": ("gateway", "loadtest"),
    "loadtest": ("adapters", "gateway", "trainer", *HEAVY),
}
# The only modules of `turntable` that the others may import: how commands are read and results are shown.
PRESENTATION = ("turntable.console", "turntable.options", "turntable.pages")
# Imported inside a function: the address of a running gateway, when a command that needs one is called.
LAZY_EXCEPTIONS = {("turntable/options.py", "adapters")}
# Runs inside the vLLM process, where torch and vllm are at home.
ENGINE_PLUGIN = "gateway/engines/plugin/"
FASTAPI_HOMES = ("gateway/admin_api/", "gateway/app.py", "gateway/server/middleware.py")
DRAWERS = ("utils.py", "common.py", "helpers.py", "misc.py")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 50
# Modules that hold text or tables and no logic may be longer; each is named here with the reason.
DATA_ONLY: dict[str, str] = {}


@dataclass(frozen=True)
class Module:
    """One source file: its path from the repository root and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    def problem(self, line: int, text: str) -> str:
        return f"{self.path}:{line}: {text}"


def repository() -> list[Module]:
    files: list[Path] = []
    for folder in (*PACKAGES, "docs", "examples"):
        files += sorted((ROOT / folder).rglob("*.py"))
    return [Module(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")) for file in files]


def modules_of_tests() -> list[Module]:
    files = sorted(file for file in (ROOT / "tests").rglob("*.py") if "node_modules" not in file.parts)
    return [Module(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")) for file in files]


MODULES = repository()


def nodes(tree: ast.AST, *, runtime: bool = False) -> Iterator[ast.AST]:
    """Every node; with `runtime`, without what only type checkers see."""
    for child in ast.iter_child_nodes(tree):
        if runtime and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from nodes(child, runtime=runtime)


def imports(module: Module, *, runtime: bool = False) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, also those inside functions; `from x import y` counts as `x` and `x.y`."""
    for node in nodes(module.tree, runtime=runtime):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = Path(module.path).parts[: -node.level]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


Rule = Callable[[Module], Iterator[str]]


def packages_keep_to_their_side(module: Module) -> Iterator[str]:
    """turntable and adapters are leaves, gateway and trainer never meet, loadtest is a black box, torch stays in the
    trainer. `turntable/cli.py` names the commands' modules in a table and imports them when they are called.
    """
    forbidden = set(FORBIDDEN_IMPORTS.get(module.package, ()))
    if module.path.startswith(ENGINE_PLUGIN):
        forbidden -= set(HEAVY)
    found = {(line, name.partition(".")[0]) for line, name in imports(module)}
    for line, imported in sorted(found):
        if imported in forbidden and (module.path, imported) not in LAZY_EXCEPTIONS:
            yield module.problem(line, f"{module.package} must not import {imported}")


def only_presentation_is_imported_from_turntable(module: Module) -> Iterator[str]:
    """The command's own modules are imported by the command alone."""
    if module.package not in PACKAGES or module.package == "turntable":
        return
    for line, name in imports(module):
        if name.startswith("turntable.") and ".".join(name.split(".")[:2]) not in PRESENTATION:
            yield module.problem(line, f"import {' or '.join(PRESENTATION)} only, not {name}")


def only_settings_reads_the_environment(module: Module) -> Iterator[str]:
    """In gateway, `os.environ` and `os.getenv` belong to settings.py."""
    if module.package != "gateway" or module.path == "gateway/settings.py":
        return
    for node in nodes(module.tree):
        match node:
            case ast.Attribute():
                reads = ast.unparse(node) in ("os.environ", "os.getenv")
            case ast.ImportFrom(module="os"):
                reads = any(alias.name in ("environ", "getenv") for alias in node.names)
            case _:
                continue
        if reads:
            yield module.problem(node.lineno, "the environment is read in gateway/settings.py only; pass a setting")


def fastapi_stays_at_the_edge(module: Module) -> Iterator[str]:
    """In our packages only the routes, the composition root and the admin surface know FastAPI."""
    if module.path.startswith(FASTAPI_HOMES):
        return
    for line in sorted({line for line, name in imports(module) if name.partition(".")[0] == "fastapi"}):
        yield module.problem(line, f"fastapi is imported in {', '.join(FASTAPI_HOMES)} only")


def no_drawers(module: Module) -> Iterator[str]:
    """A file is named after what it holds."""
    if Path(module.path).name in DRAWERS:
        yield module.problem(1, "name the file after what it holds, not after being useful")


def no_global_statements(module: Module) -> Iterator[str]:
    """State belongs to an object that somebody built and passed on."""
    for node in nodes(module.tree):
        if isinstance(node, ast.Global):
            yield module.problem(node.lineno, "no `global`: keep the state in an object")


def no_bare_except(module: Module) -> Iterator[str]:
    """`except:` also catches Ctrl-C and cancellation."""
    for node in nodes(module.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield module.problem(node.lineno, "name the exception: a bare `except:` also catches cancellation")


def files_fit_a_short_read(module: Module) -> Iterator[str]:
    """A file past the limit usually holds two rooms."""
    lines = module.text.count("\n")
    if lines > MAX_FILE_LINES and module.path not in DATA_ONLY:
        yield module.problem(lines, f"{lines} lines; split the file, the limit is {MAX_FILE_LINES}")


def functions_fit_a_screen(module: Module) -> Iterator[str]:
    """A function past the limit hides its story."""
    for node in nodes(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                text = f"{node.name} has {lines} lines; split it, the limit is {MAX_FUNCTION_LINES}"
                yield module.problem(node.lineno, text)


def modules_say_what_they_are(module: Module) -> Iterator[str]:
    """The docstring's first sentence is what the file tree in the README shows."""
    if not ast.get_docstring(module.tree):
        yield module.problem(1, "the module has no docstring; say in a sentence what it holds")


def builders_stand_outside_tests(module: Module) -> Iterator[str]:
    """What several files build stands in a module that is named after it, or in a conftest.py."""
    found: dict[int, str] = {}
    for line, name in imports(module):
        parts = name.split(".")
        if parts[0] == "tests" and any(part.startswith("test_") for part in parts[1:]):
            found.setdefault(line, name)
    for line, name in found.items():
        yield module.problem(line, f"move what {name} builds for others into a module named after it")


RULES: tuple[Rule, ...] = (
    packages_keep_to_their_side,
    only_presentation_is_imported_from_turntable,
    only_settings_reads_the_environment,
    fastapi_stays_at_the_edge,
    no_drawers,
    no_global_statements,
    no_bare_except,
    files_fit_a_short_read,
    functions_fit_a_screen,
    modules_say_what_they_are,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_follows(rule: Rule) -> None:
    problems = [problem for module in MODULES for problem in rule(module)]
    assert not problems, "\n" + "\n".join(problems)


def test_no_test_imports_from_a_test() -> None:
    problems = [problem for module in modules_of_tests() for problem in builders_stand_outside_tests(module)]
    assert not problems, "\n" + "\n".join(problems)


def import_cycle(modules: list[Module]) -> list[str]:
    """The modules of one cycle of runtime imports, first one repeated at the end; empty when there is none."""
    names = {module.name for module in modules}
    graph = {
        module.name: {name for _, name in imports(module, runtime=True) if name in names and name != module.name}
        for module in modules
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def classes_with_one_name(modules: list[Module]) -> Iterator[str]:
    """A public name stands for one class of the whole tree; a private class, too, takes none of the public names."""
    places: dict[str, list[tuple[str, str]]] = {}
    for module in modules:
        for node in nodes(module.tree):
            if isinstance(node, ast.ClassDef):
                place = f"{module.path}:{node.lineno}"
                places.setdefault(node.name.lstrip("_"), []).append((node.name, place))
    for name, found in sorted(places.items()):
        if len(found) > 1 and any(defined == name for defined, _ in found):
            where = ", ".join(place for _, place in found)
            yield f"{where}: there are {len(found)} classes {name}; say in the name what each is of"


def test_no_two_classes_share_a_public_name() -> None:
    problems = list(classes_with_one_name(MODULES))
    assert not problems, "\n" + "\n".join(problems)


def test_two_classes_with_one_name_are_found() -> None:
    one, private = "class Report:\n    pass", "class _Report:\n    pass"
    for other in (one, private):
        assert list(classes_with_one_name([Module("loadtest/a.py", one), Module("trainer/b.py", other)])) == [
            "loadtest/a.py:1, trainer/b.py:1: there are 2 classes Report; say in the name what each is of"
        ]
    assert not list(classes_with_one_name([Module("loadtest/a.py", private), Module("trainer/b.py", private)]))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_no_import_cycles(package: str) -> None:
    cycle = import_cycle([module for module in MODULES if module.package == package])
    assert not cycle, f"import cycle: {' -> '.join(reversed(cycle))}; move what they share into a module below both"


def exporting_packages() -> list[str]:
    packages = [module for module in MODULES if module.path.endswith("/__init__.py") and module.package in PACKAGES]
    return [module.name for module in packages if "__all__" in module.text]


@pytest.mark.parametrize("package", exporting_packages())
def test_every_public_name_resolves_and_is_documented(package: str) -> None:
    exported = importlib.import_module(package)
    assert list(exported.__all__) == sorted(set(exported.__all__)), f"{package}.__all__ is not sorted, or repeats"
    for name in exported.__all__:
        value = getattr(exported, name, None)
        assert value is not None, f"{package}.__all__ names {name}, which the package does not have"
        if inspect.isclass(value) or inspect.isfunction(value):
            # A dataclass without a docstring gets its signature as one.
            documented = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
            assert documented, f"{package}.{name} has no docstring"
            assert not documented.startswith(f"{name}("), f"{package}.{name} has no docstring"


def test_the_installed_packages_are_ours() -> None:
    for package in PACKAGES:
        (path,) = importlib.import_module(package).__path__
        assert Path(path) == ROOT / package, f"{package} is imported from {path}: another distribution hides ours"


def test_exempted_files_exist_and_need_the_exemption() -> None:
    long_files = {module.path for module in MODULES if module.text.count("\n") > MAX_FILE_LINES}
    stale = DATA_ONLY.keys() - long_files
    assert not stale, f"take {', '.join(sorted(stale))} out of DATA_ONLY"


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (packages_keep_to_their_side, "adapters/x.py", "import torch"),
        (packages_keep_to_their_side, "adapters/x.py", "def f():\n    from gateway.errors import GatewayError"),
        (packages_keep_to_their_side, "gateway/x.py", "from transformers import AutoTokenizer"),
        (packages_keep_to_their_side, "gateway/engines/plugin/x.py", "import trainer.training.recipe"),
        (packages_keep_to_their_side, "trainer/x.py", "from gateway import errors"),
        (packages_keep_to_their_side, "loadtest/x.py", "import adapters"),
        (packages_keep_to_their_side, "turntable/cli.py", "def f():\n    import gateway.cli"),
        (packages_keep_to_their_side, "turntable/pages/x.py", "from trainer.errors import EvaluationError"),
        (only_presentation_is_imported_from_turntable, "loadtest/x.py", "from turntable.cli import main"),
        (only_settings_reads_the_environment, "gateway/x.py", "import os\nos.environ['HOME']"),
        (only_settings_reads_the_environment, "gateway/x.py", "import os\nos.getenv('HOME')"),
        (only_settings_reads_the_environment, "gateway/x.py", "from os import environ"),
        (fastapi_stays_at_the_edge, "gateway/ledger.py", "from fastapi.responses import JSONResponse"),
        (no_drawers, "trainer/utils.py", ""),
        (no_global_statements, "gateway/x.py", "def f():\n    global state"),
        (no_bare_except, "gateway/x.py", "try:\n    pass\nexcept:\n    pass"),
        (files_fit_a_short_read, "gateway/x.py", "x = 1\n" * 501),
        (functions_fit_a_screen, "gateway/x.py", "async def f():\n" + "    x = 1\n" * 50),
        (modules_say_what_they_are, "gateway/x.py", "x = 1"),
        (builders_stand_outside_tests, "tests/e2e/test_x.py", "from tests.e2e.test_y import built"),
        (builders_stand_outside_tests, "tests/e2e/builders.py", "import tests.gateway.costs.test_document"),
        (builders_stand_outside_tests, "tests/gateway/test_x.py", "def f():\n    from .test_y import built"),
    ],
)
def test_each_rule_finds_what_it_forbids(rule: Rule, path: str, text: str) -> None:
    problems = list(rule(Module(path, text)))
    assert problems
    assert all(problem.startswith(f"{path}:") for problem in problems)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (packages_keep_to_their_side, "trainer/x.py", "import torch\nfrom adapters import AdapterRef"),
        (packages_keep_to_their_side, "gateway/x.py", "from adapters.ref import AdapterRef\nimport gateway.torchless"),
        (packages_keep_to_their_side, "gateway/engines/plugin/x.py", "import torch, vllm"),
        (only_presentation_is_imported_from_turntable, "loadtest/x.py", "from turntable.pages.charts import lines"),
        (only_presentation_is_imported_from_turntable, "turntable/__main__.py", "from turntable.cli import main"),
        (only_settings_reads_the_environment, "gateway/settings.py", "import os\nos.environ['HOME']"),
        (fastapi_stays_at_the_edge, "gateway/admin_api/x.py", "import fastapi"),
        (functions_fit_a_screen, "gateway/x.py", "def f():\n" + "    x = 1\n" * 49),
        (
            builders_stand_outside_tests,
            "tests/e2e/test_x.py",
            "from tests.conftest import Served\nimport tests.waiting",
        ),
    ],
)
def test_rules_let_pass_what_is_allowed(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Module(path, text))) == []


def test_a_cycle_is_found_unless_only_type_checkers_see_it() -> None:
    back = Module("p/b.py", "from p import a")
    assert set(import_cycle([Module("p/a.py", "from .b import x"), back])) == {"p.a", "p.b"}
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import x"
    assert import_cycle([Module("p/a.py", hidden), back]) == []


def test_relative_imports_are_resolved() -> None:
    found = {name for _, name in imports(Module("p/q/__init__.py", "from . import a\nfrom ..r import b"))}
    assert found == {"p.q", "p.q.a", "p.r", "p.r.b"}
    found = {name for _, name in imports(Module("p/q/m.py", "from . import a\nfrom ..r import b"))}
    assert found == {"p.q", "p.q.a", "p.r", "p.r.b"}
