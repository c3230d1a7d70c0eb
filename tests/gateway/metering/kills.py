"""Killing a gateway at random moments under load, again and again, and what its ledger says afterwards.

The engine is a mock and attached: it outlives every gateway, and what it counted is the truth. `python -m
tests.gateway.metering.kills` does this a thousand times for `make soak`.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Protocol

import httpx
import typer
from sqlalchemy import create_engine, func, select

from gateway.costs.evidence import CostEvidenceStore, EvidenceKind
from gateway.database import open_database
from gateway.metering import spending, usage_ledger
from loadtest.bench.machine import machine
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockEngine, MockSettings, MockUsage
from tests.gateway.quota.conftest import WEIGHTS

KEY = "tt-kill-test"
CLIENTS = 6


@dataclass
class Outcome:
    """What came of it: `lost` requests that the engine saw and no row tells of, `doubled` tokens that are booked and
    were not worked, `missing` tokens the other way round.
    """

    kills: int
    requests_seen_by_engine: int = 0
    answered: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    evidence: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    unknown_answers: int = 0
    """Requests whose clients had the whole answer, and whose row does not say exactly what it took."""
    cut_after_answer: int = 0
    """Requests whose clients had the whole answer when the gateway died, before it could settle the row."""
    engine_tokens: int = 0
    doubled_tokens: int = 0
    missing_tokens: int = 0
    unpaid: int = 0
    """Rows of the clients' key without a cost, of requests that the engine worked on."""
    cost_nano_usd: int = 0
    """What the rows of the clients' key cost, those that were cut off too."""
    spent_nano_usd: int = 0
    """What its budget says was spent."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled, or left without a label, and the budget paid exactly what it all cost."""
        wrong = self.lost or self.unknown_answers or self.doubled_tokens or self.missing_tokens
        is_paid = not self.unpaid and self.cost_nano_usd == self.spent_nano_usd > 0
        return bool(self.rows) and not wrong and is_paid


def kill_again_and_again(
    folder: Path, database_url: str, *, kills: int, seed: int, say: Callable[[int], None] = lambda _: None
) -> Outcome:
    """Run a gateway on `folder` under load and kill it at a random moment, `kills` times; then let one find it all."""
    choose = random.Random(seed)
    answered: set[str] = set()
    settings = MockSettings(tokens=12, ttft_ms=2, itl_ms=4, tells_tokens=True)
    measured(database_url)
    with serving(settings) as engine, gateways(folder, database_url, engine.url) as start, ExitStack() as stack:
        gateway = start()
        gateway.wait_until_ready()
        key = gateway.make_key()
        clients = stack.enter_context(Clients(key.secret))
        gateway.kill()
        for number in range(kills):
            gateway = start()
            # One in five dies while it starts, the others under load.
            if choose.random() < 0.2:
                time.sleep(choose.uniform(0, 0.4))
                gateway.kill()
            else:
                gateway.wait_until_ready()
                seen = len(engine.engine.works)
                with clients.asking(gateway.port, answered, choose.randrange(1 << 30)):
                    while len(engine.engine.works) == seen:
                        time.sleep(0.002)
                    time.sleep(choose.uniform(0, 0.3))
                    gateway.kill()
            say(number + 1)
        gateway = start()
        gateway.wait_until_ready()
        outcome = _settled_outcome(kills, database_url, engine.engine, answered, key)
        gateway.kill()
    return outcome


def measured(database_url: str) -> None:
    """What a token costs on this engine is known, as if it had been calibrated."""
    database = open_database(database_url)
    CostEvidenceStore(database).add(EvidenceKind.WEIGHTS, WEIGHTS)
    database.dispose()


