"""Locate the adapter in a folder, an archive or a repository, and select its files.

PEFT's files may lie at the top or one or two folders down (a checkpoint of a run); files of macOS and of hub caches are
ignored. Weights under another tool's name are taken only for a conversion; otherwise the error names them.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from adapters.errors import PreflightError
from adapters.manifest import CARD_FILE, CONFIG_FILE, PARITY_FILE, TRAINING_FILE, WEIGHTS_FILE
from adapters.origins import CONVERT, files_origin

ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, TRAINING_FILE, PARITY_FILE, CARD_FILE)
"""Files of a version."""
TEMPLATE_FILE, TOKENIZER_CONFIG, TOKENIZER_FILE = "chat_template.jinja", "tokenizer_config.json", "tokenizer.json"
ADDED_TOKENS_FILE = "added_tokens.json"
TOKENIZER_FILES = (TEMPLATE_FILE, TOKENIZER_CONFIG, TOKENIZER_FILE, ADDED_TOKENS_FILE)
"""Files compared with the base model's and not stored: the engine serves all adapters with the base's."""
_OTHER_WEIGHTS = re.compile(r"(adapters|(adapter_)?model(-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?)\.safetensors")
_MAX_DEPTH = 3
_MAX_LISTED = 10_000


@dataclass(frozen=True, slots=True)
class Layout:
    """Location of an adapter: `folder` is empty or ends with a slash; `names` are the files to take from it."""

    folder: str
    names: tuple[str, ...]


def find_adapter(paths: Iterable[str], *, convert: bool = False) -> Layout | None:
    """Locate the adapter among relative paths; None when no file belongs to one.

    Raises `PreflightError` when there are several, or when it is another tool's, naming the tool.
    """
    known = [path for path in paths if _counts(path)]
    configs = [path for path in known if PurePosixPath(path).name == CONFIG_FILE]
    if not configs:
        return _without_config(known)
    depth = min(path.count("/") for path in configs)
    nearest = sorted(path.removesuffix(CONFIG_FILE) for path in configs if path.count("/") == depth)
    if len(nearest) > 1:
        listed = ", ".join(nearest[:4]) + (", …" if len(nearest) > 4 else "")
        raise PreflightError(CONFIG_FILE, f"is there {len(nearest)} times ({listed}); give one of these folders.")
    folder = nearest[0]
    here = {path.removeprefix(folder) for path in known if path.startswith(folder)}
    taken = [name for name in (*ADAPTER_FILES, *TOKENIZER_FILES) if name in here]
    if WEIGHTS_FILE not in here:
        taken += _other_weights({name for name in here if "/" not in name}, convert=convert)
    return Layout(folder, tuple(taken))


def list_files(directory: Path) -> Iterator[str]:
    """List relative paths of files in a folder, and in its subfolders only when it holds no adapter."""
    level, listed = [""], 0
    for _ in range(_MAX_DEPTH):
        below, found = list[str](), list[str]()
        for folder in level:
            with contextlib.suppress(PermissionError), os.scandir(directory / folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    listed += 1
                    if listed > _MAX_LISTED:
                        return
                    if entry.is_dir(follow_symlinks=False):
                        below.append(f"{folder}{entry.name}/")
                    elif entry.is_file():
                        found.append(f"{folder}{entry.name}")
        yield from found
        if any(PurePosixPath(path).name == CONFIG_FILE for path in found):
            return
        level = below


def _counts(path: str) -> bool:
    """Return whether a path may belong to the adapter; macOS resource forks and caches do not."""
    parts = PurePosixPath(path).parts
    return len(parts) <= _MAX_DEPTH and not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _without_config(known: list[str]) -> Layout | None:
    own = [path for path in known if PurePosixPath(path).name in ADAPTER_FILES and path.count("/") < _MAX_DEPTH - 1]
    weights = {PurePosixPath(path).name for path in own} & {WEIGHTS_FILE}
    if not weights and (found := files_origin(known)):
        raise PreflightError(found[0], f"{found[1]}.")
    if not own:
        return None
    folder = min((path.removesuffix(PurePosixPath(path).name) for path in own), key=lambda folder: folder.count("/"))
    here = {path.removeprefix(folder) for path in own if path.startswith(folder)}
    return Layout(folder, tuple(name for name in ADAPTER_FILES if name in here))


def _other_weights(here: set[str], *, convert: bool) -> list[str]:
    """Return weights that a conversion can read; empty when there are none."""
    matches = [match for name in sorted(here) if (match := _OTHER_WEIGHTS.fullmatch(name))]
    if not matches:
        if found := files_origin(here):
            raise PreflightError(found[0], f"{found[1]}.")
        return []
    if not convert:
        names = ", ".join(match[0] for match in matches[:3]) + (", …" if len(matches) > 3 else "")
        raise PreflightError(
            WEIGHTS_FILE,
            f"is missing, but there is {names} ({_writer(matches[0])}); {CONVERT}, or save it with PEFT.",
        )
    whole = [match for match in matches if match["shard"] is None]
    if whole:
        return [whole[0][0]]
    wanted = int(matches[0]["shards"])
    if len(matches) != wanted:
        raise PreflightError(matches[0][0], f"is one of {wanted} shards and {len(matches)} are here; give them all.")
    return [match[0] for match in matches]


def _writer(match: re.Match[str]) -> str:
    if match[1] == "adapters":
        return "MLX writes this"
    return "sharded" if match["shard"] else "a Trainer or Accelerate writes this when it does not know of PEFT"
