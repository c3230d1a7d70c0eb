"""Check on the actual base, before step 1, that packed rows are trained as each would be alone, and choose the layout.

Two short rows are compared with transformers' own attention, each row alone: the loss, and the gradients of the
trainable weights. Bounds follow from the precision: a layer rounds about ten times, so over L layers sums are off by
about sqrt(10 L) times what a single rounding, of the embeddings, changes on this base.

That no state crosses from one row of a pack to the next is checked exactly, in any precision: the gradient of the
second row's loss with respect to the embeddings of the first row must be zero. Layers with a recurrent state
(Qwen3-Next, LFM2, Mamba hybrids) fail it, and their rows then go through the model one at a time.

Sliding windows are shortened within the check, so that the short rows reach over them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from trainer.errors import RunError
from trainer.training.attention import PACKED, UnsupportedAttention
from trainer.training.batching import PackedBatch, pack
from trainer.training.distributed import DistributedState, local_tensor
from trainer.training.loss import summed_cross_entropy, without_dropout
from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample
from trainer.training.model import EAGER, Layout, TrainableModel
from trainer.training.output_layer import decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LAYOUTS: tuple[tuple[Layout, str], ...] = (("packed", PACKED), ("alone", PACKED))
_ROW_TOKENS = (23, 34)
_PROMPT_TOKENS = 3
_SHORT_WINDOW = 8
_ROUNDINGS_PER_LAYER = 10
_MARGIN = 4
_MOST_COMPARED = 1 << 24  # numbers of one weight's gradient; full fine-tuning of a large base compares the small ones


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """How rows go through the base, and how far that is from transformers' own forward pass, row by row.

    `attention` is ours or transformers' "eager". `reason` says what packing does not fit, None when rows are packed.
    The differences are relative: of the loss, and of the gradients' norm. `router_loss` names the loss of a mixture of
    experts that is not added.
    """

    layout: Layout
    attention: str
    reason: str | None
    loss_difference: float
    gradient_difference: float
    router_loss: str | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The check as training.json keeps it."""
        return asdict(self)

    @property
    def sentences(self) -> list[str]:
        """What a user should know before training; empty in the usual case."""
        alone = f"rows go through the model one at a time, because {self.reason}."
        router = f"the routers' {self.router_loss} of pretraining is not added to the loss."
        return [text for text, said in ((alone, self.reason), (router, self.router_loss)) if said]


@dataclass(frozen=True)
class _Measured:
    loss: float
    gradients: torch.Tensor

    def differences(self, other: "_Measured") -> tuple[float, float]:
        """Return the relative differences of loss and gradients."""
        gradients = float((self.gradients - other.gradients).norm() / other.gradients.norm())
        return abs(self.loss - other.loss) / abs(other.loss), gradients


def checked(
    model: TrainableModel, *, longest: int, distributed: DistributedState | None = None
) -> tuple[TrainableModel, SelfCheck]:
    """Return the model with the fastest layout that is exact, and the check; raises `RunError` where none is.

    Windows that the longest row, of `longest` tokens, does not reach over are no concern. All ranks of a distributed
    run call it with the same weights, and choose alike.
    """
    distributed = distributed or DistributedState()
    rows = [_row(model, tokens) for tokens in _ROW_TOKENS]
    router, reason = _router_loss(model.base), None
    model.module.train()  # in eval mode, bitsandbytes repacks NF4 weights on a CPU
    with without_dropout(model), _short_windows(model.base, longest):
        alone = _with(model, "alone", EAGER)
        expected = _expected(alone, rows)
        allowed = _allowed(alone, rows, expected)
        for layout, attention in _LAYOUTS:
            found, differences = _fault(model, layout, attention, rows, expected, allowed)
            failed = distributed.max(float(found is not None))
            reason = reason or found
            if not failed:
                break
        else:
            layout, attention, differences = "alone", EAGER, (0.0, 0.0)
        chosen = _with(model, layout, attention)
    return chosen, SelfCheck(layout, attention, reason if layout == "alone" else None, *differences, router)


