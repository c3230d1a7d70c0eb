"""Several gateways on one ledger, restarts, upgrades: whose rows are marked as interrupted, and no mark is final."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select, update

from gateway.clock import now_us
from gateway.core import Usage, UsageSource
from gateway.metering import Ledger, LedgerEntry, gateways, usage_ledger
from gateway.metering.gateways import GATEWAY_GONE_US
from gateway.metering.tables import gateway_runs
from tests.gateway.metering.ledger_entries import entry, rows_of

# What a gateway wrote before rows named their gateway, their attempt and their engine run.
OLD_LINE = (
    b'["req_old%d",1764000000000000,"default","admin","tone","tone","%s",true,"/v1/chat/completions",null,'
    b'"%s",%s,200,"completed","exact",10,4,20,1500,"engine-0",77]\n'
)
CHILD = """
import sys
from pathlib import Path
from gateway.database import open_database
from gateway.metering import LedgerEntry, Ledger

ledger = Ledger(open_database(sys.argv[1]), Path(sys.argv[2]))
ledger.open(LedgerEntry(sys.argv[3], "default", "admin", "base", None, None, False, "/v1/completions"))
ledger.flush()
print(ledger.gateway, flush=True)
sys.stdin.read()
"""


def states(ledger: Ledger, database: Engine) -> dict[str, str]:
    return {row["request_id"]: row["state"] for row in rows_of(ledger, database)}


def a_gateway(database_url: str, folder: Path, request_id: str) -> "subprocess.Popen[str]":
    """Another gateway's process, which has just opened a row."""
    command = [sys.executable, "-c", CHILD, database_url, str(folder), request_id]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert len(process.stdout.readline().strip()) == 16
    return process


def end(process: "subprocess.Popen[str]", *, kill: bool) -> None:
    if kill:
        process.kill()
    process.communicate()


def test_a_gateway_that_was_killed_and_restarted_marks_its_own_rows_and_no_others(
    database: Engine, database_url: str, tmp_path: Path
) -> None:
    living = a_gateway(database_url, tmp_path / "other", "req_living")
    killed = a_gateway(database_url, tmp_path / "mine", "req_killed")
    end(killed, kill=True)
    ledger = Ledger(database, tmp_path / "mine")
    assert ledger.interrupted_at_start == 1
    assert states(ledger, database) == {"req_living": "open", "req_killed": "interrupted"}
    end(living, kill=True)
    ledger.heartbeat()
    assert states(ledger, database)["req_living"] == "open", "it was seen a moment ago"
    long_ago = now_us() - GATEWAY_GONE_US - 1
    with database.begin() as connection:
        connection.execute(update(gateway_runs).values(seen_us=long_ago))
        connection.execute(update(usage_ledger).values(opened_us=long_ago))
    ledger.heartbeat()
    assert states(ledger, database) == {"req_living": "interrupted", "req_killed": "interrupted"}
    ledger.close()


def test_two_processes_on_one_data_directory_leave_each_others_rows_alone(
    database: Engine, database_url: str, tmp_path: Path
) -> None:
    other = a_gateway(database_url, tmp_path, "req_other")
    ledger = Ledger(database, tmp_path)
    assert ledger.interrupted_at_start == 0
    assert states(ledger, database) == {"req_other": "open"}
    ledger.close()
    end(other, kill=False)


def test_a_row_that_is_settled_after_it_was_taken_for_lost_is_settled(database: Engine, tmp_path: Path) -> None:
    ledger, row = Ledger(database, tmp_path), entry()
    ledger.open(row)
    ledger.flush()
    with database.begin() as connection:
        assert gateways.interrupt_own_rows(connection, ledger.gateway, ()) == 1
    assert states(ledger, database) == {"req_1": "interrupted"}
    row.usage, row.evidence = Usage(10, 20), UsageSource.EXACT
    ledger.settle(row)
    (settled,) = rows_of(ledger, database)
    assert (settled["state"], settled["completion_tokens"], settled["evidence"]) == ("settled", 20, "exact")
    ledger.close()


