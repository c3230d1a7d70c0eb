"""docs/reference/preflight.md, written from what preflight says of the corpus: `python -m tests.adapters.refusals`."""

import tempfile
from pathlib import Path

from adapters import BaseModel, PreflightError, preflight
from tests.adapters.broken import FIELDS, FILES, SILENT, TENSORS
from tests.adapters.conftest import write_base
from tests.adapters.corpus import GOOD, MAX_RANK, Write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "preflight.md"
_HEAD = """\
# What preflight refuses

Written by `python -m tests.adapters.refusals` from the corpus of broken adapters in `tests/adapters`, which the tests
run through preflight. The numbers are those of the corpus: a tiny base of two layers, an engine with
`--max-lora-rank {rank}`. Each refusal names the file, field or tensor at fault (`where`) and the fix.
"""
_SECTIONS = {
    "What vLLM loads without a word": SILENT,
    "Tensors": TENSORS,
    "Files": FILES,
    "Fields of adapter_config.json and training.json": FIELDS,
}


def page() -> str:
    """The whole page."""
    with tempfile.TemporaryDirectory() as folder:
        base = BaseModel.read(write_base(Path(folder) / "base"))
        parts = [_HEAD.format(rank=MAX_RANK)]
        for title, kinds in _SECTIONS.items():
            rows = [_row(kind, write, base, Path(folder) / f"{title} {kind}") for kind, (write, _) in kinds.items()]
            parts.append("\n".join([f"## {title}\n", "| kind | where | what is said |", "|---|---|---|", *rows]) + "\n")
    good = "\n".join(f"- {kind}" for kind in GOOD)
    return "\n".join([*parts, f"## What is accepted\n\n{good}\n"])


def _row(kind: str, write: Write, base: BaseModel, directory: Path) -> str:
    write(directory)
    try:
        preflight(directory, base, max_rank=MAX_RANK)
    except PreflightError as error:
        said = str(error).removeprefix(f"{error.where}: ")
        cells = (kind, f"`{error.where}`", said)
        return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
    raise AssertionError(f"preflight accepts '{kind}'")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