def _with(model: TrainableModel, layout: Layout, attention: str) -> TrainableModel:
    decoder = decoder_of(model.base)
    if decoder.config._attn_implementation != attention:
        model.base.set_attn_implementation(attention)
    if decoder.config._attn_implementation != attention:
        raise UnsupportedAttention(f"{type(decoder).__name__} has attention code of its own")
    return replace(model, layout=layout)


def _row(model: TrainableModel, tokens: int) -> RenderedExample:
    """Return a row of arbitrary tokens."""
    vocabulary = model.base.get_input_embeddings().weight.shape[0]
    numbers = torch.Generator().manual_seed(tokens)
    ids = torch.randint(vocabulary, (tokens,), generator=numbers).tolist()
    labels = [IGNORE_INDEX] * _PROMPT_TOKENS + ids[_PROMPT_TOKENS:]
    return RenderedExample(0, "self-check", "", ids, labels, ())


def _expected(alone: TrainableModel, rows: Sequence[RenderedExample]) -> _Measured:
    kind = type(alone.base).__name__
    try:
        expected = _measured(alone, [pack([row], alone.device) for row in rows])
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        said = str(error).partition("\n")[0]
        raise RunError(f"{kind} cannot be trained: its forward pass fails with {said!r}; choose another.") from error
    if not (math.isfinite(expected.loss) and expected.gradients.isfinite().all()):
        raise RunError(f"{kind} gives a loss or gradients that are not finite; choose another base_model.")
    if not expected.gradients.any():
        raise RunError(f"no gradient reaches the trainable weights of {kind}; choose other lora.target_modules.")
    return expected


def _allowed(alone: TrainableModel, rows: Sequence[RenderedExample], expected: _Measured) -> tuple[float, float]:
    """Return how far rounding takes loss and gradients: one rounding of the embeddings, over all roundings."""
    unit = torch.finfo(alone.base.get_input_embeddings().weight.dtype).eps / 2

    def rounded(embedded: torch.Tensor) -> torch.Tensor:
        numbers = torch.Generator().manual_seed(0)
        signs = torch.randint(2, embedded.shape, generator=numbers).to(embedded) * 2 - 1
        return embedded * (1 + 2 * unit * signs)

    with _embedding(alone.base, rounded):
        changed = _measured(alone, [pack([row], alone.device) for row in rows])
    layers = decoder_of(alone.base).config.num_hidden_layers
    times = _MARGIN * math.sqrt(_ROUNDINGS_PER_LAYER * layers)
    loss, gradients = (times * max(unit, difference) for difference in changed.differences(expected))
    return loss, gradients


def _fault(
    model: TrainableModel,
    layout: Layout,
    attention: str,
    rows: Sequence[RenderedExample],
    expected: _Measured,
    allowed: tuple[float, float],
) -> tuple[str | None, tuple[float, float]]:
    """Return why a layout is not exact, or None, and how far it is off."""
    nothing = (math.inf, math.inf)
    decoder = type(decoder_of(model.base)).__name__
    try:
        candidate = _with(model, layout, attention)
        batch = pack(rows, model.device)
        if layout == "packed" and (leaking := _leak(candidate, rows)):
            return f"{leaking} makes a row of a pack depend on the rows before it", nothing
        differences = _measured(candidate, [batch]).differences(expected)
    except UnsupportedAttention as error:
        return str(error), nothing
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return f"{decoder} does not take the lengths of packed rows", nothing
    if all(found <= most for found, most in zip(differences, allowed, strict=True)):
        return None, differences
    return f"{decoder} gives gradients that are {differences[1]:.2%} off", differences


