"""Measure the most tokens that a request may use, from its body and the maximum of its key."""

from dataclasses import dataclass

from gateway.core import MOST_TOKENS, InferenceRequest
from gateway.errors import InvalidRequestError
from gateway.inference.formats import Api

# The field with the maximum of tokens; of several, the engine uses the first that is set.
_FIELDS = {
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
}
_COMPLETIONS = "/v1/completions"
_COMPLETIONS_DEFAULT = 16
"""The engine's maximum for a completion without one."""
_TEMPLATE_TOKENS = 256
"""Tokens that a chat template may add to a prompt."""
_BYTES_PER_TOKEN = 4
_ASSUMED_TOKENS = 512
"""Estimated length of an answer without a maximum, for tokens per minute."""


@dataclass(frozen=True, slots=True)
class RequestSize:
    """Size of a request: body, number of answers (embeddings have none), and the maximum of tokens of each answer.

    `answer_tokens` is None without a maximum. `body_bytes` bounds the prompt.
    """

    body_bytes: int
    answers: int
    answer_tokens: int | None
    added_limit: tuple[str, int] | None = None
    """Field and value of the maximum to send to the engine, where the client gave none."""

    def likely_tokens(self) -> int:
        """Estimate the tokens of prompt and answers, at four bytes each; capped, so that sums fit the database."""
        answer = _ASSUMED_TOKENS if self.answer_tokens is None else self.answer_tokens
        return min(self.body_bytes // _BYTES_PER_TOKEN + self.answers * answer, MOST_TOKENS)

    def most_prompt_tokens(self, context_tokens: int | None) -> int:
        """Return an upper bound of the prompt's tokens: a token has at least one byte."""
        most = self.body_bytes + _TEMPLATE_TOKENS
        return most if context_tokens is None else min(most, context_tokens * self._prompts)

    def most_answer_tokens(self, context_tokens: int | None) -> int | None:
        """Return an upper bound of the tokens of all answers; None without a limit."""
        bounds = [bound for bound in (self.answer_tokens, context_tokens) if bound is not None]
        return self.answers * min(bounds) if bounds or not self.answers else None

    @property
    def _prompts(self) -> int:
        return max(1, self.answers)


def measure_request(
    api: Api, request: InferenceRequest, most_tokens: int | None, context_tokens: int | None = None
) -> RequestSize:
    """Measure a request; raises `InvalidRequestError` when it asks for more than `most_tokens` in one answer.

    A request that names no maximum gets `most_tokens` as its `added_limit`, unless the context is shorter anyway: the
    engine refuses a maximum that is longer than its context.
    """
    fields = _FIELDS.get(api.path)
    body_bytes = len(request.body)
    if not api.metered or fields is None:
        return RequestSize(body_bytes, 0, 0)
    named = [request.document.get(name) for name in fields]
    tokens = next((count for count in named if count is not None), None)
    added = None
    if tokens is None and api.path == _COMPLETIONS:
        added = _COMPLETIONS_DEFAULT if most_tokens is None else min(_COMPLETIONS_DEFAULT, most_tokens)
    elif tokens is None and most_tokens is not None and (context_tokens is None or most_tokens < context_tokens):
        added = most_tokens
    elif tokens is not None and most_tokens is not None and tokens > most_tokens:
        name = next(name for name, count in zip(fields, named, strict=True) if count is not None)
        raise InvalidRequestError(
            f"'{name}' is {tokens}, but this key allows at most {most_tokens} tokens; ask for fewer.",
            param=name,
            code="max_tokens_exceeded",
        )
    if added is not None:
        return RequestSize(body_bytes, request.sequences, added, (fields[0], added))
    return RequestSize(body_bytes, request.sequences, tokens)
