"""The glossary is true, and words of our own that the field's terms replaced do not come back."""

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GLOSSARY = DOCS / "glossary.md"
PACKAGES = ("turntable", "adapters", "gateway", "trainer", "loadtest")
# History keeps its words: what was decided and what changed is not rewritten.
HISTORY = ("CHANGELOG.md", "docs/decisions/")
# Sentences of customers and model data, not of ours.
TEXTS = ("trainer/base_model/", "loadtest/sentences.py", "trainer/eval/forgetting.py", "gateway/cli/calibrate.py")
# A conversation has turns; an engine schedules slots.
CONVERSATIONS = ("trainer/", "loadtest/")
RETIRED = {
    "office": "service",
    "bank": "budget lease store",
    "purses?": "budget lease",
    "hearts?": "periodic work (by heart: memorized)",
    "suspects?": "poison request",
    "doors?": "listener",
    "books": "ledger, metering",
    "shields?": "request guard, engine patch",
    "canned": "mock",
    "learnt": "trained, loss tokens",
    "held-out loss": "eval loss",
    "reckon(?:ed|ing|s)?": "compute, cost context",
    "material": "dataset",
    "mirror(?:ed|s)?": "shadow",
    "near cop(?:y|ies)": "near-duplicate",
    "mend(?:ed|s)?": "fix",
    "nobody|somebody|whoever": "name the actor, or use the passive",
    "that which": "a noun",
}
# In names of files, folders, classes and functions; `turns` of a conversation are fine in prose.
RETIRED_NAMES = {
    *("office", "bank", "purse", "purses", "heart", "turns", "suspect", "suspects", "door", "doors", "books", "shield"),
    *("shields", "canned", "learnt", "reckoning", "material", "mirror", "mirrored", "allowance", "permit"),
}
BUILD = runpy.run_path(str(DOCS / "build_reference.py"))


def retired_in(text: str) -> list[str]:
    """The retired words in prose; code, which users type and databases store, is left out."""
    prose = re.sub(r"```.*?```|``.*?``|`[^`]*`", " ", text, flags=re.DOTALL)
    return [match[0] for word in RETIRED for match in re.finditer(rf"\b(?:{word})\b", prose, re.IGNORECASE)]


def terms() -> list[tuple[str, str]]:
    """Term and place in the code of every row of the glossary."""
    rows = [line.strip("| ").split(" | ") for line in GLOSSARY.read_text().splitlines() if line.startswith("| ")]
    return [(row[0], row[2]) for row in rows if row[0] != "term"]


def test_every_place_that_the_glossary_names_exists_and_no_term_stands_there_twice() -> None:
    assert len(terms()) > 100
    lost = [f"{term}: {place}" for term, place in terms() if not (ROOT / place.strip("`")).is_file()]
    assert not lost
    names = [term for term, _ in terms()]
    assert len(names) == len(set(names))


def test_every_term_of_the_glossary_is_used_in_the_documentation() -> None:
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *(page for page in DOCS.rglob("*.md") if page != GLOSSARY)]
    text = " ".join(" ".join(page.read_text().split()) for page in pages).lower()
    unused = [term for term, _ in terms() if term.lower() not in text]
    assert not unused, f"no page uses {', '.join(unused)}"


def pages() -> list[Path]:
    """The pages that are written by hand."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]
    found += sorted((ROOT / "examples").rglob("*.md"))
    names = {page: page.relative_to(ROOT).as_posix() for page in found}
    return [
        page for page in found if not names[page].startswith(HISTORY) and "Written by `python" not in page.read_text()
    ]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_use_the_fields_words(page: Path) -> None:
    text = re.sub(r"<!-- generated:.*?<!-- /generated -->", " ", page.read_text(), flags=re.DOTALL)
    if page == GLOSSARY:
        text = re.sub(r"(?m)^((?:\|[^|]*){3}\|).*$", r"\1", text)  # without "also called"
    found = retired_in(text)
    assert not found, f"{page.relative_to(ROOT)} says {', '.join(sorted(set(found)))}"


def sentences(tree: ast.Module) -> Iterator[str]:
    """What the code may say to people: texts with a space in them that are not docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from [node.value] if " " in node.value.strip() else []


def modules() -> list[Path]:
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return [file for file in files if not file.relative_to(ROOT).as_posix().startswith(TEXTS)]


def messages_with_retired_words() -> Iterator[str]:
    """Help texts, errors, metrics and tables of the code that use a retired word."""
    for file in modules():
        for text in sentences(ast.parse(file.read_text())):
            for word in sorted(set(retired_in(text))):
                yield f"{file.relative_to(ROOT)}: {word}: {' '.join(text.split())[:80]}"


def names_with_retired_words() -> Iterator[str]:
    """Folders, files, classes and functions whose name has a retired word in it."""
    for file in modules():
        path = file.relative_to(ROOT).as_posix()
        defined = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, defined)]
        for shown, name in [(path, path), *((f"{path}: {node.name}", node.name) for node in nodes)]:
            words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
            retired = RETIRED_NAMES - ({"turns"} if path.startswith(CONVERSATIONS) else set())
            if words & retired:
                yield f"{shown} ({', '.join(sorted(words & retired))})"


def test_messages_help_and_metrics_use_the_fields_words() -> None:
    found = list(messages_with_retired_words())
    assert not found, "\n".join(found)


def test_names_in_the_code_use_the_fields_words() -> None:
    found = list(names_with_retired_words())
    assert not found, "\n".join(found)


def test_metric_names_use_the_fields_words() -> None:
    names = re.findall(r"(?m)^\| `(turntable_\w+)` \|", (DOCS / "reference" / "metrics.md").read_text())
    assert len(names) > 30
    found = [name for name in names if set(name.split("_")) & {*RETIRED_NAMES, "watched"}]
    assert not found, ", ".join(found)


def test_a_retired_word_is_found_in_prose_and_left_alone_in_code() -> None:
    assert retired_in("The Office asks its books, `door` aside.") == ["Office", "books"]
    assert retired_in("A bookstore's official doorbell") == []
