"""`python -m trainer.benchmark [DATA] --json OUT`: interleaved rounds of every system, ratios first.

The benchmark makes rows of very different lengths, the same on every machine.
"""

import argparse
import json
import os
import pickle
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from trainer.benchmark.page import bars, figures
from trainer.benchmark.worker import SYSTEMS
from trainer.data.loaders import read_examples
from trainer.data.schema import Example, Message
from trainer.training.base import find_base
from trainer.training.recipe import Recipe

_MEDIAN_SENTENCES, _SPREAD, _MOST_SENTENCES = 1.6, 0.9, 20.0
_WHO = ("The shop", "Your courier", "Our workshop", "The warehouse", "A colleague", "The support team", "My neighbour")
_DOES = ("has found", "will replace", "cannot open", "sent back", "is looking for", "paid for", "forgot", "repaired")
_WHAT = ("the parcel", "your invoice", "a charger", "the doorbell", "both lamps", "the kettle", "an old router")
_WHEN = ("this morning", "before Friday", "twice last week", "as you asked", "in a hurry", "without a note", "at last")


def mixed_rows(count: int, seed: int = 0) -> list[Example]:
    """Questions answered in one to twenty sentences: many short rows and a few long ones, as instruction data has."""
    dice, rows = Random(seed), list[Example]()  # noqa: S311 - a choice of rows
    for line in range(1, count + 1):
        sentences = round(min(_MOST_SENTENCES, max(1.0, dice.lognormvariate(_MEDIAN_SENTENCES, _SPREAD))))
        asked = f"What about order {dice.randrange(10_000, 100_000)}? {_sentence(dice)}"
        answer = " ".join(_sentence(dice) for _ in range(sentences))
        rows.append(Example(line, (Message("user", asked), Message("assistant", answer))))
    return rows


def _sentence(dice: Random) -> str:
    return " ".join(dice.choice(words) for words in (_WHO, _DOES, _WHAT, _WHEN)) + "."


LEARNING_RATE = 5e-4  # for the embedded base
_HELD_OUT = 100


def main() -> int:
    """Measure, write the JSON, print the tables; 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description="Measure the trainer beside TRL.")
    parser.add_argument("data", type=Path, nargs="?", help="chat messages in JSON Lines; without it, made-up rows")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, default=Path("var"))
    arguments = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory() as scratch:
        workload, described = _workload(arguments, Path(scratch), console)
        samples = []
        for number in range(arguments.rounds):
            for system in SYSTEMS:
                sample = {"round": number, "system": system, **_run(system, workload)}
                console.print(f"round {number + 1}: {system}: {sample['tokens_per_s']:,.0f} tokens/s")
                samples.append(sample)
    result = {"format": 1, "machine": _machine(), "workload": described, "samples": samples}
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{bars(result)}\n\n{figures(result)}")  # noqa: T201
    return 0 if "missed" not in bars(result) else 1


def _workload(arguments: argparse.Namespace, scratch: Path, console: Console) -> tuple[Path, dict[str, Any]]:
    from trainer.training.loss_mask import Renderer

    base = find_base("embedded", relative_to=Path(), data_dir=arguments.data_dir, console=console)
    renderer = Renderer.load(base.directory)
    rows = []
    for example in _examples(arguments):
        row = renderer.render(example)
        if row.tokens <= 1024:  # TRL's default cuts longer ones
            rows.append(row)
    random.Random(0).shuffle(rows)  # noqa: S311 - a choice of rows
    train, valid = rows[: arguments.rows], rows[arguments.rows : arguments.rows + _HELD_OUT]
    training = {"learning_rate": LEARNING_RATE, "num_train_epochs": 1}
    recipe = Recipe.model_validate({"name": "bench", "train": "x", "training": training, "directory": Path()})
    path = scratch / "workload.pickle"
    path.write_bytes(pickle.dumps((base.directory.resolve(), recipe, train, valid)))
    return path, {
        "data": arguments.data.name if arguments.data else "rows made by the benchmark",
        **_described(train),
        "held_out_rows": len(valid),
    }


def _examples(arguments: argparse.Namespace) -> Sequence[Example]:
    if arguments.data is None:
        return mixed_rows(arguments.rows + _HELD_OUT)
    return read_examples(arguments.data)


def _described(rows: Sequence[Any]) -> dict[str, int]:
    lengths = sorted(row.tokens for row in rows)
    return {
        "rows": len(rows),
        "tokens": sum(lengths),
        "loss_tokens": sum(row.loss_tokens for row in rows),
        "shortest": lengths[0],
        "median": lengths[len(lengths) // 2],
        "longest": lengths[-1],
    }


def _run(system: str, workload: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "trainer.benchmark.worker", system, str(workload)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own module
    if done.returncode:
        sys.exit(f"error: {system} failed:\n{done.stderr[-3000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _machine() -> dict[str, str]:
    names = (line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    return {
        "processor": next(names, "unknown: unknown").partition(":")[2].strip(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "libraries": libraries,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


if __name__ == "__main__":
    sys.exit(main())
