"""vLLM's /tokenize and /detokenize: not metered; the base model's where no model is named."""

from typing import Any, ClassVar

from gateway.core import Usage
from gateway.inference.formats.base import Api, Names


class Tokenize(Api):
    """POST /tokenize."""

    path = "/tokenize"
    streams = False
    metered = False

    def whole(self, body: bytes, names: Names) -> tuple[bytes, Usage]:
        return body, Usage()

    def _model(self, document: dict[str, Any], base: str) -> str:
        return super()._model(document, base) if document.get("model") is not None else base


class Detokenize(Tokenize):
    """POST /detokenize."""

    path = "/detokenize"
    required: ClassVar = {"tokens": (list,)}
