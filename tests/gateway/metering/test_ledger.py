"""The ledger: opened before, settled once, nothing lost when processes are killed, disks full, databases away."""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from sqlalchemy import Engine, text

from gateway.core import Usage, UsageSource
from gateway.database import open_database
from gateway.errors import DiskError
from gateway.metering import Finish, Ledger, LedgerEntry
from gateway.metering.journal import LedgerJournal, abandoned_journals
from tests.gateway.metering.ledger_entries import entry, rows_of
from tests.waiting import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def ledger(database: Engine, folder: Path) -> Iterator[Ledger]:
    ledger = Ledger(database, folder)
    yield ledger
    ledger.close()


def test_a_row_is_open_before_it_is_settled(ledger: Ledger, database: Engine) -> None:
    row = entry()
    ledger.open(row)
    assert [r["state"] for r in rows_of(ledger, database)] == ["open"]
    row.mark_first_byte()
    row.usage, row.evidence = Usage(10, 20, 4), UsageSource.EXACT
    ledger.settle(row)
    (settled,) = rows_of(ledger, database)
    assert settled["state"] == "settled"
    assert (settled["prompt_tokens"], settled["completion_tokens"], settled["cached_tokens"]) == (10, 20, 4)
    assert (settled["finish"], settled["stream"], settled["client_request_id"]) == ("completed", True, None)
    assert settled["ttft_us"] >= 0
    assert settled["settled_us"] >= settled["opened_us"] == row.opened_us


def test_a_settled_row_never_changes_again(ledger: Ledger, database: Engine) -> None:
    row = entry()
    ledger.open(row)
    row.usage = Usage(1, 1)
    ledger.settle(row)
    row.usage, row.finish = Usage(999, 999), Finish.CLIENT_ABORT
    ledger.settle(row)
    ledger.open(row)
    (settled,) = rows_of(ledger, database)
    assert settled["completion_tokens"] == 1
    assert (settled["finish"], settled["state"]) == ("completed", "settled")


def test_many_rows_share_transactions_and_segments_and_all_arrive(
    ledger: Ledger, database: Engine, folder: Path
) -> None:
    rows = [entry(f"req_{n}") for n in range(10_000)]
    for row in rows:
        ledger.open(row)
    for row in rows:
        ledger.settle(row)
    found = rows_of(ledger, database)
    assert sorted(r["request_id"] for r in found) == sorted(row.request_id for row in rows)
    assert {r["state"] for r in found} == {"settled"}
    ledger.open(entry("req_last"))
    ledger.flush()
    assert len(list(folder.glob("*/0*"))) == 1, "a folded segment is gone"


def test_while_the_database_is_away_requests_go_on_until_the_journal_is_full(database: Engine, folder: Path) -> None:
    ledger = Ledger(database, folder, most_bytes=10_000)
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE usage_ledger RENAME TO away"))
    opened: list[LedgerEntry] = []
    with pytest.raises(DiskError, match="database has been away for too long, so no request is taken"):
        open_many(ledger, opened)
    assert len(opened) > 20
    for row in opened:
        ledger.settle(row)  # those that run are settled, however full it is
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO usage_ledger"))
    states = {row["request_id"]: row["state"] for row in rows_of(ledger, database)}
    assert states == {row.request_id: "settled" for row in opened}
    ledger.open(entry("req_again"))
    ledger.close()


def open_many(ledger: Ledger, opened: list[LedgerEntry]) -> None:
    for n in range(1000):
        ledger.open(row := entry(f"req_{n}"))
        opened.append(row)


