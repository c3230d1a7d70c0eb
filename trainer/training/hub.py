"""Push a finished run to a model hub: the weights, their configuration, the model card and the metadata.

Left out are the files that tell about training data or this machine: rows, parity vectors (tokens of rows) and paths.
"""

import os
from pathlib import Path
from typing import Any

from adapters.manifest import CARD_FILE, PARITY_FILE, TRAINING_FILE, WEIGHTS_FILE
from trainer.errors import RunError
from trainer.training.artifacts import MODEL_WEIGHTS_FILE, ROWS_FILE, RUN_FILE
from trainer.training.metrics_log import METRICS_FILE

KEPT_HERE = (ROWS_FILE, RUN_FILE, PARITY_FILE, METRICS_FILE)


def push(directory: Path, repository: str, *, is_private: bool) -> str:
    """Upload a run to `OWNER/NAME`, which is made if it does not exist, and return its address; raises `RunError`."""
    if not any((directory / name).is_file() for name in (WEIGHTS_FILE, MODEL_WEIGHTS_FILE)):
        raise RunError(f"{directory} has no {WEIGHTS_FILE}; give the directory of a finished run.")
    if missing := [name for name in (CARD_FILE, TRAINING_FILE) if not (directory / name).is_file()]:
        raise RunError(f"{directory} has no {missing[0]}; give the directory of a finished run.")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise RunError("HF_HUB_OFFLINE is set, so nothing is pushed; unset it.")
    api = _api()
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        api.create_repo(repository, private=is_private, exist_ok=True)
        pushed = api.upload_folder(
            repo_id=repository,
            folder_path=directory,
            ignore_patterns=[*KEPT_HERE, "checkpoint-*"],
            commit_message=f"Upload {directory.name}",
        )
    except HFValidationError as error:
        raise RunError(f"{repository} is no name of a repository; write OWNER/NAME.") from error
    except (HfHubHTTPError, OSError) as error:
        said = str(error).partition("\n")[0]
        raise RunError(
            f"{directory} is not pushed to {repository} ({said}); check the name, the token and the network."
        ) from error
    return str(pushed)


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
