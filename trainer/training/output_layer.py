"""The output layer of a base: a single matrix where the logits are one product, else the base's own computation.

Many families do more than multiply: Gemma 2 caps the logits, Granite and Cohere scale them, Phi adds a bias. Their
logits come from transformers' own forward pass, which gets the hidden states in place of the decoder's output.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# (tokens, size) to (tokens, vocabulary).
Logits = Callable[[torch.Tensor], torch.Tensor]
Head = torch.Tensor | Logits
_PROBED_TOKENS = 8
_LARGEST_LOGIT = 100.0  # a cap of the logits, 30 in Gemma, is far from linear there


def decoder_of(base: "PreTrainedModel") -> Any:
    """Return the text decoder; Llama 4 names itself, and there it is the part with the embeddings."""
    decoder = base.get_decoder()
    if decoder is not base:
        return decoder
    embeddings = base.get_input_embeddings()
    return next(child for child in base.children() if any(part is embeddings for part in child.modules()))


def logits_of(hidden: torch.Tensor, head: Head) -> torch.Tensor:
    """Return the logits of hidden states."""
    return hidden @ head.T if isinstance(head, torch.Tensor) else head(hidden)


def output_layer(base: "PreTrainedModel") -> Logits | None:
    """Return the base's own logits function, or None where it is a product with the output embeddings alone."""
    layer = base.get_output_embeddings()
    own = _own_logits(base)
    if layer is None or getattr(layer, "bias", None) is not None:
        return own
    weight = layer.weight
    numbers = torch.Generator().manual_seed(0)
    hidden = torch.randn(_PROBED_TOKENS, weight.shape[1], generator=numbers).to(weight)
    with torch.no_grad():
        hidden = hidden * (_LARGEST_LOGIT / (hidden @ weight.T).abs().max())
        product, logits = hidden @ weight.T, own(hidden).to(weight.dtype)
        difference = (product - logits).abs().max()
    return None if difference <= 8 * torch.finfo(weight.dtype).eps * _LARGEST_LOGIT else own


class _Decoded:
    """A decoder's output of which only the last hidden states are known."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> torch.Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, _: str) -> None:
        return None


class _Given(torch.nn.Module):
    """Stands in for the decoder and returns the hidden states that it is given; other attributes are the decoder's."""

    def __init__(self, decoder: torch.nn.Module, hidden: torch.Tensor) -> None:
        super().__init__()
        self.__dict__.update(decoder=decoder, hidden=hidden)  # not as a sub-module: nothing here is trained

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["decoder"], name)

    def forward(self, *_: Any, **__: Any) -> _Decoded:
        return _Decoded(self.__dict__["hidden"])


def _own_logits(base: "PreTrainedModel") -> Logits:
    """Return a function that runs the base's forward pass after its decoder."""
    decoder = decoder_of(base)
    (name,) = [name for name, child in base.named_children() if any(part is decoder for part in child.modules())]

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        twin = copy.copy(base)
        twin._modules = {**base._modules, name: _Given(getattr(base, name), hidden[None])}
        ids = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
        computed: torch.Tensor = twin(input_ids=ids, use_cache=False).logits[0]
        return computed

    return logits