def test_a_line_that_the_database_never_takes_is_put_aside(
    ledger: Ledger, database: Engine, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = entry("req_broken")
    broken.tenant = None  # type: ignore[assignment]
    for row in (entry("req_1"), broken, entry("req_2")):
        ledger.open(row)
    assert [row["request_id"] for row in rows_of(ledger, database)] == ["req_1", "req_2"]
    assert b"req_broken" in (folder / "rejected").read_bytes()
    assert "was rejected" in caplog.text
    assert "tenant" in caplog.text


def test_a_disk_that_cannot_take_what_is_put_aside_stops_nothing_for_good(
    ledger: Ledger, database: Engine, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "rejected").mkdir()
    broken = entry("req_broken")
    broken.tenant = None  # type: ignore[assignment]
    for row in (broken, entry("req_1")):
        ledger.open(row)
    wait_until(lambda: "cannot be folded" in caplog.text)
    (folder / "rejected").rmdir()
    assert [row["request_id"] for row in rows_of(ledger, database)] == ["req_1"]
    assert b"req_broken" in (folder / "rejected").read_bytes()


def test_the_journal_of_a_dead_process_is_folded_and_that_of_a_living_one_left_alone(
    database: Engine, folder: Path
) -> None:
    living = LedgerJournal(folder, most_bytes=1000)
    living.append(entry("req_living").opened_line())
    dead = folder / "dead"
    dead.mkdir()
    torn = entry("req_torn").opened_line()
    (dead / "00000007").write_bytes(entry("req_dead").opened_line())
    (dead / "00000008").write_bytes(entry("req_dead").settled_line() + entry("req_cut").opened_line() + torn[:-9])
    ledger = Ledger(database, folder)
    assert {row["request_id"]: row["state"] for row in rows_of(ledger, database)} == {
        "req_dead": "settled",
        "req_cut": "interrupted",
    }
    ledger.close()
    assert not dead.exists()
    assert living.reader.read() == entry_line(living)
    living.close()


def entry_line(journal: LedgerJournal) -> bytes:
    return (journal.folder / "00000001").read_bytes()


def test_the_journal_of_an_older_version_and_what_is_no_line_at_all_stop_nothing(
    database: Engine, folder: Path
) -> None:
    (folder / "dead").mkdir(parents=True)
    older = ["req_old", 5, "default", "admin", "base", None, None, False, "/v1/completions", None, "settled", 9]
    lines = [b"s" + orjson.dumps(older), b"s[broken", entry("req_new").settled_line().rstrip()]
    (folder / "dead" / "00000001").write_bytes(b"\n".join(lines) + b"\n")
    ledger = Ledger(database, folder)
    found = {row["request_id"]: row for row in rows_of(ledger, database)}
    ledger.close()
    assert found.keys() == {"req_old", "req_new"}
    old = found["req_old"]
    assert (old["attempt"], old["choices"], old["gateway"], old["gateway_run"]) == (1, 1, ledger.gateway, "dead")
    assert (folder / "rejected").read_bytes() == b"s[broken\n"


DAMAGED = [
    b"s5",
    b"s{}",
    b"s[]",
    b'x["req_odd"]',
    b's[["req_nested"]]',
    b's["req_object", {"a": 1}]',
    b's["req_short"]',
    b's["req_words", "five", "default", "admin", "base"]',
    b"",
    b"\x00" * 300_000,
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=lambda line: repr(line[:20]))
def test_a_damaged_line_is_put_aside_and_what_comes_after_it_is_folded(
    ledger: Ledger, database: Engine, folder: Path, damaged: bytes
) -> None:
    ledger.open(entry("req_before"))
    ledger._journal.append(damaged + b"\n")
    ledger.open(entry("req_after"))
    assert {row["request_id"] for row in rows_of(ledger, database)} == {"req_before", "req_after"}
    assert (folder / "rejected").read_bytes() == damaged + b"\n"
    assert ledger.rejected == 1


def test_the_folding_thread_outlives_an_unexpected_exception(
    ledger: Ledger, database: Engine, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with database.begin() as connection:  # a trigger, a missing right: no fault of the line's
        connection.execute(text("ALTER TABLE usage_ledger RENAME COLUMN choices TO away"))
    ledger.open(entry("req_1"))
    wait_until(lambda: "cannot be folded" in caplog.text)
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE usage_ledger RENAME COLUMN away TO choices"))
    assert [row["request_id"] for row in rows_of(ledger, database)] == ["req_1"]
    assert ledger.rejected == 0


def test_half_a_line_at_the_end_of_a_segment_is_kept_and_the_next_segment_read(database: Engine, folder: Path) -> None:
    (folder / "dead").mkdir(parents=True)
    torn = entry("req_torn").settled_line()[:-9]
    (folder / "dead" / "00000001").write_bytes(entry("req_1").settled_line() + torn)
    (folder / "dead" / "00000002").write_bytes(entry("req_2").settled_line() + torn)
    ledger = Ledger(database, folder)
    assert {row["request_id"] for row in rows_of(ledger, database)} == {"req_1", "req_2"}
    ledger.close()
    assert (folder / "rejected").read_bytes() == torn + b"\n"


def test_folding_the_same_journal_twice_changes_nothing(database: Engine, folder: Path) -> None:
    row = entry()
    lines = row.opened_line() + row.settled_line()
    found = []
    for _ in range(2):
        (folder / "dead").mkdir(parents=True)
        (folder / "dead" / "00000001").write_bytes(lines)
        ledger = Ledger(database, folder)
        found.append(rows_of(ledger, database))
        ledger.close()
    assert found[0] == found[1]
    assert len(found[0]) == 1
    assert not list(abandoned_journals(folder))


def test_on_a_full_disk_nothing_is_opened_and_what_runs_is_settled_later(database: Engine, folder: Path) -> None:
    ledger, running = Ledger(database, folder), entry("req_running")
    ledger.open(running)
    ledger.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        size = sum(path.stat().st_size for path in folder.glob("*/0*"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))  # ten bytes of the next line fit
        with pytest.raises(DiskError, match="usage ledger cannot be written, so no request is taken; free that disk"):
            ledger.open(entry("req_refused"))
        ledger.settle(running)
        assert ledger.unsettled == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    ledger.retry()
    assert {row["request_id"]: row["state"] for row in rows_of(ledger, database)} == {"req_running": "settled"}
    ledger.close()


def test_a_journal_that_is_taken_away_refuses_requests_until_it_is_back(
    ledger: Ledger, database: Engine, folder: Path
) -> None:
    ledger.open(entry("req_1"))
    assert len(rows_of(ledger, database)) == 1
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(DiskError, match="usage ledger cannot be written"):
        ledger.open(entry("req_2"))
    elsewhere.rename(folder)
    ledger.open(entry("req_3"))
    assert len(rows_of(ledger, database)) == 2


KILLED_WHILE_WRITING = """
import sys
from pathlib import Path
from gateway.database import open_database
from gateway.metering import LedgerEntry, Ledger

ledger = Ledger(open_database(sys.argv[1]), Path(sys.argv[2]))
for n in range(100_000):
    row = LedgerEntry(f"req_{n}", "default", "admin", "base", None, None, False, "/v1/completions")
    ledger.open(row)
    print(n, flush=True)
    if n % 2:
        ledger.settle(row)
"""


def test_kill_dash_nine_loses_no_opened_row_and_labels_the_open_ones(database_url: str, folder: Path) -> None:
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, database_url, str(folder)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(200)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    writer.stdout.close()
    database = open_database(database_url)
    ledger = Ledger(database, folder)
    states = {row["request_id"]: row["state"] for row in rows_of(ledger, database)}
    ledger.close()
    database.dispose()
    assert {f"req_{n}" for n in acknowledged} <= states.keys()
    assert all(states[f"req_{n}"] == "interrupted" for n in acknowledged if n % 2 == 0)
    assert all(states[f"req_{n}"] == "settled" for n in acknowledged[:-1] if n % 2)
    assert "open" not in states.values()
    assert ledger.interrupted_at_start >= len(acknowledged) // 2
