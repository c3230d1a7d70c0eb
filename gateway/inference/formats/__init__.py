"""What each inference API looks like on the wire: which requests it takes, how answers are rewritten, how errors are
told. Only the paths listed here reach the engine.
"""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.inference.formats.anthropic import CountTokens, Messages
from gateway.inference.formats.base import Api, InferenceRequest, Names, StreamRewriter
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

__all__ = ["APIS", "Api", "InferenceRequest", "Names", "StreamRewriter"]
