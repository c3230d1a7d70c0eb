"""The usage ledger: requests append to the journal, one thread folds the journal into the database.

A row that a crash left open is marked `interrupted`, never lost and never counted twice (`gateways.py`). While the
database is away, the journal grows; once it holds as much as it may, requests are refused.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from gateway.database import database_file
from gateway.errors import DatabaseAwayError, DiskError
from gateway.metering.entry import LedgerEntry
from gateway.metering.fold import RowWriter, SpendingWriter, parse_lines, validate_line
from gateway.metering.gateways import gateway_id, heartbeat, interrupt_lost_rows, interrupt_own_rows
from gateway.metering.journal import JournalFullError, LedgerJournal, SegmentReader, abandoned_journals, live_journals

log = logging.getLogger(__name__)
# A fold costs the same for one row as for fifty; only readers wait for it, and they hurry it.
_GATHER_S = 0.05
_RETRY_S = 1.0
_FLUSH_S = 10.0
_BAD_LINE = (DataError, IntegrityError, ValueError, OverflowError)
"""Errors that are the line's fault. All others are the database's, and the line waits."""
_AWAY = (OperationalError, DatabaseAwayError, OSError)
CallSoon = Callable[[Callable[[], None]], object]


class Ledger:
    """The usage ledger of one database, with its journal in `folder`, of at most `most_bytes` not yet folded.

    `soon` is an event loop's `call_soon`: rows settled before it calls back, or before the next row is opened, go to
    the disk in one write. Without it each row is written at once.
    """

    def __init__(
        self, database: Engine, folder: Path, *, most_bytes: int = 64 << 20, soon: CallSoon | None = None
    ) -> None:
        self._database = database
        self._file = database_file(database)
        self._rows = RowWriter(database.dialect.name)
        self._spending = SpendingWriter(database.dialect.name)
        self._rejected_file = folder / "rejected"
        folder.mkdir(parents=True, exist_ok=True)
        self._rejected_lines = set(_lines_of(self._rejected_file))
        self.gateway = gateway_id(folder)
        self.ended_runs: list[str] = []
        """Runs of dead gateway processes whose journals were folded at this start."""
        self.interrupted_at_start = self._take_over(folder)
        self._journal = LedgerJournal(folder, most_bytes=most_bytes)
        self.run = self._journal.reader.run
        """Id of this gateway process, never used before or again."""
        self.heartbeat()
        self._has_news = threading.Event()
        self._hurry = threading.Event()
        self._folded = threading.Condition()
        self._is_closing = False
        self._unsettled: deque[bytes] = deque()
        self._soon: CallSoon = soon or (lambda write: write())
        self._folder_thread = threading.Thread(target=self._fold_forever, name="ledger", daemon=True)
        self._folder_thread.start()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the journal that are not in the database yet."""
        return self._journal.waiting_bytes

    @property
    def unsettled(self) -> int:
        """Number of settled rows that the disk has not taken yet."""
        return len(self._unsettled)

    @property
    def rejected(self) -> int:
        """Number of rejected journal lines, those of earlier runs included."""
        return len(self._rejected_lines)

    def open(self, entry: LedgerEntry) -> None:
        """Make a row durable; raises `DiskError` when it cannot be, `DatabaseAwayError` when it would be lost later."""
        self._file.require()
        entry.gateway, entry.gateway_run = self.gateway, self.run
        try:
            self._journal.require_room()
            self._write(entry.opened_line())
        except OSError as error:
            log.exception("ledger: opening a row failed")
            raise DiskError("The usage ledger cannot be written, so no request is taken; free that disk.") from error
        except JournalFullError as error:
            raise DiskError(
                "The usage ledger's database has been away for too long, so no request is taken; bring it back."
            ) from error

    def open_next_attempt(self, entry: LedgerEntry) -> None:
        """Settle an attempt that no engine saw and open the next one; raises `DiskError` when it cannot be durable."""
        self._unsettled.append(entry.unseen_line())
        entry.attempt += 1
        self.open(entry)

    def note(self, entry: LedgerEntry) -> None:
        """Write the usage so far of a running request, in case this process ends before the request does."""
        if not entry.is_settled:
            try:
                self._write(entry.progress_line())
            except OSError:
                log.warning("ledger: the progress of a request could not be written", exc_info=True)

    def settle(self, entry: LedgerEntry) -> None:
        """Settle a row once; after a disk error it is written later."""
        if entry.is_settled:
            return
        entry.is_settled = True
        self._unsettled.append(entry.settled_line())
        if len(self._unsettled) == 1:
            self._soon(self.retry)

    def retry(self) -> None:
        """Write settled rows that the disk has not taken yet; few, since new requests are refused on a full disk."""
        try:
            if self._unsettled:
                self._write(b"")
        except OSError:
            log.exception("ledger: %d settled rows wait for the disk", len(self._unsettled))

    def flush(self, wait_s: float = _FLUSH_S) -> bool:
        """Wait until the database has everything written before this call; False after `wait_s` without that."""
        journal = self._journal
        wanted = journal.written_bytes
        self._hurry.set()
        self._has_news.set()
        with self._folded:
            return self._folded.wait_for(lambda: journal.reader.folded_bytes >= wanted, wait_s)

    def heartbeat(self) -> None:
        """Record that this process is alive, and interrupt the open rows of processes that are not; blocks."""
        with self._database.begin() as connection:
            heartbeat(connection, self.gateway, self.run)
            if interrupted := interrupt_lost_rows(connection):
                log.warning("ledger: %d rows of gateways that are gone are marked as interrupted", interrupted)

    def close(self) -> None:
        """Fold the journal and stop; lines that the database does not accept stay for the next start."""
        self.retry()
        self._is_closing = True
        self._hurry.set()
        self._has_news.set()
        self._folder_thread.join()
        self._journal.close()

    def _write(self, line: bytes) -> None:
        """Append the settled rows that wait, then a line: all or nothing."""
        if waiting := len(self._unsettled):
            line = b"".join(self._unsettled) + line
        self._journal.append(line)
        for _ in range(waiting):
            self._unsettled.popleft()
        if not self._has_news.is_set():
            self._has_news.set()

    def _fold_forever(self) -> None:
        is_last = False
        while not is_last:
            self._has_news.wait()
            self._hurry.wait(_GATHER_S)
            self._hurry.clear()
            self._has_news.clear()
            is_last = self._is_closing
            try:
                self._fold_all(self._journal.reader)
            except Exception as error:  # after any error the thread continues and retries
                trace = None if isinstance(error, _AWAY) else error
                log.error(
                    "ledger: rows cannot be folded (%s); they wait in the journal", _reason(error), exc_info=trace
                )
                self._has_news.set()
                if not is_last:
                    self._hurry.wait(_RETRY_S)
            with self._folded:
                self._folded.notify_all()

    def _take_over(self, folder: Path) -> int:
        """Fold the journals of dead processes and interrupt the rows they left open; returns how many rows."""
        for left in abandoned_journals(folder):
            self._fold_all(left)
            self.ended_runs.append(left.run)
        with self._database.begin() as connection:
            return interrupt_own_rows(connection, self.gateway, live_journals(folder))

    def _fold_all(self, segments: SegmentReader) -> None:
        while data := segments.read():
            lines = data.splitlines()
            try:
                self._fold(lines, segments.run)
            except _AWAY:
                raise
            except Exception:
                self._fold_one_by_one(lines, segments.run)
            segments.commit()

    def _fold(self, lines: Sequence[bytes], run: str) -> None:
        rows, charged = parse_lines(lines, self.gateway, run)
        with self._database.begin() as connection:
            self._spending.add_rows(connection, charged)
            self._rows.write(connection, rows)
        self._file.require()  # rows committed to a lost file stay in the journal, and are folded again

    def _fold_one_by_one(self, lines: Sequence[bytes], run: str) -> None:
        """Reject the lines that no database would take, so that they do not hold up the others."""
        for line in lines:
            try:
                validate_line(line)
                self._fold([line], run)
            except _BAD_LINE as error:
                self._reject(line, error)

    def _reject(self, line: bytes, error: Exception) -> None:
        if line in self._rejected_lines:
            return  # the disk was full, or the database away, before the rest of its batch was through
        log.error("ledger: a journal line was rejected and kept in %s (%s)", self._rejected_file, _reason(error))
        with self._rejected_file.open("ab") as rejected:
            rejected.write(line + b"\n")
        self._rejected_lines.add(line)


def _lines_of(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines()
    except OSError:
        return []


def _reason(error: Exception) -> str:
    return str(error.__cause__ or error).partition("\n")[0]