def _measured(model: TrainableModel, batches: Sequence[PackedBatch]) -> _Measured:
    """Return the loss over the batches, and its gradients in one vector."""
    total = 0.0
    for batch in batches:
        loss = summed_cross_entropy(model.hidden(batch), model.head, batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    parts = []
    for parameter in model.trainable_parameters.values():
        if parameter.grad is not None and parameter.numel() <= _MOST_COMPARED:
            parts.append(local_tensor(parameter.grad).flatten().float())
        parameter.grad = None
    return _Measured(total, torch.cat(parts))


def _leak(packed: TrainableModel, rows: Sequence[RenderedExample]) -> str | None:
    """Return the type of the innermost layer by which the second row depends on the first, or None."""
    first = rows[0].input_ids
    batch = pack(rows, packed.device)
    kept: list[torch.Tensor] = []

    def leaf(embedded: torch.Tensor) -> torch.Tensor:
        kept.append(embedded.detach().requires_grad_())
        return kept[-1]

    of_second = batch.loss_positions >= len(first)
    with _embedding(packed.base, leaf), _recorded(packed.base, sum(batch.row_tokens)) as passes:
        hidden = packed.hidden(batch)[of_second]
        loss = summed_cross_entropy(hidden, packed.head, batch.targets[of_second])
        loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        gradient = kept[-1].grad
        leaks = gradient is not None and bool(gradient[0, : len(first)].any())
        depend = (kind for kind, given, made in passes if _depends(given, made, len(first)))
        found = next(depend, None) if leaks else None
    for parameter in packed.trainable_parameters.values():
        parameter.grad = None
    return (found or type(decoder_of(packed.base)).__name__) if leaks else None


def _depends(given: torch.Tensor, made: torch.Tensor, first: int) -> bool:
    """Whether a layer's output of the second row depends on its input of the first `first` tokens."""
    if not (given.requires_grad and made.requires_grad):
        return False
    later = made[0, first:].float()
    weights = torch.linspace(1.0, 2.0, later.numel(), device=later.device).view_as(later)
    (gradient,) = torch.autograd.grad((later * weights).sum(), given, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient[0, :first].any())


@contextmanager
def _recorded(base: "PreTrainedModel", tokens: int) -> Iterator[list[tuple[str, torch.Tensor, torch.Tensor]]]:
    """Record type, input and output of every layer that takes and gives (1, tokens, …), inner ones first."""
    passes: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def is_sequence(value: object) -> bool:
        return isinstance(value, torch.Tensor) and value.dim() == 3 and value.shape[:2] == (1, tokens)

    def record(module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any], made: Any) -> None:
        made = made[0] if isinstance(made, tuple) else made
        source = next((value for value in (*given, *named.values()) if is_sequence(value)), None)
        if source is not None and is_sequence(made):
            passes.append((type(module).__name__, source, made))

    decoder = decoder_of(base)
    handles = [module.register_forward_hook(record, with_kwargs=True) for module in decoder.modules()]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _embedding(base: "PreTrainedModel", change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Change the output of the token embeddings within the block."""
    handle = base.get_input_embeddings().register_forward_hook(lambda _, __, embedded: change(embedded))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _short_windows(base: "PreTrainedModel", longest: int) -> Iterator[None]:
    """Shorten windows and chunks that the longest row reaches over, so that the rows of the check do so too."""
    holders: list[Any] = [decoder_of(base).config, *decoder_of(base).modules()]
    names = ("sliding_window", "attention_chunk_size")
    before = [(one, name, getattr(one, name)) for one in holders for name in names if _is_window(one, name, longest)]
    try:
        for one, name, _ in before:
            setattr(one, name, _SHORT_WINDOW)
        yield
    finally:
        for one, name, size in before:
            setattr(one, name, size)


def _is_window(holder: Any, name: str, longest: int) -> bool:
    size = vars(holder).get(name)
    return isinstance(size, int) and not isinstance(size, bool) and _SHORT_WINDOW < size < longest


def _router_loss(base: "PreTrainedModel") -> str | None:
    config = base.config.get_text_config()
    return "load-balancing loss (router_aux_loss_coef)" if getattr(config, "router_aux_loss_coef", None) else None
