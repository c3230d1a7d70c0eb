"""`turntable demo`: the whole loop on one machine, with the same commands that a user types.

Build the base model, serve it, lint data, train an adapter, publish it to the running engine, evaluate it against the
base model, promote it on that verdict, chat with it, and report what it cost. The demo fails when a step fails.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from openai import OpenAI, OpenAIError
from rich.console import Console

from adapters.admin_client import connect
from turntable.console import FAILED, App, CommandError
from turntable.options import DEFAULT_DATA_DIR, DataDir

EXAMPLE = Path(__file__).parent / "support-triage"
ADAPTER = "support-triage"
MESSAGE = (
    "Hi, I was charged twice for order 48213 on my card and I need the second payment back before Friday, "
    "please fix this today."
)
SYSTEM = "Triage the customer message. Reply with JSON: category, priority, summary."
_USD_PER_HOUR = "0.10"  # about what a small two-core cloud machine costs; any price can be given
_STEPS = 10

app = App()
console = Console(highlight=False)


class DemoError(CommandError):
    """A step of the demo failed; the message names it."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"demo failed: {sentence}", exit_code=FAILED)


@app.command(interrupted="interrupted; nothing is left running, and the next run continues with what is finished")
def demo(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Run the whole loop: base model, engine, data, training, publishing, evaluation, a chat, the cost report."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    shown = Demo(data_dir)
    shown.run()
    console.print()
    for seconds, title in shown.durations():
        console.print(f"{seconds:5.0f} s  {title}")
    console.print(f"The whole loop took {time.monotonic() - started:.0f} s. Next:")
    console.print("  make serve")
    body = f'{{"model":"{ADAPTER}","messages":[{{"role":"user","content":"{MESSAGE}"}}]}}'
    console.print(
        f'  curl -s localhost:8080/v1/chat/completions -H "Authorization: Bearer $(cat {data_dir}/admin.key)" '
        f"-d {shlex.quote(body)}",
        soft_wrap=True,
    )


class Demo:
    """The ten steps, on one data directory and one free port."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._begun: list[tuple[float, str]] = []
        self._port = _free_port()
        self._url = f"http://127.0.0.1:{self._port}"
        self._environment = os.environ | {"TURNTABLE_DATA_DIR": str(data_dir), "TURNTABLE_GATEWAY_URL": self._url}

    def run(self) -> None:
        """Run every step in order; raises `DemoError` at the first that fails."""
        self._step(1, "Build the embedded base model (once)")
        self._turntable("base", "build")
        self._step(2, "Start the gateway and a real vLLM engine")
        with self._gateway() as gateway:
            self._step(3, "Check the training data while the engine starts")
            self._turntable("data", "check", EXAMPLE / "train.jsonl", EXAMPLE / "test.jsonl")
            self._wait_until_ready(gateway)
            self._step(4, "Should it be fine-tuned at all?")
            self._turntable("advise", EXAMPLE / "case.toml")
            self._step(5, "Train a LoRA adapter")
            run_dir = self._data_dir / "runs" / f"demo-{time.strftime('%Y%m%dT%H%M%S')}"
            self._turntable("train", EXAMPLE / "recipe.toml", "--out", run_dir, "--task", EXAMPLE / "task.toml")
            self._step(6, "Publish it to the running engine, without traffic yet")
            self._turntable("adapters", "add", ADAPTER, run_dir)
            version = self._version_of(run_dir)
            self._step(7, "Evaluate base model and adapter on unseen messages, and record the verdict")
            self._turntable("compare", EXAMPLE / "task.toml", "--adapter", f"{ADAPTER}@{version}", "--record")
            self._step(8, "Promote it: the promotion gate requires a verdict on these weights")
            self._turntable("adapters", "promote", ADAPTER, version)
            self._turntable("report", ADAPTER)
            self._step(9, "Chat with it, streaming, with the OpenAI SDK")
            self._chat()
            self._step(10, "What it cost, and what frontier APIs would have charged")
            self._turntable("costs")

    def durations(self) -> list[tuple[float, str]]:
        """Seconds of each step so far, with its title."""
        ends = [begun for begun, _ in self._begun[1:]] + [time.monotonic()]
        return [(end - begun, title) for end, (begun, title) in zip(ends, self._begun, strict=True)]

    def _version_of(self, run_dir: Path) -> str:
        """The version of the run; an earlier one when the same bytes were published before."""
        digest = json.loads((run_dir / "training.json").read_text(encoding="utf-8"))["digest"]
        with connect(self._url, self._data_dir) as admin:
            versions = admin.request("GET", f"/adapters/{ADAPTER}")["versions"]
        return next(str(version["version"]) for version in versions if version["digest"] == digest)

    def _step(self, number: int, title: str) -> None:
        self._begun.append((time.monotonic(), title))
        console.rule(f"[bold]{number}/{_STEPS}  {title}", align="left")

    def _turntable(self, *arguments: str | Path) -> None:
        texts = [str(argument) for argument in arguments]
        console.print(f"[cyan]$ turntable {shlex.join(texts)}[/cyan]", soft_wrap=True)
        code = subprocess.run([_command(), *texts], env=self._environment, check=False).returncode
        if code:
            raise DemoError(f"`turntable {shlex.join(texts)}` ended with code {code}.")

    @contextmanager
    def _gateway(self) -> Iterator["subprocess.Popen[bytes]"]:
        options = ["--port", str(self._port), "--engine-port", "0", "--engine-usd-per-hour", _USD_PER_HOUR]
        console.print(f"[cyan]$ turntable serve {shlex.join(options)}[/cyan]", soft_wrap=True)
        gateway = subprocess.Popen([_command(), "serve", *options], env=self._environment)
        try:
            yield gateway
        finally:
            gateway.terminate()
            gateway.wait()

    def _wait_until_ready(self, gateway: "subprocess.Popen[bytes]") -> None:
        while gateway.poll() is None:
            try:
                if httpx.get(f"{self._url}/ready").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.2)
        raise DemoError("the gateway ended before its engine was ready (see above).")

    def _chat(self) -> None:
        key = (self._data_dir / "admin.key").read_text(encoding="utf-8").strip()
        console.print(f"[cyan]user:[/cyan] {MESSAGE}")
        console.print(f"[cyan]{ADAPTER}:[/cyan] ", end="")
        answer = ""
        try:
            with OpenAI(base_url=f"{self._url}/v1", api_key=key) as client:
                for chunk in client.chat.completions.create(
                    model=ADAPTER,
                    messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": MESSAGE}],
                    temperature=0,
                    max_tokens=96,
                    stream=True,
                ):
                    piece = chunk.choices[0].delta.content or ""
                    console.print(piece, end="", markup=False)
                    answer += piece
        except OpenAIError as error:
            raise DemoError(f"the chat request failed: {error}") from error
        console.print()
        if not answer.strip():
            raise DemoError("the adapter answered nothing.")


def _command() -> str:
    return str(Path(sys.executable).with_name("turntable"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    app()
