"""`turntable costs calibrate`: measures on this very engine how long each kind of token keeps it busy."""

import asyncio
import random
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console

from adapters.admin_client import AdminClient, admin_key, connect
from adapters.errors import AdapterError
from gateway.cli.gateway_options import DATA, URL, AsJson, DataDir, Gateway
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.costs.calibration import Batch, BatchShape

_SETTLE_S = 10.0
_TIMEOUT = httpx.Timeout(300.0, connect=10.0)
_OTHERS_S = 120.0
_MOST_ERROR = 0.5
_TRIES = 3
_FURTHER_ROUNDS = 2
# Of a generated token's time, for the announcement alone.
_PROMPT_SHARE = 0.1
_SAMPLE = (
    "The invoice of last month shows two payments for one order. Please check which of them is right, return the "
    "other, and write to the customer when that is done. She asked for an answer before Friday and has attached the "
    "statement of her bank, where both amounts can be seen with their dates."
)


def calibrate(
    model: Annotated[str, typer.Option(help="Ask this model: the base, or an adapter.")] = "base",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    requests: Annotated[int, typer.Option(min=2, help="Requests per batch.")] = 8,
    prompt_words: Annotated[int, typer.Option(min=8, help="Words of a long prompt; a short one has an eighth.")] = 96,
    output_tokens: Annotated[int, typer.Option(min=8, help="Tokens of a long answer; a short one has an eighth.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds over all shapes; more of them measure better.")] = 1,
    seed: Annotated[int, typer.Option(help="Of prompts and order.")] = 1,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Measure how much engine time a token of each kind takes, by load on this engine; costs go by it from then on.

    Requests of others may run meanwhile: a batch that they came into is repeated, and in the end counted with them.
    """
    from gateway.costs.calibration import design

    try:
        with connect(gateway, data_dir) as admin:
            bench = _Bench(admin, gateway, admin_key(data_dir), model, concurrency, requests, random.Random(seed))  # noqa: S311
            fact = bench.measure(design(prompt_words, output_tokens), repeats)
            admin.request("POST", "/costs/evidence/weights", json=fact)
    except (AdapterError, GatewayError) as error:
        _fail(str(error))
    if as_json:
        Console().print_json(data=fact)
        return
    Console().print(
        f"{model}: {fact['prompt_ps'] / 1e6:,.1f} us of engine time per uncached prompt token, "
        f"{fact['cached_ps'] / 1e6:,.1f} per cached one, {fact['output_ps'] / 1e6:,.1f} per generated one.\n"
        f"Error {fact['error_share']:.1%} of a batch's time (R squared {fact['r_squared']:.3f}) over {fact['batches']} "
        f"batches, {concurrency} requests at a time."
    )


class _Bench:
    """Sends batches as any client does, and asks the gateway's own books what they were."""

    def __init__(
        self,
        admin: AdminClient,
        url: str,
        key: str,
        model: str,
        concurrency: int,
        requests: int,
        choice: random.Random,
    ) -> None:
        self._admin = admin
        self._url, self._key = url, key
        self._model = model
        self._concurrency = concurrency
        self._requests = requests
        self._random = choice

    def measure(self, shapes: "list[BatchShape]", repeats: int) -> dict[str, Any]:
        """All shapes in random order, round by round, and what fits them."""
        from gateway.costs.calibration import fit

        chars_per_token = asyncio.run(self._chars_per_token())
        order = [shape for _ in range(repeats) for shape in self._random.sample(shapes, len(shapes))]
        _progress(self._announcement(order))
        batches, mixed = [], 0
        for further in range(_FURTHER_ROUNDS, -1, -1):
            for number, shape in enumerate(order, 1):
                batch, others = self._quiet_batch(shape)
                batches.append(batch)
                mixed += bool(others)
                told = f", {others} requests of others counted in" if others else ""
                _progress(f"batch {number} of {len(order)}: {shape.name}: busy {batch.busy_us / 1e6:.2f} s{told}")
            found = fit(batches)
            if found.error_share <= _MOST_ERROR or not further:
                break
            _progress(f"these batches fit badly (error {found.error_share:.0%}); all of them once more")
        if found.error_share > _MOST_ERROR:
            busy = f", {mixed} of {len(batches)} batches had requests of others in them" if mixed else ""
            _fail(
                f"The weights fit badly (error {found.error_share:.0%}{busy}); measure more with --repeats 3, or when "
                "less is asked of this engine."
            )
        return asdict(found) | {
            "batches": len(batches),
            "concurrency": self._concurrency,
            "model": self._model,
            "chars_per_token": chars_per_token,
        }

    def _announcement(self, order: "list[BatchShape]") -> str:
        """How long it will take, judged by requests of the longest shape, which also warm the engine up."""
        longest = max(order, key=lambda shape: (shape.prompt_words, shape.output_tokens))
        together = min(self._concurrency, self._requests)
        began_s = time.monotonic()
        asyncio.run(self._send([self._words(longest.prompt_words) for _ in range(together)], longest.output_tokens))
        took_s = time.monotonic() - began_s
        rounds = -(-self._requests // together)
        parts = sum(shape.prompt_words * _PROMPT_SHARE + shape.output_tokens for shape in order)
        whole = longest.prompt_words * _PROMPT_SHARE + longest.output_tokens
        wanted_s = took_s * rounds * parts / whole
        return (
            f"{len(order)} batches of {self._requests} requests, about {max(1, round(wanted_s))} s at the engine's "
            "present pace; requests of others go on and are slower meanwhile"
        )

    def _quiet_batch(self, shape: "BatchShape") -> "tuple[Batch, int]":
        """A batch without requests of others; after some tries one with them, and how many they were."""
        for number in range(1, _TRIES + 1):
            batch, others = self._batch(shape)
            if not others:
                break
            if number < _TRIES:
                _progress(f"{shape.name}: {others} requests of others came in between; once more")
        return batch, others

    def _batch(self, shape: "BatchShape") -> "tuple[Batch, int]":
        from gateway.costs.calibration import Batch

        prompts = [self._words(shape.prompt_words) for _ in range(self._requests)]
        if shape.is_cached:
            prompts = [prompts[0]] * self._requests
            asyncio.run(self._send(prompts[:1], 1))
            self._settled_since(self._now(), 0)
        since = self._now()
        asyncio.run(self._send(prompts, shape.output_tokens))
        lines, busy_s = self._settled_since(since, self._requests)
        prompt, cached, output = (
            sum(line[kind] for line in lines) for kind in ("prompt_tokens", "cached_tokens", "completion_tokens")
        )
        others = sum(line["requests"] for line in lines) - self._requests
        return Batch(prompt - cached, cached, output, round(busy_s * 1e6)), others

    def _settled_since(self, since: str, requests: int) -> tuple[list[dict[str, Any]], float]:
        """The lines of the bill and the busy time since a moment, once so many requests are on the ledger.

        The window ends when they are there: what others ask for later is not in it.
        """
        until_s, end = time.monotonic() + _SETTLE_S, None
        while True:
            document = self._costs(since, end)
            seen = sum(line["requests"] for line in document["data"])
            if seen >= requests:
                if not any(line["unsettled"] for line in document["data"]):
                    return document["data"], document["engine_busy_s"]
                end = end or document["window"]["until"]  # of others, which still run: their tokens come with their end
            if time.monotonic() > (until_s if end is None else until_s + _OTHERS_S):
                if end is not None:
                    _fail("Requests of others run for minutes without an end; calibrate when less is asked of it.")
                _fail("The ledger does not show the requests that were just answered; look at the gateway's log.")
            time.sleep(0.05)

    def _now(self) -> str:
        """The gateway's clock: the end of a window without end."""
        return str(self._costs()["window"]["until"])

    def _costs(self, since: str | None = None, until: str | None = None) -> dict[str, Any]:
        asked = {"since": since, "until": until}
        return self._admin.request("GET", "/costs", params={name: at for name, at in asked.items() if at is not None})

    async def _send(self, prompts: list[str], output_tokens: int) -> None:
        limit = asyncio.Semaphore(self._concurrency)
        async with self._client() as http:

            async def ask(prompt: str) -> None:
                async with limit:
                    await _post(http, "/v1/chat/completions", self._body(prompt, output_tokens))

            try:
                async with asyncio.TaskGroup() as group:
                    for prompt in prompts:
                        group.create_task(ask(prompt))
            except* AdapterError as errors:
                raise errors.exceptions[0] from None

    def _client(self) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self._key}"}
        return httpx.AsyncClient(base_url=self._url, headers=headers, timeout=_TIMEOUT, trust_env=False)

    def _body(self, prompt: str, output_tokens: int) -> dict[str, Any]:
        exact = {"max_tokens": output_tokens, "min_tokens": output_tokens, "ignore_eos": True, "temperature": 0}
        return {"model": self._model, "messages": [{"role": "user", "content": prompt}], **exact}

    async def _chars_per_token(self) -> float | None:
        """How long the base's tokens are, in English text; None when the engine does not tell."""
        async with self._client() as http:
            response = await http.post("/tokenize", json={"model": self._model, "prompt": _SAMPLE})
        count = response.json().get("count") if response.is_success else None
        return len(_SAMPLE) / count if count else None

    def _words(self, count: int) -> str:
        return " ".join(self._random.choice(_SAMPLE.split()) for _ in range(count))


async def _post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    try:
        response = await http.post(path, json=body)
    except httpx.HTTPError as error:
        raise AdapterError(f"The gateway does not answer ({error or type(error).__name__}).") from error
    if not response.is_success:
        message = response.json().get("error", {}).get("message", response.text[:200])
        raise AdapterError(f"The gateway refuses a request of the calibration: {message}")


def _progress(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"error: {sentence}", err=True)
    sys.exit(2)