def serve(folder: Path, database_url: str, engine_url: str, port: int) -> None:
    """The gateway's process; runs until it is killed."""
    import uvicorn

    from gateway.app import Turntable
    from gateway.cli.listening import server_config
    from gateway.cli.startup import plan_for
    from gateway.settings import Settings
    from gateway.wiring import Setup

    settings = Settings(
        data_dir=folder, database_url=database_url, reconcile_every_s=0.1, engine_usd_per_hour=Decimal("3.6")
    )
    plan = plan_for(settings, None, is_cpu=False)
    setup = Setup(
        settings=settings,
        admin_key=KEY,
        engine_urls=[engine_url],
        spec=None,
        base_dir=None,
        announce=lambda _line: None,
        give_up=lambda _why: None,
        plan=plan,
    )
    listener = socket.create_server(("127.0.0.1", port))
    asyncio.run(uvicorn.Server(server_config(Turntable(setup), settings)).serve([listener]))


_FORKING = """
import json, os, signal, sys
import gateway.app, gateway.cli.startup, gateway.cli.listening, uvicorn
from tests.gateway.metering.kills import serve
from pathlib import Path

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # exited children are not waited for
for line in sys.stdin:
    folder, database_url, engine_url, port = json.loads(line)
    pid = os.fork()
    if not pid:
        serve(Path(folder), database_url, engine_url, port)
        os._exit(1)
    print(pid, flush=True)
"""
"""Gateways are forked from a process that has imported everything, so that a thousand starts take minutes."""


@dataclass(frozen=True)
class Key:
    """A key that the clients ask with."""

    id: str
    secret: str


@dataclass(frozen=True)
class Gateway:
    """A gateway's process."""

    pid: int
    port: int

    def wait_until_ready(self) -> None:
        """Return once it serves."""
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}") as http:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if http.get("/ready").status_code == httpx.codes.OK:
                        return
                assert Path(f"/proc/{self.pid}").exists(), "the gateway ended by itself"
                time.sleep(0.01)

    def make_key(self) -> Key:
        """A key with every limit and a budget, none of which it reaches; work has a price then."""
        fields = {"name": "k", "rpm": 10**6, "tpm": 10**9, "max_concurrency": 10**3, "budget_usd": "1000"}
        url, operator = f"http://127.0.0.1:{self.port}/admin/v1/keys", {"authorization": f"Bearer {KEY}"}
        made = httpx.post(url, json=fields, headers=operator).raise_for_status().json()
        key = Key(made["id"], made["key"])
        body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        asked = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        while not httpx.post(asked, json=body, headers={"authorization": f"Bearer {key.secret}"}).is_success:
            time.sleep(0.1)
        return key

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        while Path(f"/proc/{self.pid}").exists():
            time.sleep(0.005)


