"""The inference APIs: request formats, rewritten answers and streams, error shapes, one class per path.

Only the paths in `APIS` reach the engine.
"""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.inference.formats.anthropic import CountTokens, Messages
from gateway.inference.formats.base import Api, Names, StreamRewriter
from gateway.inference.formats.completions import ChatCompletions, Completions, Embeddings
from gateway.inference.formats.responses import Responses
from gateway.inference.formats.tokenize import Detokenize, Tokenize

APIS: Mapping[str, Api] = MappingProxyType(
    {
        api.path: api
        for api in (
            ChatCompletions(),
            Completions(),
            Responses(),
            Embeddings(),
            Messages(),
            CountTokens(),
            Tokenize(),
            Detokenize(),
        )
    }
)

__all__ = ["APIS", "Api", "Names", "StreamRewriter"]
