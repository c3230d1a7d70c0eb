"""Chaos under load: a gateway is killed, its engine stopped, its disk filled, its database taken away, its clients cut
off, at random moments and one in the other; keys are made and revoked meanwhile. Afterwards the ledger must be what the
engine counted, every change that was answered must hold, no process be left, and no fault have passed unseen.

The engine is a mock and a process of its own, so that it can be stopped. The disk is filled by the kernel's limit on
the size of a process's files, which holds for root as well and touches nothing outside. `python -m
tests.gateway.metering.chaos` does this for twenty minutes for `make soak-chaos`.
"""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from sqlalchemy import create_engine

from loadtest.bench.machine import machine
from loadtest.mock_engine.engine import MockUsage
from tests.databases import running_postgres
from tests.gateway.metering.kills import CLIENTS, KEY, Clients, Gateway, Outcome, gateways, measured, outcome_of
from tests.gateway.metering.kills import Key as ClientKey

ADMIN = {"authorization": f"Bearer {KEY}"}
CHAT = {"model": "base", "messages": [{"role": "user", "content": "what time is it"}], "max_tokens": 2}
_SETTLE_S = 60.0

_ENGINE = """
import json, sys
from dataclasses import asdict
from loadtest.mock_engine.engine import MockSettings
from loadtest.mock_engine.app import serving

with serving(MockSettings(tokens=12, ttft_ms=2, itl_ms=4, tells_tokens=True)) as server:
    print(server.url, flush=True)
    for _ in sys.stdin:  # each line asks what it has counted
        engine = server.engine
        works = {name: asdict(work) for name, work in engine.works.items()}
        print(json.dumps([works, engine.prompt_tokens, engine.generation_tokens]), flush=True)
"""


@dataclass
class Count:
    """What the engine counted, read from its process."""

    works: dict[str, MockUsage]
    prompt_tokens: int
    generation_tokens: int


class Engine:
    """A mock engine in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._asked, self._told = process, process.stdin, process.stdout
        self.pid = process.pid
        self.url = self._told.readline().strip()

    def count(self) -> Count:
        """What it has counted so far."""
        self._asked.write("\n")
        self._asked.flush()
        works, prompt_tokens, generation_tokens = json.loads(self._told.readline())
        return Count({name: MockUsage(**work) for name, work in works.items()}, prompt_tokens, generation_tokens)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The process stands still for as long as the block lasts."""
        os.kill(self._process.pid, signal.SIGSTOP)
        state = Path(f"/proc/{self._process.pid}/stat")
        while state.read_text().rpartition(")")[2].split()[0] != "T":  # its threads stop one after the other
            time.sleep(0.001)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)


@dataclass
class Report:
    """What was done and what is wrong afterwards."""

    faults: Counter[str] = field(default_factory=Counter)
    outcome: Outcome = field(default_factory=lambda: Outcome(0))
    keys_made: int = 0
    keys_revoked: int = 0
    refused_changes: int = 0
    """Changes of keys that were not answered with a success: they may be in effect or not."""
    lost_changes: list[str] = field(default_factory=list)
    """Changes that were answered with a success and are not in force."""
    unseen_faults: Counter[str] = field(default_factory=Counter)
    """Faults during which a request was answered as if nothing were wrong."""
    orphans: list[int] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.outcome.is_clean and not (self.lost_changes or self.unseen_faults or self.orphans)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        counts = {"faults": dict(self.faults), "unseen_faults": dict(self.unseen_faults)}
        return asdict(replace(self, faults=Counter(), unseen_faults=Counter())) | counts | {"clean": self.is_clean}


