"""The ledger: opened before, settled once, nothing lost when the process is killed."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from gateway.database import open_database
from gateway.ledger import Entry, Finish, Ledger
from gateway.usage import Evidence, Usage


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield engine
    engine.dispose()


def entry(request_id: str = "req_1") -> Entry:
    return Entry(
        request_id=request_id,
        tenant="default",
        key_id="admin",
        model="tone",
        adapter="tone",
        digest="0" * 64,
        stream=True,
        endpoint="/v1/chat/completions",
    )


async def test_a_row_is_open_before_it_is_settled(database: Engine) -> None:
    ledger, row = Ledger(database), entry()
    await ledger.open(row)
    assert [r["state"] for r in ledger.rows()] == ["open"]
    row.mark_first_byte()
    row.usage, row.evidence = Usage(10, 20, 4), Evidence.EXACT
    await ledger.settle(row)
    (settled,) = ledger.rows()
    ledger.close()
    assert settled["state"] == "settled"
    assert (settled["prompt_tokens"], settled["completion_tokens"], settled["cached_tokens"]) == (10, 20, 4)
    assert settled["finish"] == "completed"
    assert settled["ttft_us"] >= 0
    assert settled["settled_us"] >= settled["opened_us"]


async def test_a_settled_row_never_changes_again(database: Engine) -> None:
    ledger, row = Ledger(database), entry()
    await ledger.open(row)
    row.usage = Usage(1, 1)
    await ledger.settle(row)
    row.usage, row.finish = Usage(999, 999), Finish.CLIENT_ABORT
    await ledger.settle(row)
    (settled,) = ledger.rows()
    ledger.close()
    assert settled["completion_tokens"] == 1
    assert settled["finish"] == "completed"


async def test_many_rows_at_once_share_commits_and_all_arrive(database: Engine) -> None:
    ledger, rows = Ledger(database), [entry(f"req_{n}") for n in range(300)]
    await asyncio.gather(*(ledger.open(row) for row in rows))
    await asyncio.gather(*(ledger.settle(row) for row in rows))
    assert sorted(r["request_id"] for r in ledger.rows()) == sorted(row.request_id for row in rows)
    assert {r["state"] for r in ledger.rows()} == {"settled"}
    ledger.close()


async def test_a_row_of_the_same_request_is_refused(database: Engine) -> None:
    ledger = Ledger(database)
    await ledger.open(entry())
    with pytest.raises(Exception, match="usage ledger cannot be written"):
        await ledger.open(entry())
    assert len(ledger.rows()) == 1
    ledger.close()


KILLED_WHILE_WRITING = """
import asyncio, sys
from gateway.database import open_database
from gateway.ledger import Entry, Ledger

async def main():
    ledger = Ledger(open_database(sys.argv[1]))
    for n in range(100_000):
        row = Entry(f"req_{n}", "default", "admin", "base", None, None, False, "/v1/completions")
        await ledger.open(row)
        print(n, flush=True)
        if n % 2:
            await ledger.settle(row)

asyncio.run(main())
"""


def test_kill_dash_nine_loses_no_opened_row_and_labels_the_open_ones(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    writer = subprocess.Popen([sys.executable, "-c", KILLED_WHILE_WRITING, url], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(200)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    writer.stdout.close()
    database = open_database(url)
    ledger = Ledger(database)
    states = {row["request_id"]: row["state"] for row in ledger.rows()}
    ledger.close()
    database.dispose()
    assert {f"req_{n}" for n in acknowledged} <= states.keys()
    assert all(states[f"req_{n}"] == "interrupted" for n in acknowledged if n % 2 == 0)
    assert all(states[f"req_{n}"] == "settled" for n in acknowledged[:-1] if n % 2)
    assert "open" not in states.values()
    assert ledger.interrupted_at_start >= len(acknowledged) // 2
