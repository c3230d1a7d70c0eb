"""Building the embedded base model once: text, tokenizer, training, and a directory that appears only when complete.

The directory's `base-model.json` is written last and holds a hash of everything that decides the model: the code of
this package, the sizes and the seed. A directory with the same hash is used as it is; torch is then not even
imported.
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import TrainerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

COMPLETE_FILE = "base-model.json"


class BaseModelError(TrainerError):
    """The embedded base model cannot be built here; the message says why."""


@dataclass(frozen=True)
class Sizes:
    """How big the model is and how much text it sees; the defaults take about a minute and a half on two cores."""

    vocabulary: int = 4096
    hidden: int = 192
    layers: int = 3
    heads: int = 3
    intermediate: int = 512
    context: int = 2048
    conversations: int = 17_000
    drills: int = 30_000
    drills_first: float = 0.6
    row_tokens: int = 256
    rows_per_step: int = 8


@dataclass(frozen=True)
class BuildProgress:
    """One moment of the build: steps done of how many, the loss, and the speed in tokens per second."""

    step: int
    steps: int
    loss: float
    tokens_per_s: float


def build_base_model(
    out: Path,
    *,
    seed: int = 0,
    sizes: Sizes | None = None,
    report: Callable[[BuildProgress], None] = lambda _: None,
) -> Path:
    """Make sure that `out` holds the base model of this seed and return it; raises `BaseModelError`.

    An interrupted build leaves nothing behind that looks like a model; two builders at once build one after the other.
    """
    sizes = sizes or Sizes()
    recipe = recipe_sha256(sizes, seed)
    if _is_complete(out, recipe):
        return out
    with _disk_errors(out), _locked(out):
        if not _is_complete(out, recipe):
            with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
                made = Path(scratch) / "model"
                facts = _build(made, seed, sizes, report)
                (made / COMPLETE_FILE).write_text(json.dumps({"recipe_sha256": recipe, **facts}, indent=1))
                if out.exists():
                    shutil.rmtree(out)
                made.rename(out)
    return out


def recipe_sha256(sizes: Sizes, seed: int) -> str:
    """Identity of a build: the code of this package, the sizes and the seed."""
    digest = hashlib.sha256(json.dumps([asdict(sizes), seed]).encode())
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()


def _is_complete(out: Path, recipe: str) -> bool:
    try:
        return bool(json.loads((out / COMPLETE_FILE).read_bytes())["recipe_sha256"] == recipe)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _build(out: Path, seed: int, sizes: Sizes, report: Callable[[BuildProgress], None]) -> dict[str, Any]:
    import torch
    from transformers import GenerationConfig, LlamaConfig

    from trainer.base_model.corpus import conversations, drills
    from trainer.base_model.tokenizer import SPECIAL_TOKENS, train_tokenizer
    from trainer.base_model.training import answered, train

    talks, short = conversations(sizes.conversations, seed), drills(sizes.drills, seed + 1)
    texts = (message["content"] for talk in talks[:8_000] for message in talk)
    tokenizer = train_tokenizer(texts, sizes.vocabulary, sizes.context)
    first = round(len(short) * sizes.drills_first)
    torch.manual_seed(seed)
    rows = torch.cat(
        [_shuffled_rows(tokenizer, part, sizes.row_tokens) for part in (short[:first], short[first:] + talks)]
    )
    assistant = tokenizer.convert_tokens_to_ids("<|assistant|>")
    assert isinstance(assistant, int), "the role markers are single tokens"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        head_dim=64,
        max_position_embeddings=sizes.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = train(
        config,
        rows,
        answered(rows, assistant, len(SPECIAL_TOKENS)),
        rows_per_step=sizes.rows_per_step,
        seed=seed,
        report=lambda s: report(BuildProgress(s.step, s.steps, s.loss, s.tokens / max(s.elapsed_s, 1e-9))),
    )
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {"seed": seed, "sizes": asdict(sizes), "parameters": model.num_parameters()}


def _shuffled_rows(tokenizer: "PreTrainedTokenizerFast", talks: list[Any], row_tokens: int) -> Any:
    import torch

    from trainer.base_model.training import pack

    texts = [tokenizer.apply_chat_template(talk, tokenize=False) for talk in talks]
    rows = pack(tokenizer(texts)["input_ids"], row_tokens)
    return rows[torch.randperm(len(rows))]


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f".{out.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BaseModelError(
            f"The base model cannot be written to {out} ({error.strerror}); free or fix that disk, or choose another "
            "data directory."
        ) from error