def test_what_a_running_request_has_used_is_kept_when_its_process_is_killed(database: Engine, tmp_path: Path) -> None:
    ledger, row = Ledger(database, tmp_path), entry()
    ledger.open(row)
    for tokens in (5, 9):  # in one fold: the last one counts
        row.usage, row.evidence, row.engine = Usage(10, tokens), UsageSource.LAST_CONTINUOUS, "engine-0"
        ledger.note(row)
    ledger.flush()
    with database.begin() as connection:
        gateways.interrupt_own_rows(connection, ledger.gateway, ())
    (kept,) = rows_of(ledger, database)
    told = (kept["state"], kept["evidence"], kept["prompt_tokens"], kept["completion_tokens"], kept["engine"])
    assert told == ("interrupted", "last_continuous", 10, 9, "engine-0")
    row.usage = Usage(10, 11)
    ledger.settle(row)
    ledger.note(row)
    (settled,) = rows_of(ledger, database)
    assert (settled["state"], settled["completion_tokens"]) == ("settled", 11)
    ledger.close()


def test_lines_of_the_former_version_are_folded_after_an_upgrade(database: Engine, tmp_path: Path) -> None:
    digest = b"0" * 64
    (tmp_path / "0123456789abcdef").mkdir()
    lines = [b"o" + OLD_LINE % (1, digest, b"open", b"null"), b"o" + OLD_LINE % (2, digest, b"open", b"null")]
    lines.append(b"s" + OLD_LINE % (2, digest, b"settled", b"1764000002000000"))
    (tmp_path / "0123456789abcdef" / "00000001").write_bytes(b"".join(lines))
    ledger = Ledger(database, tmp_path)
    cut, settled = sorted(rows_of(ledger, database), key=lambda row: str(row["request_id"]))
    ledger.close()
    assert (cut["state"], settled["state"], settled["cost_nano_usd"]) == ("interrupted", "settled", 77)
    assert [(row["attempt"], row["choices"]) for row in (cut, settled)] == [(1, 1), (1, 1)]
    assert {row["gateway"] for row in (cut, settled)} == {ledger.gateway}
    assert {row["gateway_run"] for row in (cut, settled)} == {"0123456789abcdef"}


@pytest.mark.parametrize(("age_us", "state"), [(0, "open"), (2 * 3600 * 10**6, "interrupted")])
def test_open_rows_without_a_gateway_are_marked_once_no_request_can_be_running(
    database: Engine, tmp_path: Path, age_us: int, state: str
) -> None:
    values: Sequence[dict[str, Any]] = [
        {"request_id": "req_old", "attempt": 1, "opened_us": now_us() - age_us, "state": "open", "tenant": "t"}
        | {"key_id": "k", "model": "base", "stream": False}
    ]
    with database.begin() as connection:
        connection.execute(insert(usage_ledger), values)
    ledger = Ledger(database, tmp_path)
    assert states(ledger, database) == {"req_old": state}
    ledger.close()


def test_each_attempt_of_a_request_is_a_row_and_only_one_of_them_has_tokens(database: Engine, tmp_path: Path) -> None:
    ledger, row = Ledger(database, tmp_path), entry()
    ledger.open(row)
    row.engine = "engine-0"
    ledger.open_next_attempt(row)
    row.engine, row.usage, row.evidence = "engine-1", Usage(10, 20), UsageSource.EXACT
    ledger.settle(row)
    first, second = sorted(rows_of(ledger, database), key=lambda one: int(one["attempt"]))
    ledger.close()
    assert (first["attempt"], first["finish"], first["completion_tokens"]) == (1, "unseen", 0)
    assert (second["attempt"], second["finish"], second["completion_tokens"]) == (2, "completed", 20)
    assert (first["engine"], second["engine"]) == (None, "engine-1")
    assert second["latency_us"] == second["settled_us"] - second["opened_us"]


def test_the_gateways_id_survives_and_each_start_is_a_run_of_its_own(database: Engine, tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        ledger = Ledger(database, tmp_path)
        runs.append((ledger.gateway, ledger.run))
        ledger.close()
    assert runs[0][0] == runs[1][0]
    assert runs[0][1] != runs[1][1]
    with database.connect() as connection:
        known = connection.execute(select(gateway_runs.c.gateway, gateway_runs.c.run)).all()
    assert {tuple(one) for one in known} == set(runs)


def test_a_row_names_its_gateway_before_it_is_durable(database: Engine, tmp_path: Path) -> None:
    ledger = Ledger(database, tmp_path)
    row = LedgerEntry("req_1", "default", "admin", "base", None, None, False, "/v1/completions")
    ledger.open(row)
    (kept,) = rows_of(ledger, database)
    ledger.close()
    assert (kept["gateway"], kept["gateway_run"]) == (ledger.gateway, ledger.run)
