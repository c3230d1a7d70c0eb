"""A database that is away, full, locked, or whose file was taken away: nothing is lost, and everybody is told."""

import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from gateway.data_dir import DataDirInUseError, lock_data_dir
from gateway.database import away_error, open_database
from gateway.settings import Settings
from loadtest.mock_engine.app import MockServer, serving
from loadtest.mock_engine.engine import MockSettings
from tests.databases import Postgres, running_postgres
from tests.gateway.auth.conftest import PEPPER
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready
from tests.gateway.processes import gateway_process
from tests.waiting import eventually

ADMIN = {"authorization": f"Bearer {KEY}"}
AWAY = (503, "database_unavailable")


@pytest.fixture
def engine() -> Iterator[MockServer]:
    with serving(MockSettings(tokens=2, tells_tokens=True)) as server:
        yield server


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an answer that refuses in one sentence and says when to come back."""
    error = answer.json()["error"]
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        assert int(answer.headers["retry-after"]) > 0
        assert error["message"].endswith(".")
    return answer.status_code, error["code"]


def requests_in(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT count(*) FROM usage_ledger WHERE state = 'settled' AND key_id = 'admin'"
        return int(connection.execute(query).fetchone()[0])


def journal(data_dir: Path) -> bytes:
    """What the database does not have yet."""
    return b"".join(segment.read_bytes() for segment in (data_dir / "ledger").glob("*/0*"))


def move_away(data_dir: Path) -> Callable[[], object]:
    elsewhere = data_dir / "elsewhere.db"
    (data_dir / "turntable.db").rename(elsewhere)
    return lambda: elsewhere.rename(data_dir / "turntable.db")


def test_a_database_file_that_is_moved_away_and_back_loses_no_request_and_no_key(
    tmp_path: Path, engine: MockServer
) -> None:
    with gateway_process(tmp_path, engine.url) as gateway:
        assert eventually(gateway.is_ready)
        assert [gateway.chat().status_code for _ in range(5)] == [200] * 5
        made = gateway.http.post("/admin/v1/keys", json={"name": "before"}).json()
        put_back = move_away(tmp_path)
        assert refusal(gateway.chat()) == AWAY
        assert refusal(gateway.http.post("/admin/v1/keys", json={"name": "meanwhile"})) == AWAY
        assert refusal(gateway.http.get("/ready")) == AWAY
        assert eventually(lambda: "turntable.db was moved, deleted or replaced" in gateway.log)
        assert not (tmp_path / "turntable.db").exists(), "no other file takes its place"
        put_back()
        assert eventually(gateway.is_ready)
        assert eventually(lambda: "turntable.db is back" in gateway.log)
        assert [gateway.chat().status_code for _ in range(5)] == [200] * 5
        assert [key["id"] for key in gateway.http.get("/admin/v1/keys").json()["data"]] == [made["id"]]
        gateway.kill()
    with running_gateway(Settings(data_dir=tmp_path), engine.url):
        assert requests_in(tmp_path / "turntable.db") == 10


def test_what_runs_while_the_file_is_away_waits_in_the_journal_and_is_found_after_a_kill(
    tmp_path: Path, engine: MockServer
) -> None:
    slow = {"messages": [{"role": "user", "content": "hi"}], "model": "base", "stream": True}
    with gateway_process(tmp_path, engine.url) as gateway:
        assert eventually(gateway.is_ready)
        engine.engine.settings = MockSettings(tokens=100, itl_ms=10, tells_tokens=True)
        with gateway.http.stream("POST", "/v1/chat/completions", json=slow) as answer:
            lines = answer.iter_lines()
            next(lines)
            put_back = move_away(tmp_path)
            assert list(lines)[-2] == "data: [DONE]"
        assert eventually(lambda: b'"settled"' in journal(tmp_path))
        assert eventually(lambda: "they wait in the journal" in gateway.log)
        gateway.kill()
    put_back()
    with running_gateway(Settings(data_dir=tmp_path), engine.url):
        assert requests_in(tmp_path / "turntable.db") == 1


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_after_a_restart_a_gateway_goes_on_with_the_file_that_is_there_then(
    tmp_path: Path, engine: MockServer, how: str
) -> None:
    def ask(url: str, path: str) -> httpx.Response:
        body = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
        given = {"json": body} if path == "/v1/chat/completions" else {}
        return httpx.request("POST" if given else "GET", url + path, headers=ADMIN, **given)  # type: ignore[arg-type]

    with running_gateway(Settings(data_dir=tmp_path), engine.url) as url:
        wait_until_ready(url)
        path = tmp_path / "turntable.db"
        if how == "replaced":
            (tmp_path / "another.db").write_bytes(b"")
            (tmp_path / "another.db").rename(path)
        else:
            path.unlink()
        assert refusal(ask(url, "/v1/chat/completions")) == refusal(ask(url, "/ready")) == AWAY
    with running_gateway(Settings(data_dir=tmp_path), engine.url) as url:
        wait_until_ready(url)
        assert ask(url, "/v1/chat/completions").is_success


ASKED: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "feedback": ("POST", "/v1/feedback", {"request_id": "req_1", "rating": 1}),
    "new key": ("POST", "/admin/v1/keys", {"name": "k"}),
    "tenant": ("PUT", "/admin/v1/tenants/acme", {"rpm": 5}),
    "usage": ("GET", "/admin/v1/usage", None),
    "costs": ("GET", "/admin/v1/costs", None),
    "audit": ("GET", "/admin/v1/audit", None),
    "pruning": ("POST", "/admin/v1/usage/prune", {"before": "2020-01-01"}),
    "promotion": ("POST", "/admin/v1/adapters/mine/promote", {"version": 1}),
}


def asked(url: str, what: str) -> httpx.Response:
    method, path, body = ASKED[what]
    return httpx.request(method, url + path, json=body, headers=ADMIN, timeout=60)


@pytest.fixture(scope="module")
def stopped_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway whose PostgreSQL has stopped."""
    with running_postgres() as server, serving(MockSettings(tokens=2)) as engine:
        settings = Settings(data_dir=tmp_path_factory.mktemp("stopped"), database_url=server.empty(), key_pepper=PEPPER)
        with running_gateway(settings, engine.url) as url:
            wait_until_ready(url)
            server.stop()
            yield url


