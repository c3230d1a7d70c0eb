"""Files that a command was asked to write: opened before the test, so that a wrong path costs no hour of load."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import orjson

from loadtest.errors import InvalidWorkloadError
from loadtest.records import RequestRecord


def opened(path: Path | None, files: ExitStack) -> IO[bytes] | None:
    """The file to write to, standard output for `-`, None for no path; InvalidWorkloadError when it cannot be."""
    if path is None:
        return None
    if str(path) == "-":
        return sys.stdout.buffer
    try:
        return files.enter_context(path.open("wb"))
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror}): give a path in an existing, writable folder."
        raise InvalidWorkloadError(message) from error


class RecordFiles:
    """Where raw timestamps go: the first run of a command to `path`, the second to `<stem>.2<suffix>`, and so on."""

    def __init__(self, path: Path | None, files: ExitStack) -> None:
        self._path = path
        self._files = files
        self._next = opened(path, files)
        self._number = 1

    def take(self) -> IO[bytes] | None:
        """The file of the next run; None when nobody wants them."""
        if self._path is None or str(self._path) == "-":
            return self._next
        if self._number > 1:
            numbered = self._path.with_name(f"{self._path.stem}.{self._number}{self._path.suffix}")
            self._next = opened(numbered, self._files)
        self._number += 1
        return self._next


def read_records(path: Path) -> Iterator[RequestRecord]:
    """The records of `--records`, one at a time; InvalidWorkloadError names file and line of what is none."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield RequestRecord.from_line(line)
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise InvalidWorkloadError(f"{path}:{number}: is no record of a request.") from None
    except OSError as error:
        raise InvalidWorkloadError(f"{path}: cannot be read ({error.strerror}).") from error


def write_json(file: IO[bytes] | None, value: Any) -> None:
    """Write a value as indented JSON, if there is a file."""
    if file:
        file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_json(path: Path) -> dict[str, Any]:
    """A report written earlier; InvalidWorkloadError when it is none."""
    try:
        value = orjson.loads(path.read_bytes())
    except OSError as error:
        raise InvalidWorkloadError(f"{path}: cannot be read ({error.strerror}).") from error
    except orjson.JSONDecodeError as error:
        raise InvalidWorkloadError(f"{path}: not JSON ({error}).") from None
    if not isinstance(value, dict) or value.get("tool") != "turntable loadtest":
        raise InvalidWorkloadError(f"{path}: is no report of `turntable loadtest --json`.")
    return value
