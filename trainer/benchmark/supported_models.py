"""The page of supported models: a table of every family from docs/benchmarks/families.json."""

from collections.abc import Mapping
from typing import Any

_ABOUT = """Every family is measured on a two-layer random model built from transformers' own configuration: the loss of
each row and the gradients of the trainable weights, against plain PEFT with transformers' own attention, one row at a
time, in fp32 (`python -m tests.trainer.families`). "Exact" means within rounding: losses within {loss:.0e} and
gradients within {gradients:.0e}, relative. With `--engine`, vLLM's CPU build serves base and adapter in fp32; the
largest difference of a log-probability is listed, in nats; "–" was not tried.

On the actual base the trainer repeats the comparison before step 1. Rows go through the model *packed* where that is
exact, and else *alone*, one at a time, which is as exact and slower; the run says why, and training.json records it as
`self_check`. LoRA goes on the linear layers of the text decoder, but not on routers and fused experts of a mixture of
experts. The routers' load-balancing loss (marked ⚖) is not added to the loss."""
_METHODS = ("lora", "qlora", "full")
_KEYS = ("loss", "gradients")


def page(document: Mapping[str, Any], written: str) -> str:
    """Return the whole page."""
    families = document["families"]
    exact = [each for one in families.values() for each in (one.get(m, {}) for m in _METHODS) if "loss" in each]
    most = {key: max(each[key] for each in exact) for key in _KEYS}
    versions = ", ".join(f"{library} {version}" for library, version in document["versions"].items())
    columns = (
        "models",
        "`model_type`",
        "LoRA",
        "QLoRA",
        "full",
        "rows",
        "engine parity",
        "why alone; what is left out",
    )
    table = [
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(_row(name, families[name]) for name in families),
    ]
    about = _ABOUT.format(**most)
    lines = ["# Supported models", "", written, "", about, "", _summary(families), "", *table]
    return "\n".join([*lines, "", f"Measured with {versions}."])


def _summary(families: Mapping[str, Any]) -> str:
    trained = [one for one in families.values() if "layout" in one]
    packed = sum(one["layout"] == "packed" for one in trained)
    unserved = sum(not one["served"] for one in trained)
    refused = len(families) - len(trained)
    return (
        f"Of {len(families)} families {packed} are exact packed and {len(trained) - packed} exact alone; {refused} are "
        f"refused.\nvLLM serves {unserved} of them without LoRA, and an adapter of these is refused before training."
    )


def _row(name: str, one: Mapping[str, Any]) -> str:
    methods = [_method(one, method) for method in _METHODS]
    notes = [one.get("reason") or "", "⚖" if one.get("router_loss") else ""]
    cells = [one["models"], f"`{name}`", *methods, one.get("layout", "–"), _engine(one), " ".join(filter(None, notes))]
    return f"| {' | '.join(cell.replace('|', ' ') for cell in cells)} |"


def _method(one: Mapping[str, Any], method: str) -> str:
    found = one.get(method, {})
    if "refused" in found:
        return "refused"
    if method != "full" and not one.get("served", True):
        return "not served"
    return "exact" if found else "–"


def _engine(one: Mapping[str, Any]) -> str:
    found = one.get("engine")
    if found is None:
        return "–"
    return "not served on a CPU" if "refused" in found else f"{found['adapter']:.0e}"
