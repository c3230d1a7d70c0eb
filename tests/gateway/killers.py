"""Requests that kill or starve a vLLM 0.32.0 engine with LoRA enabled, each one seen to do so on the CPU build.

The engine had our patch `cpu-mixed-batch` and two adapters loaded. Without that patch, the requests for prompt
log-probabilities that "die" alone need other requests beside them, or `n`; the batch then dies just the same.
The patch `cpu-slow-lora` ends these deaths for all adapters that leave the LM head alone.
They are data for tests of the patch. `python -m tests.gateway.killers http://127.0.0.1:8001 NAME` sends one to a bare
engine (base model served as `base`, one adapter loaded as `ADAPTER`) and says what the engine's health is afterwards.
docs/decisions/0006 has the effect of each and what the gateway does with it.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx

Effect = Literal["dies", "dies in a batch", "starves others"]

ADAPTER = "adapter"
PROMPT = "one two three four five six seven eight nine ten"
# 700 levels pass every check of the API server and cannot be pickled for the worker; 480 still can.
FATAL_DEPTH = 700


@dataclass(frozen=True)
class Killer:
    """One request, the effect it had on the bare engine, and the field that a refusal should name."""

    name: str
    path: str
    body: Mapping[str, Any]
    effect: Effect
    param: str


def nested(depth: int) -> dict[str, Any]:
    """A JSON object that holds one object inside the other, `depth` levels deep."""
    value: dict[str, Any] = {"a": 1}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def completion(model: str = "base", **fields: Any) -> dict[str, Any]:
    """A harmless completion request, with `fields` set."""
    return {"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0} | fields


def chat(model: str = "base", **fields: Any) -> dict[str, Any]:
    """A harmless chat request, with `fields` set."""
    messages = [{"role": "user", "content": "hello there"}]
    return {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0} | fields


def chained_rules(count: int) -> str:
    """An EBNF grammar for the letter a, through `count` rules that each name the next."""
    links = [f"r{i} ::= r{i + 1}" for i in range(count)]
    return "\n".join(["root ::= r0", *links, f'r{count} ::= "a"'])


COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"

KILLERS = (
    Killer(
        "chat prompt_logprobs",
        CHAT,
        chat(prompt_logprobs=3, logprobs=True, top_logprobs=3),
        "dies",
        "prompt_logprobs",
    ),
    Killer(
        "chat prompt_logprobs of an adapter",
        CHAT,
        chat(ADAPTER, prompt_logprobs=3, logprobs=True, top_logprobs=3),
        "dies",
        "prompt_logprobs",
    ),
    Killer(
        "chat echo with top_logprobs", CHAT, chat(ADAPTER, echo=True, logprobs=True, top_logprobs=5), "dies", "echo"
    ),
    Killer("chat echo of nothing more", CHAT, chat(echo=True), "starves others", "echo"),
    Killer("prompt_logprobs of nothing", COMPLETIONS, completion(prompt_logprobs=0), "dies", "prompt_logprobs"),
    Killer("echo with logprobs", COMPLETIONS, completion(echo=True, logprobs=0), "dies", "echo"),
    Killer(
        "prompt_logprobs with n",
        COMPLETIONS,
        completion(prompt="hello there", prompt_logprobs=2, n=4, temperature=1),
        "dies",
        "prompt_logprobs",
    ),
    Killer(
        "prompt_logprobs of a two-token prompt",
        COMPLETIONS,
        completion(prompt="hello there", prompt_logprobs=5),
        "dies in a batch",
        "prompt_logprobs",
    ),
    Killer(
        "scoring a two-token prompt",
        COMPLETIONS,
        completion(prompt="hello there", echo=True, logprobs=5, max_tokens=0),
        "dies in a batch",
        "echo",
    ),
    Killer(
        "deep kv_transfer_params",
        COMPLETIONS,
        completion(kv_transfer_params=nested(FATAL_DEPTH)),
        "dies",
        "kv_transfer_params",
    ),
    Killer(
        "deep ec_transfer_params",
        COMPLETIONS,
        completion(ec_transfer_params=nested(FATAL_DEPTH)),
        "dies",
        "ec_transfer_params",
    ),
    Killer(
        "thousands of sequences",
        COMPLETIONS,
        completion(n=16384, max_tokens=100, ignore_eos=True, temperature=1),
        "starves others",
        "n",
    ),
)


def main() -> int:
    """Send the named request to the engine at the given URL; 1 when the engine is not healthy afterwards."""
    url, name = sys.argv[1:]
    killer = next(killer for killer in KILLERS if killer.name == name)
    with httpx.Client(base_url=url, timeout=60) as engine:
        answer = engine.post(killer.path, json=killer.body)
        health = engine.get("/health")
    print(f"{killer.name}: {answer.status_code} {answer.text[:200]!r}; /health: {health.status_code}")
    return 0 if health.status_code == httpx.codes.OK else 1


if __name__ == "__main__":
    sys.exit(main())