@pytest.mark.parametrize("what", [name for name in ASKED if name != "promotion"])
def test_while_postgresql_is_stopped_nothing_is_a_500(stopped_postgres: str, what: str) -> None:
    assert refusal(asked(stopped_postgres, what)) == AWAY


def test_requests_go_on_while_postgresql_is_stopped(stopped_postgres: str) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
    assert httpx.post(f"{stopped_postgres}/v1/chat/completions", json=body, headers=ADMIN).is_success


def test_connections_that_the_server_ended_are_no_error_to_anybody(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.migrated()
    settings = Settings(data_dir=tmp_path, database_url=url, key_pepper=PEPPER)
    killer = create_engine(url, isolation_level="AUTOCOMMIT")
    with serving(MockSettings(tokens=2)) as engine, running_gateway(settings, engine.url) as gateway:
        wait_until_ready(gateway)
        for what in ("new key", "usage", "tenant", "audit"):
            with killer.connect() as connection:
                connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            assert asked(gateway, what).is_success, what
    killer.dispose()


def test_a_locked_sqlite_file_is_a_503_for_changes_and_nothing_to_requests(tmp_path: Path, engine: MockServer) -> None:
    with running_gateway(Settings(data_dir=tmp_path), engine.url) as url:
        wait_until_ready(url)
        gateway = Attached(url, engine, tmp_path)
        with closing(sqlite3.connect(tmp_path / "turntable.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            assert refusal(asked(url, "new key")) == AWAY
            assert gateway.chat().is_success
            other.rollback()
        assert eventually(lambda: asked(url, "new key").is_success)
        gateway.http.close()


def test_on_a_full_disk_keys_are_a_503_and_come_back_with_the_room(tmp_path: Path, engine: MockServer) -> None:
    with gateway_process(tmp_path, engine.url) as gateway:
        assert eventually(gateway.is_ready)
        pid, (_, most) = gateway.process.pid, resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))
        assert refusal(gateway.http.post("/admin/v1/keys", json={"name": "k"})) == AWAY
        assert gateway.chat().status_code == httpx.codes.INSUFFICIENT_STORAGE
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
        assert eventually(lambda: gateway.http.post("/admin/v1/keys", json={"name": "k"}).is_success)
        assert gateway.chat().is_success


def test_a_disk_without_room_is_named_in_the_refusal(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'small.db'}")
    with database.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OperationalError) as full:
            connection.exec_driver_sql("CREATE TABLE more AS SELECT zeroblob(100000)")
    assert "The disk of the gateway's database is full" in str(away_error(full.value))
    database.dispose()


def test_a_second_gateway_on_one_data_directory_is_refused_with_the_address_of_the_first(
    tmp_path: Path, engine: MockServer
) -> None:
    with gateway_process(tmp_path, engine.url) as first:
        with pytest.raises(AssertionError, match="error: Another gateway uses the data directory") as refused:
            start(tmp_path, engine)
        assert f"process {first.process.pid}, {first.url}" in str(refused.value)


HOLD = """
import sys
from pathlib import Path
from gateway.data_dir import lock_data_dir

with lock_data_dir(Path(sys.argv[1]), sys.argv[2]):
    print(flush=True)
    sys.stdin.read()
"""


def test_the_data_of_a_gateway_that_was_killed_is_free(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'one' / 'turntable.db'}"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    command = [
        sys.executable,
        "-c",
        HOLD,
        str(tmp_path / "one"),
        url,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        for place, what in (("one", "the data directory"), ("two", "the SQLite file")):
            with pytest.raises(DataDirInUseError, match=f"uses {what} .*process {holder.pid}"):
                lock_data_dir(tmp_path / place, url).__enter__()
        with lock_data_dir(tmp_path / "two", "postgresql://shared/database"):
            pass
        holder.kill()
        holder.wait()
        with lock_data_dir(tmp_path / "one", url):
            pass


def test_an_admin_key_that_can_be_guessed_keeps_a_gateway_from_starting(tmp_path: Path, engine: MockServer) -> None:
    with pytest.raises(AssertionError, match="error: The admin key in the setting admin_key has 1 characters"):
        start(tmp_path, engine, admin_key="a")


def start(data_dir: Path, engine: MockServer, **settings: str) -> None:
    with gateway_process(data_dir, engine.url, **settings):
        pass
