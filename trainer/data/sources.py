"""Bring the data files of a recipe onto this disk as JSON Lines: CSV, Parquet, and files of `hf://` datasets.

A table is converted row by row into `<data dir>/datasets/<name>-<hash>.jsonl`, whose lines are its rows, and kept
there; problems of its rows name that file. Nothing is cleaned, which is the work of `turntable data prepare`. A file
of a dataset on the Hugging Face hub is taken from the local cache, and from the network only with HF_HUB_OFFLINE=0.
"""

import json
import os
import re
from pathlib import Path

from adapters.manifest import file_sha256
from trainer.data.convert import convert, source_rows
from trainer.data.loaders import HEAD_BYTES, format_of, shape_of
from trainer.errors import DataError, Problem, RunError
from trainer.files import replacing

DATASETS_FOLDER = "datasets"
_HUB = "hf://"
_HUB_FILE = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")


def local_rows(name: str, directory: Path, data_dir: Path) -> Path:
    """Return the JSON Lines file of a name in a recipe; raises `DataError` for bad rows, `RunError` for the hub."""
    path = _from_hub(name) if name.startswith(_HUB) else directory / name
    try:
        with path.open("rb") as file:
            found = format_of(file.read(HEAD_BYTES), path)
    except OSError:
        return path  # the check of the rows says why
    if found not in ("csv", "parquet"):
        return path
    made = data_dir / DATASETS_FOLDER / f"{path.stem}-{file_sha256(path)[:12]}.jsonl"
    if not made.is_file():
        _convert(path, made)
    return made


def _convert(source: Path, made: Path) -> None:
    """Write the rows of a table as JSON Lines; raises `DataError` with every row that does not convert."""
    problems, number = [], 0
    with replacing(made) as out:
        for number, content in source_rows(source):
            try:
                if isinstance(content, ValueError):
                    raise content
                shape = shape_of(content) if isinstance(content, dict | list) else None
                if shape is None:
                    held = ", ".join(map(str, content)) if isinstance(content, dict) else "no fields"
                    raise ValueError(
                        f"has {held}, of which none is known to ask or to answer; convert it with turntable data "
                        "prepare --columns question=user,answer=assistant"
                    )
                out.write(json.dumps(convert(content, shape), ensure_ascii=False) + "\n")
            except ValueError as error:
                problems.append(Problem(str(source), number, str(error)))
        if not number:
            problems = [Problem(str(source), None, "has no rows below its columns; add some, or leave the file out")]
        if problems:
            raise DataError(problems)


def _from_hub(name: str) -> Path:
    parts = _HUB_FILE.fullmatch(name)
    if parts is None:
        raise RunError(
            f"{name} names no file of a dataset; write hf://datasets/OWNER/NAME/FILE or …/NAME@REVISION/FILE."
        )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise RunError(
            f"{name} needs the package huggingface-hub; install it: pip install turntable-gateway[hub]."
        ) from error
    offline = os.environ.get("HF_HUB_OFFLINE", "1") != "0"
    try:
        return Path(
            hf_hub_download(
                parts["name"], parts["file"], repo_type="dataset", revision=parts["revision"], local_files_only=offline
            )
        )
    except LocalEntryNotFoundError as error:
        raise RunError(
            f"{name} is not in the local hub cache; set HF_HUB_OFFLINE=0 to let the run fetch it, or save the file and "
            "name its path."
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise RunError(f"{name} cannot be fetched ({error}); check the name, the token and the network.") from error
