"""The JSON of vLLM 0.32 in its own key order: chat answers, stream chunks, model cards and errors.

vLLM leaves out what was never set and keeps what was set to null, so chunks differ in their keys; the tests compare
these bodies with ones captured from a real engine.
"""

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import orjson

FINGERPRINT = "vllm-0.32.0-ca00ed00"
VERSION = "0.32.0"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: `tokens` words, and the usage it claims (`prompt_tokens` counts the words of the messages)."""

    id: str
    created: int
    model: str
    prompt_tokens: int
    tokens: int
    claimed_tokens: int
    finish_reason: str

    @classmethod
    def of(cls, body: dict[str, Any], tokens: int, *, overclaim: bool = False) -> Self:
        """Return the reply to a checked chat request: `tokens` words, or as many as the request allows."""
        limit = int(body.get("max_completion_tokens") or body.get("max_tokens") or 0)
        cut = bool(limit) and (limit <= tokens or bool(body.get("ignore_eos")))
        count = limit if cut else tokens
        return cls(
            id=f"chatcmpl-{uuid.uuid4().hex[:16]}",
            created=int(time.time()),
            model=body["model"],
            prompt_tokens=sum(len(str(message.get("content") or "").split()) for message in body["messages"]),
            tokens=count,
            claimed_tokens=count + overclaim,
            finish_reason="length" if cut else "stop",
        )

    def usage(self, completion_tokens: int) -> dict[str, Any]:
        """Return the usage object after so many tokens."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "completion_tokens": completion_tokens,
        }

    def body(self) -> bytes:
        """Return the body for a request without `stream`."""
        message = {
            "role": "assistant",
            "content": "".join(_word(index) for index in range(self.tokens)),
            **dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning")),
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self.finish_reason,
            **dict.fromkeys(("stop_reason", "token_ids", "routed_experts")),
        }
        usage = self.usage(self.claimed_tokens)
        return orjson.dumps(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.model,
                "choices": [choice],
                "service_tier": None,
                "system_fingerprint": FINGERPRINT,
                "usage": usage | {"prompt_tokens_details": None, "completion_tokens_details": None},
                **dict.fromkeys(("prompt_logprobs", "prompt_token_ids", "prompt_text")),
                **dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics")),
            }
        )

    def opening(self, *, continuous: bool) -> bytes:
        """Return the first event: the role without text."""
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        tail = self._running_usage(0, continuous=continuous) | {"prompt_token_ids": None, "prompt_text": None}
        return self._event([choice], tail)

    def words(self, *, include_usage: bool, continuous: bool) -> Iterator[bytes]:
        """Yield one event per token; the last one carries the finish reason."""
        for index in range(self.tokens):
            last = index == self.tokens - 1
            choice: dict[str, Any] = {
                "index": 0,
                "delta": {"content": _word(index)},
                "logprobs": None,
                "finish_reason": self.finish_reason if last else None,
            }
            choice |= {"stop_reason": None, "token_ids": None} if last else {"token_ids": None}
            tail = {"system_fingerprint": FINGERPRINT} if last and not include_usage else {}
            yield self._event([choice], tail | self._running_usage(index + 1, continuous=continuous))

    def closing_usage(self) -> bytes:
        """Return the event without choices that `include_usage` requests."""
        return self._event([], {"usage": self.usage(self.claimed_tokens), "system_fingerprint": FINGERPRINT})

    def _running_usage(self, completion_tokens: int, *, continuous: bool) -> dict[str, Any]:
        if not continuous:
            return {}
        return {"usage": self.usage(completion_tokens) | {"completion_tokens_details": None}}

    def _event(self, choices: list[dict[str, Any]], tail: dict[str, Any]) -> bytes:
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created}
        return b"data: " + orjson.dumps(head | {"model": self.model, "choices": choices} | tail) + b"\n\n"


def _word(index: int) -> str:
    return f"w{index} "


def error_body(status: int, type_: str, message: str, param: str | None = None) -> bytes:
    """Return vLLM's error body; its `code` repeats the HTTP status."""
    return orjson.dumps({"error": {"message": message, "type": type_, "param": param, "code": status}})


def error_event(message: str) -> bytes:
    """Return the event that vLLM sends when generation fails; with spaces, unlike all other events."""
    details = {"message": message, "type": "InternalServerError", "param": None, "code": 500}
    return b"data: " + json.dumps({"error": details}).encode() + b"\n\n"


def model_list(base: str, adapters: dict[str, str]) -> bytes:
    """Return `GET /v1/models`: the base model, then every loaded adapter with its path as `root`."""
    cards = [_card(base, root=base, parent=None, max_model_len=4096)]
    cards += [_card(name, root=path, parent=base, max_model_len=None) for name, path in adapters.items()]
    return orjson.dumps({"object": "list", "data": cards})


def _card(name: str, *, root: str, parent: str | None, max_model_len: int | None) -> dict[str, Any]:
    created = int(time.time())
    permission = {
        "id": f"modelperm-{uuid.uuid4().hex[:16]}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": max_model_len,
        "permission": [permission],
    }
