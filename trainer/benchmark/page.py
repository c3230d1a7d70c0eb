"""The tables of docs/benchmarks.md about the trainer, written from the JSON of a run. Needs no torch."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

SPEED_BAR = 2.0
LOSS_BAR = 1.02
_OURS, _RIVAL = "turntable", "trl"
_LABELS = {"turntable": "Turntable", "trl": "TRL, defaults", "trl-tuned": "TRL, tuned by hand"}

Result = Mapping[str, Any]


def bars(result: Result) -> str:
    """The ratios against TRL's defaults, each taken within one round."""
    speed = _ratios(result, "tokens_per_s", _OURS, _RIVAL)
    loss = _ratios(result, "eval_loss", _OURS, _RIVAL)
    processor = [1 / ratio for ratio in _ratios(result, "cpu_s", _OURS, _RIVAL)]
    memory = _ratios(result, "peak_mib", _OURS, _RIVAL)
    tuned = _ratios(result, "tokens_per_s", _OURS, "trl-tuned")
    rows = [
        ("tokens/s over TRL's defaults", f"≥ {SPEED_BAR:.2f}×", _spread(speed), _met(median(speed) >= SPEED_BAR)),
        ("eval loss over theirs", f"≤ {LOSS_BAR:.2f}×", _spread(loss, 3), _met(median(loss) <= LOSS_BAR)),
        ("tokens per second of processor time over theirs", "", _spread(processor), ""),
        ("peak memory over theirs", "", _spread(memory), ""),
        ("tokens/s over TRL tuned by hand", "", _spread(tuned), ""),
    ]
    return _table(("what", "bar", "median (min to max)", ""), rows)


def figures(result: Result) -> str:
    """The absolute figures of every system."""
    systems = list(dict.fromkeys(sample["system"] for sample in result["samples"]))
    kinds = (
        ("tokens/s, padding not counted", "tokens_per_s", ",.0f"),
        ("training, s", "train_s", ".1f"),
        ("processor time, s", "cpu_s", ".1f"),
        ("peak memory (RSS), MiB", "peak_mib", ",.0f"),
        ("eval loss after the run", "eval_loss", ".4f"),
    )
    rows = [
        (label, *(_cell([s[name] for s in result["samples"] if s["system"] == system], form) for system in systems))
        for label, name, form in kinds
    ]
    return _table(("median (min to max)", *(_LABELS[system] for system in systems)), rows)


def origin(result: Result) -> str:
    """Where and on what the run was made."""
    workload, machine = result["workload"], result["machine"]
    return (
        f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, Python {machine['python']}, "
        f"{machine['libraries']}. {workload['rows']} rows of {workload['data']} with {workload['tokens']:,} tokens "
        f"({workload['shortest']} to {workload['longest']}, median {workload['median']}), "
        f"{workload['loss_tokens']:,} of them with loss; {workload['held_out_rows']} rows held out."
    )


def _ratios(result: Result, name: str, one: str, other: str) -> list[float]:
    values = {(sample["round"], sample["system"]): sample[name] for sample in result["samples"]}
    rounds = sorted({number for number, _ in values})
    return [values[number, one] / values[number, other] for number in rounds]


def _spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f}× ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _cell(values: Sequence[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