@contextlib.contextmanager
def gateways(
    folder: Path, database_url: str, engine_url: str, log: int | None = None
) -> Iterator[Callable[[], Gateway]]:
    """What starts a gateway on `folder`, always on the same port; `log` is a descriptor that gets what they write."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    order = json.dumps([str(folder), database_url, engine_url, port]) + "\n"
    command = [sys.executable, "-c", _FORKING]
    forks = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
    assert forks.stdin is not None
    assert forks.stdout is not None
    given, told = forks.stdin, forks.stdout

    def start() -> Gateway:
        given.write(order)
        given.flush()
        return Gateway(int(told.readline()), port)

    with forks:
        yield start
        given.close()


class Clients:
    """Clients that ask without a pause, streams and whole answers, and of which some leave early."""

    def __init__(self, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        tls = ssl.create_default_context()  # made once: it costs more than the clients
        self._clients = [httpx.Client(headers=headers, timeout=10, verify=tls) for _ in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    @contextlib.contextmanager
    def asking(self, port: int, answered: set[str], seed: int) -> Iterator[None]:
        is_over = threading.Event()
        asks = [
            threading.Thread(target=_ask_on, args=(http, port, answered, random.Random(seed + number), is_over))
            for number, http in enumerate(self._clients)
        ]
        for ask in asks:
            ask.start()
        try:
            yield
        finally:
            is_over.set()
            for ask in asks:
                ask.join()


def _ask_on(http: httpx.Client, port: int, answered: set[str], choose: random.Random, is_over: threading.Event) -> None:
    while not is_over.is_set():
        body: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "what time is it"}]}
        body["stream"] = choose.random() < 0.5
        name = f"client-{choose.getrandbits(64):x}"
        with contextlib.suppress(httpx.HTTPError):
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            _ask(http, url, body, name, answered, leaves=choose.random() < 0.2)


def _ask(http: httpx.Client, url: str, body: dict[str, Any], name: str, answered: set[str], *, leaves: bool) -> None:
    with http.stream("POST", url, json=body, headers={"x-request-id": name}) as response:
        if response.status_code != httpx.codes.OK or leaves:
            return
        text = "".join(response.iter_text())
        if not body["stream"] or text.endswith("data: [DONE]\n\n"):
            answered.add(name)


def _settled_outcome(kills: int, database_url: str, engine: MockEngine, answered: set[str], key: Key) -> Outcome:
    """The outcome once nothing is open and the engine was asked about what had been cut off."""
    database = create_engine(database_url)
    try:
        for _ in range(1000):
            outcome = outcome_of(kills, database, engine, answered, key)
            if outcome.is_clean and "open" not in outcome.rows:
                break
            time.sleep(0.02)
        return outcome
    finally:
        database.dispose()


class Counted(Protocol):
    """What an engine counted, in all and for each request."""

    works: dict[str, MockUsage]
    prompt_tokens: int
    generation_tokens: int


def outcome_of(kills: int, database: Any, engine: Counted, answered: set[str], key: Key) -> Outcome:
    """What the ledger says beside what the engine counted."""
    with database.connect() as connection:
        rows = connection.execute(select(usage_ledger)).all()
        spent = select(func.sum(spending.c.nano_usd)).where(spending.c.account == f"key:{key.id}")
        found = Outcome(kills, len(engine.works), len(answered), spent_nano_usd=int(connection.scalar(spent) or 0))
    costs = [row.cost_nano_usd for row in rows if row.key_id == key.id and (row.prompt_tokens or row.completion_tokens)]
    found.unpaid, found.cost_nano_usd = costs.count(None), sum(cost or 0 for cost in costs)
    tokens: dict[str, int] = {}
    states = {row.client_request_id: (row.state, row.evidence) for row in rows}
    for row in rows:
        found.rows[row.state] = found.rows.get(row.state, 0) + 1
        found.evidence[row.evidence or "none"] = found.evidence.get(row.evidence or "none", 0) + 1
        booked = (row.prompt_tokens or 0) + (row.completion_tokens or 0)
        tokens[row.request_id] = tokens.get(row.request_id, 0) + booked
    for request_id, work in engine.works.items():
        if request_id not in tokens:
            found.lost += 1
        difference = tokens.pop(request_id, 0) - work.prompt_tokens - work.generation_tokens
        found.doubled_tokens += max(0, difference)
        found.missing_tokens += max(0, -difference)
    found.doubled_tokens += sum(tokens.values())  # of requests that the engine never saw
    found.unknown_answers = sum(states.get(name, ("", ""))[1] != "exact" for name in answered)
    found.cut_after_answer = sum(states.get(name) == ("interrupted", "exact") for name in answered)
    found.engine_tokens = engine.prompt_tokens + engine.generation_tokens
    return found


def main(
    kills: Annotated[int, typer.Option(help="How often to kill.")] = 1000,
    seed: Annotated[int, typer.Option(help="For the moments.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """Kill a gateway again and again; exit code 1 when anything was lost, doubled or not labelled."""
    began_s = time.monotonic()

    def say(done: int) -> None:
        if done % 50 == 0:
            typer.echo(f"{done} kills, {time.monotonic() - began_s:.0f} s", err=True)

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/turntable.db"
        outcome = kill_again_and_again(Path(folder), url, kills=kills, seed=seed, say=say)
    document = asdict(outcome) | {"clean": outcome.is_clean, "seed": seed, "clients": CLIENTS, "machine": machine()}
    text = json.dumps(document | {"took_s": round(time.monotonic() - began_s)}, indent=2)
    typer.echo(text)
    if json_file is not None:
        json_file.write_text(text + "\n", encoding="utf-8")
    raise typer.Exit(not outcome.is_clean)


if __name__ == "__main__":
    typer.run(main)