class Chaos:
    """One run: a gateway, its engine, its clients, and what is done to them."""

    def __init__(self, folder: Path, database_url: str, seed: int) -> None:
        self._folder = folder
        self._database_url = database_url
        self._choose = random.Random(seed)
        self.report = Report()
        self._pids: list[int] = []
        self._valid: dict[str, str] = {}
        self._revoked: dict[str, str] = {}
        self._http = httpx.Client(headers=ADMIN, timeout=20)

    def run(self, seconds: float) -> Report:
        """Do harm for so long, then let one gateway find it all."""
        answered: set[str] = set()
        measured(self._database_url)
        with ExitStack() as stack:
            log = stack.enter_context((self._folder / "gateways.log").open("ab"))
            command = [sys.executable, "-c", _ENGINE]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            self._engine = Engine(process)
            self._start = stack.enter_context(
                gateways(self._folder, self._database_url, self._engine.url, log.fileno())
            )
            self._gateway = self._begin()
            key = self._gateway.make_key()
            clients = stack.enter_context(Clients(key.secret))
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                with clients.asking(self._gateway.port, answered, self._choose.randrange(1 << 30)):
                    for _ in range(self._choose.randrange(1, 5)):
                        time.sleep(self._choose.uniform(0, 0.4))
                        self._change_a_key()
                        self._do_harm()
                # leaving this block ended what the clients had open: they were cut off as well
            self._settle(answered, key)
            self._check_keys()
            self._gateway.kill()
        self.report.orphans = [pid for pid in [*self._pids, self._engine.pid] if Path(f"/proc/{pid}").exists()]
        self._http.close()
        return self.report

    def _begin(self) -> Gateway:
        gateway = self._start()
        self._pids.append(gateway.pid)
        gateway.wait_until_ready()
        return gateway

    def _do_harm(self) -> None:
        kinds = ["kill", "stop", "fill"] + (["move"] if self._file else [])
        kind = self._choose.choice(kinds)
        self.report.faults[kind] += 1
        if kind == "kill":
            self._kill()
            return
        harm = {"stop": self._engine.stopped, "fill": self._full_disk, "move": self._moved_away}[kind]
        is_killed = self._choose.random() < 0.25
        with harm():
            if self._is_answered():
                self.report.unseen_faults[kind] += 1
            self._change_a_key()
            time.sleep(self._choose.uniform(0, 1))
            if is_killed:
                self.report.faults["kill"] += 1
                self._gateway.kill()
        if is_killed:
            self._gateway = self._begin()
        self._wait_until_answered()

    def _kill(self) -> None:
        self._gateway.kill()
        if self._is_answered():
            self.report.unseen_faults["kill"] += 1
        self._gateway = self._begin()

    @property
    def _file(self) -> Path | None:
        return Path(self._database_url.removeprefix("sqlite:///")) if self._database_url.startswith("sqlite") else None

    @contextlib.contextmanager
    def _full_disk(self) -> Iterator[None]:
        """No file of the gateway's process can grow."""
        pid, (_, most) = self._gateway.pid, resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))

    @contextlib.contextmanager
    def _moved_away(self) -> Iterator[None]:
        assert self._file is not None, "there is a file to be moved"
        elsewhere = self._file.with_name("elsewhere.db")
        self._file.rename(elsewhere)
        try:
            yield
        finally:
            elsewhere.rename(self._file)

    def _is_answered(self) -> bool:
        """Whether a request is answered as if nothing were wrong."""
        with contextlib.suppress(httpx.HTTPError):
            return self._http.post(self._url("/v1/chat/completions"), json=CHAT, timeout=0.5).is_success
        return False

    def _wait_until_answered(self) -> None:
        """The gateway comes back by itself once the harm is over."""
        until_s = time.monotonic() + _SETTLE_S
        while not self._is_answered():
            assert time.monotonic() < until_s, "the gateway did not come back by itself"
            time.sleep(0.02)

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._gateway.port}{path}"

    def _change_a_key(self) -> None:
        try:
            if self._valid and self._choose.random() < 0.4:
                key_id = self._choose.choice(sorted(self._valid))
                secret = self._valid.pop(key_id)  # unknown unless it is answered
                self._http.delete(self._url(f"/admin/v1/keys/{key_id}"), timeout=8).raise_for_status()
                self._revoked[key_id] = secret
                self.report.keys_revoked += 1
            else:
                made = self._http.post(self._url("/admin/v1/keys"), json={"name": "chaos"}, timeout=8)
                document = made.raise_for_status().json()
                self._valid[document["id"]] = document["key"]
                self.report.keys_made += 1
        except httpx.HTTPError:
            self.report.refused_changes += 1

    def _check_keys(self) -> None:
        for secrets, is_valid in ((self._valid, True), (self._revoked, False)):
            for key_id, secret in secrets.items():
                headers = {"authorization": f"Bearer {secret}"}
                status = self._http.get(self._url("/v1/models"), headers=headers).status_code
                if (status == httpx.codes.UNAUTHORIZED) is is_valid:
                    self.report.lost_changes.append(f"{key_id} should {'' if is_valid else 'not '}open anything")

    def _settle(self, answered: set[str], key: ClientKey) -> None:
        """Let a new gateway find what the last one left, and compare once nothing is open."""
        self._gateway.kill()
        self._gateway = self._begin()
        database = create_engine(self._database_url)
        until_s = time.monotonic() + _SETTLE_S
        kills = self.report.faults["kill"]
        while time.monotonic() < until_s:
            self.report.outcome = outcome_of(kills, database, self._engine.count(), answered, key)
            if self.report.outcome.is_clean and "open" not in self.report.outcome.rows:
                break
            time.sleep(0.1)
        database.dispose()


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long to do harm.")] = 20,
    seed: Annotated[int, typer.Option(help="For the moments.")] = 1,
    postgresql: Annotated[
        bool, typer.Option("--postgresql", help="On a PostgreSQL of its own, not on SQLite.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """Do harm at random; exit code 1 when anything was lost, doubled, left behind or passed over in silence."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{folder / 'turntable.db'}"
        if postgresql:
            url = stack.enter_context(running_postgres()).empty()
        report = Chaos(folder, url, seed).run(minutes * 60)
        if not report.is_clean:
            typer.echo((folder / "gateways.log").read_text(errors="replace")[-20_000:], err=True)
    kind = "postgresql" if postgresql else "sqlite"
    about = {"minutes": minutes, "seed": seed, "database": kind, "clients": CLIENTS, "machine": machine()}
    text = json.dumps(report.document() | about, indent=2)
    typer.echo(text)
    if json_file is not None:
        json_file.write_text(text + "\n", encoding="utf-8")
    raise typer.Exit(not report.is_clean)


if __name__ == "__main__":
    typer.run(main)
