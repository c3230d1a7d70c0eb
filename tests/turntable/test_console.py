"""Tables, figures and progress of the console module, and how an app's commands end."""

import io
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from adapters.cli.status import _DRIFT_COLUMNS, _ENGINE_COLUMNS, _engine_row
from adapters.cli.versions import _VERSION_COLUMNS
from gateway.cli.keys import _HEADS as KEY_COLUMNS
from gateway.cli.limits import limits_row
from gateway.cli.requests import _HEADS as REQUEST_COLUMNS
from tests.adapters.admin_documents import ENGINE, VERSION
from turntable.console import (
    App,
    Column,
    CommandError,
    Group,
    Table,
    cell_text,
    count,
    csv_text,
    duration,
    figures,
    progress,
    say,
    size,
    table_of,
    usd,
)

TURNTABLE = str(Path(sys.executable).with_name("turntable"))
LONGEST_WORD = 28
NAME = "customer-support-triage-for-germany-and-austria"
KEY = {
    "id": "k3y2example",
    "name": "the key of the ticket system in production",
    "tenant": NAME,
    "state": "active",
    "scopes": ["inference", "usage"],
    "adapters": [f"{NAME}-*", "base"],
    "rpm": 1_234_567,
    "tpm": 12_345_678_901,
    "max_concurrency": 128,
    "max_tokens": 4096,
    "budgets": [{"usd": "123456.78", "period": "month"}],
    "spending": [{"left_usd": "99999.991", "period": "month"}],
    "expires_at": "2027-01-01T00:00:00Z",
    "old_secret_until": None,
}
VERSION_ROW = VERSION | {
    "name": NAME,
    "traffic": "canary 12.5%",
    "verdict": "PROMOTE (does not count now)",
    "resident": ["engine-0", "engine-1"],
    "override": "2026-11-25T12:00:00Z by Ada: the promotion gate was down",
    "reason": "The adapter changes nothing: its largest change of a log-probability is 0.0000012345.",
}
DRIFT = {
    "measure": "mean output length",
    "drift": True,
    "answers": 1_234_567,
    "baseline": 123.456,
    "live": 6_543.21,
    "distance": 0.98765,
    "by_chance": 0.00001,
}
REQUEST = {
    "at": "2026-11-25T10:00:00.123456Z",
    "status": "503",
    "id": "req_0123456789abcdef0123456789abcdef",
    "key": "k3y2example",
    "model": NAME,
    "why": "budget_unchecked",
}
LISTINGS = {
    "versions": table_of(_VERSION_COLUMNS, [VERSION_ROW]),
    "engines": table_of({head: head for head in _ENGINE_COLUMNS}, [_engine_row(ENGINE | {"running": 1_234_567})]),
    "drift": table_of(_DRIFT_COLUMNS, [DRIFT]),
    "keys": table_of(KEY_COLUMNS, [limits_row(KEY)]),
    "requests": table_of(REQUEST_COLUMNS, [REQUEST]),
}


@pytest.mark.parametrize("width", [60, 80, 120, None], ids=str)
@pytest.mark.parametrize("listing", LISTINGS)
def test_a_listing_shows_every_column_and_every_figure_whole(
    listing: str, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = LISTINGS[listing]
    text = table.render(width)
    words = set(text.split())
    for column in table.columns:
        assert set(column.heading.split()) <= words
    for row in table.rows:
        for cell in row or ():
            assert {word for word in cell.split() if len(word) <= LONGEST_WORD} <= words
            assert cell.replace(" ", "") in text.replace(" ", "").replace("\n", "") or width is not None
    if width is not None:
        assert max(map(len, text.splitlines())) <= width


def test_columns_share_the_room_and_figures_are_aligned_to_the_right() -> None:
    table = Table("name", *figures("tokens"), Column("remark"), title="Usage")
    table.add("a", "1,234", "some words on it")
    table.rule()
    table.add("bb", "5", "")
    assert table.render(40).splitlines() == [
        "Usage",
        "name  tokens  remark",
        "────  ──────  ────────────────",
        "a      1,234  some words on it",
        "────  ──────  ────────────────",
        "bb         5",
    ]
    assert table.render(22).splitlines()[3:6] == ["a      1,234  some", "              words on", "              it"]
    assert table.render(16).splitlines()[:5] == [
        "Usage",
        "name    a",
        "tokens  1,234",
        "remark  some",
        "        words on",
    ]
    with pytest.raises(ValueError, match="1 cells for 3 columns"):
        table.add("too few")


def test_wide_characters_take_two_columns_and_cells_may_have_lines() -> None:
    table = Table("name", Column("note"))
    table.add("日本語", "one\ntwo")
    table.add("ascii", "three")
    assert table.render(40).splitlines()[2:] == ["日本語  one", "        two", "ascii   three"]


def test_a_table_of_rows_leaves_out_empty_columns_and_groups_digits() -> None:
    rows: list[dict[str, Any]] = [
        {"a": 12_345, "b": None, "c": ["x", "y"], "d": True},
        {"a": None, "b": [], "c": [], "d": False},
    ]
    table = table_of({"amount": "a", "gone": "b", "many": "c", "flag": "d"}, rows)
    assert [column.heading for column in table.columns] == ["amount", "many", "flag"]
    assert [column.figure for column in table.columns] == [True, False, False]
    assert table.rows == [("12,345", "x, y", "yes"), ("", "", "")]
    assert len(table_of({"a": "a", "b": "b"}, []).columns) == 2


def test_figures_have_one_form() -> None:
    assert (count(1, "row"), count(2_000, "row")) == ("1 row", "2,000 rows")
    assert [usd(amount) for amount in (1184.69, 0.000013, -1, 0)] == ["$1,184.69", "$0.000013", "-$1.00", "$0.00"]
    assert [cell_text(number) for number in (6_543.21, 0.00001, 1_000_000)] == ["6,543.21", "1e-05", "1,000,000"]
    assert [duration(seconds) for seconds in (59.6, 600, 9000)] == ["60 s", "10 min", "2.5 h"]
    assert [size(number) for number in (512, 2048, 13 << 20, 5 << 40)] == ["512 B", "2.0 KiB", "13.0 MiB", "5.0 TiB"]
    assert csv_text(["a", "b"], [{"a": 1, "b": "x,y"}, {"a": 2}]) == 'a,b\n1,"x,y"\n2,\n'


def test_progress_in_a_pipe_is_a_line_per_step(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 2048)
    with progress("mine") as shown, (tmp_path / "file").open("rb") as file:
        with shown.reading(file) as wrapped:
            assert wrapped.read() == b"x" * 2048
        shown.step("loading")
        shown.update(1, 2)
        assert not shown.is_live
    assert capsys.readouterr() == ("", "mine: uploading 2.0 KiB\nmine: loading\n")


class DomainError(Exception):
    """An error of a package below the commands."""


app = App(errors=(DomainError,))


@app.command(interrupted="interrupted; nothing was kept")
def end(how: str) -> None:
    """End as told."""
    match how:
        case "domain":
            raise DomainError("The file is missing; give another path.")
        case "verdict":
            raise CommandError("It does not pass.", exit_code=1, details=["line 1: wrong"])
        case "interrupt":
            raise KeyboardInterrupt
        case "connection":
            raise BrokenPipeError
        case "package":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        case "usage":
            raise typer.BadParameter("give a number", param_hint="HOW")
        case "bug":
            raise ZeroDivisionError
        case "exit":
            raise typer.Exit(1)


@app.command()
def other() -> None:
    """Do nothing."""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("how", "code", "stderr"),
    [
        ("well", 0, ""),
        ("exit", 1, ""),
        ("domain", 2, "error: The file is missing; give another path.\n"),
        ("verdict", 1, "line 1: wrong\nerror: It does not pass.\n"),
        ("interrupt", 130, "interrupted; nothing was kept\n"),
    ],
)
def test_a_command_ends_with_one_sentence_and_a_code(how: str, code: int, stderr: str) -> None:
    ended = run("end", how)
    assert (ended.exit_code, ended.stderr, ended.stdout) == (code, stderr, "")


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    ended = run("end", "package")
    assert ended.exit_code == 2
    assert ended.stderr.startswith("error: The Python package 'torch' is not installed; ")


