"""The ledger itself: requests append to the journal, one thread folds the journal into the database.

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
from gateway.metering.entry import Entry
from gateway.metering.fold import Booking, Folding, demand_whole, rows_of
from gateway.metering.gateways import beat, gateway_id, sweep_gone, sweep_own
from gateway.metering.journal import Journal, JournalFullError, Segments, abandoned, living

log = logging.getLogger(__name__)
# A fold costs the same for one row as for fifty; nobody waits for it but readers, who hurry it.
_GATHER_S = 0.05
_RETRY_S = 1.0
_FLUSH_S = 10.0
_NEVER_TAKEN = (DataError, IntegrityError, ValueError, OverflowError)
"""What says that it is the line: everything else is taken for the database's fault, and the line waits."""

_AWAY = (OperationalError, DatabaseAwayError, OSError)
Soon = Callable[[Callable[[], None]], object]


class Ledger:
    """The usage ledger of one database, with its journal in `folder`, of at most `most_bytes` not yet folded.

    `soon` calls what it is given in a moment: an event loop's `call_soon`. Rows that are settled until then, or until
    the next row is opened, go to the disk in one write. Without it each has a write of its own, at once.
    """

    def __init__(self, database: Engine, folder: Path, *, most_bytes: int = 64 << 20, soon: Soon | None = None) -> None:
        self._database = database
        self._file = database_file(database)
        self._folding = Folding(database.dialect.name)
        self._booking = Booking(database.dialect.name)
        self._rejected = folder / "rejected"
        folder.mkdir(parents=True, exist_ok=True)
        self._rejected_lines = set(_lines_of(self._rejected))
        self.gateway = gateway_id(folder)
        self.ended_runs: list[str] = []
        """The runs of dead gateways whose journals were folded at this start."""
        self.interrupted_at_start = self._take_over(folder)
        self._journal = Journal(folder, most_bytes=most_bytes)
        self.run = self._journal.reader.run
        """A name that only this process has had, ever."""
        self.beat()
        self._has_news = threading.Event()
        self._hurry = threading.Event()
        self._folded = threading.Condition()
        self._is_closing = False
        self._unsettled: deque[bytes] = deque()
        self._soon: Soon = soon or (lambda write: write())
        self._folder_thread = threading.Thread(target=self._fold_forever, name="ledger", daemon=True)
        self._folder_thread.start()

    @property
    def waiting_bytes(self) -> int:
        """Size of what the database does not have yet."""
        return self._journal.waiting_bytes

    @property
    def unsettled(self) -> int:
        """Rows that the disk could not take yet."""
        return len(self._unsettled)

    @property
    def rejected(self) -> int:
        """Lines that were put aside, in earlier runs as well, because no database would take them."""
        return len(self._rejected_lines)

    def open(self, entry: Entry) -> None:
        """Make a row durable; raises `DiskError` when it cannot be, `DatabaseAwayError` when it would be lost later."""
        self._file.require()
        entry.gateway, entry.gateway_run = self.gateway, self.run
        try:
            self._journal.demand_room()
            self._write(entry.opened_line())
        except OSError as error:
            log.exception("ledger: opening a row failed")
            raise DiskError("The usage ledger cannot be written, so no request is taken; free that disk.") from error
        except JournalFullError as error:
            raise DiskError(
                "The usage ledger's database has been away for too long, so no request is taken; bring it back."
            ) from error

    def open_next_attempt(self, entry: Entry) -> None:
        """Book an attempt that no engine saw, and make the next one durable; raises `DiskError` when it cannot be."""
        self._unsettled.append(entry.unseen_line())
        entry.attempt += 1
        self.open(entry)

    def note(self, entry: Entry) -> None:
        """Keep what a running request has used so far, for the case that this process ends before the request does."""
        if not entry.is_settled:
            try:
                self._write(entry.progress_line())
            except OSError:
                log.warning("ledger: the progress of a request could not be noted", exc_info=True)

    def settle(self, entry: Entry) -> None:
        """Close a row, once; what the disk does not take now, it gets later."""
        if entry.is_settled:
            return
        entry.is_settled = True
        self._unsettled.append(entry.settled_line())
        if len(self._unsettled) == 1:
            self._soon(self.retry)

    def retry(self) -> None:
        """Write what the disk does not have yet; a full disk refuses new requests, so this stays a short list."""
        try:
            if self._unsettled:
                self._write(b"")
        except OSError:
            log.exception("ledger: %d rows wait for the disk to be settled", len(self._unsettled))

    def flush(self, wait_s: float = _FLUSH_S) -> bool:
        """Wait until the database has what was written before this call; False when that takes too long."""
        journal = self._journal
        wanted = journal.written_bytes
        self._hurry.set()
        self._has_news.set()
        with self._folded:
            return self._folded.wait_for(lambda: journal.reader.folded_bytes >= wanted, wait_s)

    def beat(self) -> None:
        """Say that this gateway lives, and mark what gateways left open that do no more; blocks."""
        with self._database.begin() as connection:
            beat(connection, self.gateway, self.run)
            if swept := sweep_gone(connection):
                log.warning("ledger: %d rows of gateways that are gone are marked as interrupted", swept)

    def close(self) -> None:
        """Fold what is there and stop; what the database does not take stays in the journal for the next start."""
        self.retry()
        self._is_closing = True
        self._hurry.set()
        self._has_news.set()
        self._folder_thread.join()
        self._journal.close()

    def _write(self, line: bytes) -> None:
        """Append what waits, then a line: all of it or nothing."""
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
            except Exception as error:  # whatever it is, the thread lives and tries again
                is_known = isinstance(error, _AWAY)
                trace = None if is_known else error
                log.error(
                    "ledger: rows cannot be taken over (%s); they wait in the journal", _reason(error), exc_info=trace
                )
                self._has_news.set()
                if not is_last:
                    self._hurry.wait(_RETRY_S)
            with self._folded:
                self._folded.notify_all()

    def _take_over(self, folder: Path) -> int:
        """Fold what dead processes left here, and mark the rows that they left open."""
        for left in abandoned(folder):
            self._fold_all(left)
            self.ended_runs.append(left.run)
        with self._database.begin() as connection:
            return sweep_own(connection, self.gateway, living(folder))

    def _fold_all(self, segments: Segments) -> None:
        while data := segments.read():
            lines = data.splitlines()
            try:
                self._fold(lines, segments.run)
            except _AWAY:
                raise
            except Exception:
                self._fold_one_by_one(lines, segments.run)
            segments.done()

    def _fold(self, lines: Sequence[bytes], run: str) -> None:
        rows, charged = rows_of(lines, self.gateway, run)
        with self._database.begin() as connection:
            self._booking.book(connection, charged)
            self._folding.fold(connection, rows)
        self._file.require()  # what was committed into a file that is gone stays in the journal, and is folded again

    def _fold_one_by_one(self, lines: Sequence[bytes], run: str) -> None:
        """Put lines aside that the database will never take, so that they do not stand in everybody's way."""
        for line in lines:
            try:
                demand_whole(line)
                self._fold([line], run)
            except _NEVER_TAKEN as error:
                self._put_aside(line, error)

    def _put_aside(self, line: bytes, error: Exception) -> None:
        if line in self._rejected_lines:
            return  # the disk was full, or the database away, before the rest of its batch was through
        log.error("ledger: a line was put aside in %s (%s)", self._rejected, _reason(error))
        with self._rejected.open("ab") as rejected:
            rejected.write(line + b"\n")
        self._rejected_lines.add(line)


def _lines_of(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines()
    except OSError:
        return []


def _reason(error: Exception) -> str:
    return str(error.__cause__ or error).partition("\n")[0]
