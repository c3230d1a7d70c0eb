"""Push a finished run to a model hub: the weights, their configuration, the model card and the metadata.

Only the files named here leave this machine: no rows, no parity vectors (tokens of rows), no checkpoints. The pushed
training.json has no folders of this machine and no baseline for drift, which holds labels of training answers.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from adapters.answer_profile import BASELINE
from adapters.layout import TOKENIZER_FILES
from adapters.manifest import CARD_FILE, CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE
from trainer.errors import RunError
from trainer.training.artifacts import MODEL_WEIGHTS_FILE
from trainer.training.run_metadata import read_metadata

_OF_ADAPTERS = (CONFIG_FILE, WEIGHTS_FILE)
_OF_MODELS = (
    *("config.json", "generation_config.json", MODEL_WEIGHTS_FILE, *TOKENIZER_FILES),
    *("merges.txt", "special_tokens_map.json", "tokenizer.model", "vocab.json"),
)
_CURVES = ("loss.svg", "rewards.svg", "accuracy.svg")
_FILE_FIELDS = ("chat_template", "file", "init", "path", "train", "valid")


def push(directory: Path, repository: str, *, is_private: bool) -> str:
    """Upload a run to `OWNER/NAME`, which is made if it does not exist, and return its address; raises `RunError`."""
    weights = next((name for name in (WEIGHTS_FILE, MODEL_WEIGHTS_FILE) if (directory / name).is_file()), None)
    missing = [name for name in (weights or WEIGHTS_FILE, CARD_FILE, TRAINING_FILE) if not (directory / name).is_file()]
    if missing:
        raise RunError(f"{directory} has no {missing[0]}; give the directory of a finished run.")
    if repository.count("/") != 1:
        raise RunError(f"{repository} is no name of a repository; write OWNER/NAME.")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise RunError("HF_HUB_OFFLINE is set, so nothing is pushed; unset it.")
    return _upload(_api(), directory, repository, is_private=is_private)


def published_metadata(directory: Path) -> dict[str, Any]:
    """Return training.json as others may read it: names of files without folders, and no baseline."""
    facts = _without_folders(read_metadata(directory))
    recipe = {**facts.get("recipe", {}), "base_model": facts.get("base_model")}
    return {name: value for name, value in facts.items() if name != BASELINE} | {"recipe": recipe}


def _upload(api: Any, directory: Path, repository: str, *, is_private: bool) -> str:
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        files = list(_files(directory))
        api.create_repo(repository, private=is_private, exist_ok=True)
        pushed = api.create_commit(repository, files, commit_message=f"Upload {directory.resolve().name}")
    except HFValidationError as error:
        raise RunError(f"{repository} is no name of a repository; write OWNER/NAME.") from error
    except (HTTPError, HfHubHTTPError, OSError) as error:
        said = str(error).partition("\n")[0]
        raise RunError(
            f"{directory} is not pushed to {repository} ({said}); check the name, the token and the network."
        ) from error
    return str(pushed.repo_url)


def _files(directory: Path) -> Iterator[Any]:
    """Yield what is uploaded, as the hub's client wants it."""
    from huggingface_hub import CommitOperationAdd

    of_kind = _OF_ADAPTERS if (directory / WEIGHTS_FILE).is_file() else _OF_MODELS
    for name in (*of_kind, *_CURVES, CARD_FILE):
        if (directory / name).is_file():
            yield CommitOperationAdd(name, directory / name)
    metadata = json.dumps(published_metadata(directory), indent=2, ensure_ascii=False) + "\n"
    yield CommitOperationAdd(TRAINING_FILE, metadata.encode())


def _without_folders(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _without_folder(name, value) for name, value in document.items()}


def _without_folder(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return _without_folders(value)
    if isinstance(value, list | tuple):
        return [_without_folder(name, one) for one in value]
    if name not in _FILE_FIELDS or not isinstance(value, str) or "{{" in value or "{%" in value:
        return value  # a template may stand in the place of its file
    return ", ".join(part if part.startswith("hf://") else PurePath(part).name for part in value.split(", "))


def _api() -> Any:
    """Return the hub's client; raises `RunError` without its package or a token."""
    try:
        from huggingface_hub import HfApi, get_token
    except ImportError as error:
        raise RunError(
            "pushing needs the package huggingface-hub; install it: pip install 'turntable-gateway[hub]'."
        ) from error
    if get_token() is None:
        raise RunError("there is no token of the hub; set HF_TOKEN, or log in with `hf auth login`.")
    return HfApi()