def test_wrong_usage_is_one_line_that_names_the_help() -> None:
    ended = run("end", "usage")
    assert (ended.exit_code, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("error: Invalid value for HOW: give a number. See `")
    assert ended.stderr.endswith("end --help`.\n")
    unknown = run("othr")
    assert (unknown.exit_code, "Did you mean 'other'?" in unknown.stderr) == (2, True)


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    assert isinstance(run("end", "bug").exception, ZeroDivisionError)


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    lines = f"'{TURNTABLE}' prices list gpt --data-dir '{tmp_path}' | head -1; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    assert ended.stdout.splitlines()[-1] in ("0", "141")


def test_a_pipe_that_was_closed_before_anything_was_printed_is_141(tmp_path: Path) -> None:
    program = (
        "import sys, os; from turntable.cli import main\n"
        "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)\n"
        f"sys.argv = ['turntable', 'prices', 'list', '--data-dir', {str(tmp_path)!r}]\nmain()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize("end_of_output", ["stdout", "stderr"])
def test_an_output_without_a_reader_is_141(end_of_output: str) -> None:
    program = (
        "import os, socket, sys, typer; from turntable.console import App\n"
        "ours, theirs = socket.socketpair(); theirs.close()\n"
        f"os.dup2(ours.fileno(), sys.{end_of_output}.fileno())\n"
        "app = App()\n"
        f"app.command()(lambda: typer.echo('x', err={end_of_output == 'stderr'}))\n"
        "app()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (141, "", "")


class LoadsOverAConnection(Group):
    """A group that breaks off before a command runs."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        raise BrokenPipeError


def test_a_broken_connection_is_an_error_and_no_closed_pipe() -> None:
    loading = App(cls=LoadsOverAConnection)
    loading.command("first")(other)
    loading.command("second")(other)
    before = CliRunner().invoke(loading, ["first"])
    during = run("end", "connection")
    for ended in (before, during):
        assert ended.exit_code == 2
        assert ended.stderr == "error: a connection was closed by the other side; run the command again.\n"


@pytest.mark.parametrize("err", [False, True])
def test_a_sentence_is_as_wide_as_the_terminal_that_it_is_printed_on(
    err: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    ends: dict[str, int] = {}
    for name, columns in (("stdout", 20 if not err else 60), ("stderr", 60 if not err else 20)):
        ends[name], terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (25, columns))
        monkeypatch.setattr(sys, name, os.fdopen(terminal, "w"))
    say("one two three four five six seven eight nine", err=err)
    for stream in (sys.stdout, sys.stderr):
        stream.close()
    assert os.read(ends["stderr" if err else "stdout"], 100).count(b"\n") == 3
    for end_of_terminal in ends.values():
        os.close(end_of_terminal)


def test_text_is_broken_between_words_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, lines in ((Terminal(), 3), (io.StringIO(), 1)):
        monkeypatch.setenv("COLUMNS", "20")
        monkeypatch.setattr(sys, "stdout", stream)
        say("one two three four five six seven eight nine")
        assert stream.getvalue().count("\n") == lines
