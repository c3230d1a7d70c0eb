"""vLLM's /tokenize and /detokenize, not metered; without `model` they use the base model."""

from typing import Any, ClassVar

from gateway.core import Usage
from gateway.inference.formats.base import Api, Names


class Tokenize(Api):
    """Tokenize a prompt or a conversation with the model's tokenizer; vLLM's API. Not metered."""

    path = "/tokenize"
    streams = False
    metered = False

    def whole(self, body: bytes, names: Names) -> tuple[bytes, Usage]:
        return body, Usage()

    def _model(self, document: dict[str, Any], base: str) -> str:
        return super()._model(document, base) if document.get("model") is not None else base


class Detokenize(Tokenize):
    """Turn token ids back into text; vLLM's API. Not metered."""

    path = "/detokenize"
    required: ClassVar = {"tokens": (list,)}
