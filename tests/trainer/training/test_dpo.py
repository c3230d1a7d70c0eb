"""The preference loss is the one that TRL computes for the same pairs, weights and reference, gradients included."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM

from tests.trainer.training.conftest import MakeModel
from trainer.data.schema import Example, Message, Pair
from trainer.training.loss_mask import Renderer
from trainer.training.preferences import DpoLoss, Reference

PAIRS = [
    (
        f"Where is order {n}?",
        f"Order {n} is late. " * (1 + n),
        "No idea." if n % 2 else "Ask somebody else, please. " * n,
    )
    for n in range(1, 5)
]


def pair(line: int, asked: str, better: str, worse: str) -> Pair:
    def side(answer: str) -> Example:
        return Example(line, (Message("user", asked), Message("assistant", answer.strip())))

    return Pair(line, side(better), side(worse))


@pytest.mark.numeric
def test_loss_and_gradients_of_preferences_are_those_of_trl(
    base_model: Path, renderer: Renderer, make_model: MakeModel, tmp_path: Path
) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    ours = make_model()
    pairs = [renderer.render_pair(pair(n, *texts)) for n, texts in enumerate(PAIRS, 1)]
    objective = DpoLoss(ours, pairs, beta=0.3, reference=Reference(4096))
    loss = objective.summed(range(len(pairs))) / len(pairs)
    loss.backward()  # type: ignore[no-untyped-call]
    mine = torch.cat([p.grad.flatten() for p in ours.trainable_parameters.values() if p.grad is not None])

    rows = [
        {
            "prompt": [{"role": "user", "content": asked}],
            "chosen": [{"role": "assistant", "content": better.strip()}],
            "rejected": [{"role": "assistant", "content": worse.strip()}],
        }
        for asked, better, worse in PAIRS
    ]
    options = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}
    rival = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32),
        args=DPOConfig(output_dir=str(tmp_path), beta=0.3, dataloader_pin_memory=False, **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=renderer.tokenizer,
        peft_config=LoraConfig(
            r=8, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    set_peft_model_state_dict(rival.model, get_peft_model_state_dict(ours.module))
    batch = rival.data_collator(list(rival.train_dataset))
    theirs = rival.compute_loss(rival.model, batch)
    theirs.backward()
    named = dict(rival.model.named_parameters())
    grads = [named[name].grad for name in ours.trainable_parameters]
    assert all(grad is not None for grad in grads)
    assert loss.item() != pytest.approx(0.6931, abs=0.02), "an adapter that does something prefers one side"
    # A margin is the difference of sums over some 100 tokens of logits around 30, each rounded to 2e-6 in fp32.
    assert theirs.item() == pytest.approx(loss.item(), rel=1e-3)
    other = torch.cat([grad.flatten() for grad in grads if grad is not None])
    assert torch.allclose(mine, other, rtol=1e-2, atol=1e-4 * float(other.abs().max()))
