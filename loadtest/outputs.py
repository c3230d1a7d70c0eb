"""Files that a command was asked to write: tried before the test, so that a wrong path costs no hour of load.

A report as CSV: one line for every load level, repeat and model.
"""

import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

from loadtest.comparison import levels_of
from loadtest.errors import InvalidWorkloadError
from loadtest.records import RequestRecord


class Output:
    """A file that appears whole at the end, so that an error leaves what was there before; or standard output for `-`.

    InvalidWorkloadError at once when it could not be written.
    """

    def __init__(self, path: Path, files: ExitStack) -> None:
        self.is_stdout = str(path) == "-"
        self._path = path if self.is_stdout else path.resolve()
        # A pipe or device has nothing to be replaced.
        self._is_plain = not self.is_stdout and (not self._path.exists() or self._path.is_file())
        self._scratch = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        if not self.is_stdout:
            with _unwritable_named(path):
                (_new_file(self._scratch) if self._is_plain else self._path.open("ab")).close()
            files.callback(self._scratch.unlink, missing_ok=True)

    def write(self, content: bytes) -> None:
        """Put the whole content there."""
        if self.is_stdout:
            sys.stdout.buffer.write(content)
        elif self._is_plain:
            self._scratch.write_bytes(content)
            self._scratch.replace(self._path)
        else:
            self._path.write_bytes(content)


def output(path: Path | None, files: ExitStack) -> Output | None:
    """Where to write what was asked for; None for no path."""
    return None if path is None else Output(path, files)


class RecordFiles:
    """Where raw timestamps go: the first run of a command to `path`, the second to `<stem>.2<suffix>`, and so on."""

    def __init__(self, path: Path | None, files: ExitStack) -> None:
        self._path = path
        self._files = files
        self._number = 0
        if path is not None:
            Output(path, files)

    def take(self) -> "RecordFile | None":
        """The file of the next run; None when nobody wants them."""
        if self._path is None:
            return None
        self._number += 1
        if self._number == 1 or str(self._path) == "-":
            return RecordFile(self._path, self._files)
        numbered = self._path.with_name(f"{self._path.stem}.{self._number}{self._path.suffix}")
        return RecordFile(numbered, self._files)


class RecordFile:
    """Raw timestamps of one run, on disk as they come; a run that cannot start leaves what was there before."""

    def __init__(self, path: Path, files: ExitStack) -> None:
        self._path = path
        self._files = files
        self._file: IO[bytes] | None = sys.stdout.buffer if str(path) == "-" else None

    def write(self, lines: bytes) -> None:
        """Add lines."""
        if self._file is None:
            with _unwritable_named(self._path):
                self._file = self._files.enter_context(self._path.open("wb"))
        self._file.write(lines)


def _new_file(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666), "wb")


@contextmanager
def _unwritable_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror}): give a path in an existing, writable folder."
        raise InvalidWorkloadError(message) from error


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


def json_text(value: Any) -> bytes:
    """A value as indented JSON."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


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


COUNTS = ("requests", "succeeded", "good", "failed", "prompt_tokens", "completion_tokens")
RATES = ("requests_per_s", "good_per_s", "output_tokens_per_s")
LATENCIES = ("ttft", "itl", "tpot", "e2e", "lag", "queueing")
PERCENTILES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")


def csv_text(document: Mapping[str, Any]) -> str:
    """The lines, with a header; `model` is `total` for all models together."""
    text = io.StringIO()
    writer = csv.writer(text)
    measured = [f"{latency}_{percentile}" for latency in LATENCIES for percentile in PERCENTILES]
    writer.writerow(["level", "repeat", "verdict", "model", *COUNTS, *RATES, *measured, "usd_per_good_request"])
    for level in levels_of(document):
        for number, report in enumerate(level["reports"], 1):
            for model, row in [("total", report["total"]), *report["models"].items()]:
                cells: list[Any] = [row[name] for name in (*COUNTS, *RATES)]
                cells += [(row[latency] or {}).get(percentile) for latency in LATENCIES for percentile in PERCENTILES]
                good_cost = (report["cost"] or {}).get("per_good_request") if model == "total" else None
                writer.writerow([level["label"], number, report["verdict"], model, *cells, good_cost])
    return text.getvalue()
