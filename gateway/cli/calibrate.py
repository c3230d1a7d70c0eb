"""`turntable costs calibrate`: measure how much engine time a prompt, cached and output token takes on this engine."""

import asyncio
import random
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer

from adapters.admin_client import AdminClient, admin_key, connect, gateway_address
from adapters.errors import AdapterError
from turntable.console import CommandError, print_json, say
from turntable.options import DEFAULT_DATA_DIR, DEFAULT_GATEWAY, AsJson, DataDir, Gateway

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
    model: Annotated[str, typer.Option(help="The model to measure: the base model or an adapter.")] = "base",
    concurrency: Annotated[int, typer.Option(min=1, help="Concurrent requests.")] = 8,
    requests: Annotated[int, typer.Option(min=2, help="Requests per batch.")] = 8,
    prompt_words: Annotated[int, typer.Option(min=8, help="Words of a long prompt; a short one has one eighth.")] = 96,
    output_tokens: Annotated[
        int, typer.Option(min=8, help="Tokens of a long answer; a short one has one eighth.")
    ] = 32,
    repeats: Annotated[
        int, typer.Option(min=1, help="Rounds over all batch shapes; more rounds are more precise.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Random seed of prompts and order.")] = 1,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Measure the engine time per prompt, cached and output token by sending batches; cost reports use the result.

    Other clients' requests go on meanwhile: a batch that overlaps with them is repeated, and after some tries measured
    together with them.
    """
    from gateway.costs.calibration import design

    url = gateway_address(data_dir, gateway)
    with connect(url, data_dir) as admin:
        bench = _Calibration(admin, url, admin_key(data_dir), model, concurrency, requests, random.Random(seed))  # noqa: S311
        fact = bench.measure(design(prompt_words, output_tokens), repeats)
        admin.request("POST", "/costs/evidence/weights", json=fact)
    if as_json:
        print_json(fact)
        return
    say(
        f"{model}: {fact['prompt_ps'] / 1e6:,.1f} us of engine time per uncached prompt token, "
        f"{fact['cached_ps'] / 1e6:,.1f} per cached one, {fact['output_ps'] / 1e6:,.1f} per output token.\n"
        f"Error {fact['error_share']:.1%} of a batch's time (R squared {fact['r_squared']:.3f}) over {fact['batches']} "
        f"batches, {concurrency} concurrent requests."
    )


class _Calibration:
    """Sends batches as a client and reads their tokens and engine time from the gateway's cost report."""

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
        """Measure all batch shapes in random order, round by round, and fit the weights."""
        from gateway.costs.calibration import fit

        chars_per_token = asyncio.run(self._chars_per_token())
        order = [shape for _ in range(repeats) for shape in self._random.sample(shapes, len(shapes))]
        _progress(self._announcement(order))
        batches, mixed = [], 0
        for further in range(_FURTHER_ROUNDS, -1, -1):
            for number, shape in enumerate(order, 1):
                batch, others = self._isolated_batch(shape)
                batches.append(batch)
                mixed += bool(others)
                mixed_with = f", including {others} requests of other clients" if others else ""
                _progress(f"batch {number} of {len(order)}: {shape.name}: busy {batch.busy_us / 1e6:.2f} s{mixed_with}")
            found = fit(batches)
            if found.error_share <= _MOST_ERROR or not further:
                break
            _progress(f"the weights fit badly (error {found.error_share:.0%}); measuring all batches again")
        if found.error_share > _MOST_ERROR:
            busy = f", {mixed} of {len(batches)} batches include requests of other clients" if mixed else ""
            raise CommandError(
                f"The weights fit badly (error {found.error_share:.0%}{busy}); measure more with --repeats 3, or when "
                "the engine has less load."
            )
        return asdict(found) | {
            "batches": len(batches),
            "concurrency": self._concurrency,
            "model": self._model,
            "chars_per_token": chars_per_token,
        }

    def _announcement(self, order: "list[BatchShape]") -> str:
        """The expected duration, from requests of the longest shape, which also warm the engine up."""
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
            "present pace; other clients' requests go on and are slower meanwhile"
        )

    def _isolated_batch(self, shape: "BatchShape") -> "tuple[Batch, int]":
        """Measure a batch without other clients' requests, or after some tries with them; return their number."""
        for number in range(1, _TRIES + 1):
            batch, others = self._batch(shape)
            if not others:
                break
            if number < _TRIES:
                _progress(f"{shape.name}: {others} requests of other clients overlapped; measuring again")
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
        """The cost lines and the engine's busy seconds since a moment, once so many requests are in the ledger.

        The time window ends there, so that later requests of other clients are not in it.
        """
        until_s, end = time.monotonic() + _SETTLE_S, None
        while True:
            document = self._costs(since, end)
            seen = sum(line["requests"] for line in document["data"])
            if seen >= requests:
                if not any(line["unsettled"] for line in document["data"]):
                    return document["data"], document["engine_busy_s"]
                end = (
                    end or document["window"]["until"]
                )  # other clients' requests still run; their tokens arrive when they end
            if time.monotonic() > (until_s if end is None else until_s + _OTHERS_S):
                if end is not None:
                    raise CommandError(
                        "Other clients' requests have run for minutes; calibrate when the engine has less load."
                    )
                raise CommandError(
                    "The ledger does not show the requests that were just answered; look at the gateway's log."
                )
            time.sleep(0.05)

    def _now(self) -> str:
        """The gateway's clock: the end of an open time window."""
        return str(self._costs()["window"]["until"])

    def _costs(self, since: str | None = None, until: str | None = None) -> dict[str, Any]:
        return self._admin.get("/costs", since=since, until=until)

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
        """Characters per token of the base model, in English text; None when the engine has no /tokenize."""
        async with self._client() as http:
            try:
                response = await http.post("/tokenize", json={"model": self._model, "prompt": _SAMPLE})
            except httpx.HTTPError as error:
                raise _no_answer(error) from error
        count = response.json().get("count") if response.is_success else None
        return len(_SAMPLE) / count if count else None

    def _words(self, count: int) -> str:
        return " ".join(self._random.choice(_SAMPLE.split()) for _ in range(count))


async def _post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    try:
        response = await http.post(path, json=body)
    except httpx.HTTPError as error:
        raise _no_answer(error) from error
    if not response.is_success:
        message = response.json().get("error", {}).get("message", response.text[:200])
        raise AdapterError(f"The gateway refuses a request of the calibration: {message}")


def _no_answer(error: httpx.HTTPError) -> AdapterError:
    return AdapterError(
        f"The gateway does not answer ({error or type(error).__name__}); give another --gateway, or start one with "
        "`turntable serve`."
    )


def _progress(text: str) -> None:
    typer.echo(text, err=True)
