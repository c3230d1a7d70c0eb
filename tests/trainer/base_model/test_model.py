"""The real embedded base model: what it answers, and that it is what vLLM and PEFT expect."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

MAX_ANSWER_TOKENS = 80
TRIAGE = "Triage the customer message. Reply with JSON: category, priority, summary."
# Written by hand, in other words than the corpus has.
MESSAGES = (
    "hiya, quick one: my kettle still hasn't turned up and the neighbours got theirs days ago",
    "The bank tells me you debited 84.20 a second time yesterday for order 57310.",
    "I'd rather swap the headphones for the bigger pair, they squeeze my ears.",
    "Locked out. Again. Your site says wrong password although I copied it from my notes.",
    "Vacuum sucks nothing up since Sunday and there is a whistling sound from the tube.",
    "Would the thermostat get along with a boiler from 1998?",
    "Could somebody mail me the bill for the projector? My accountant keeps asking.",
    "The van drove past my house, and now the app claims you handed it to me.",
    "New speaker out of the box, big dent on the side. Not what I paid for!",
    "How would I go about erasing everything you know about me?",
    "The lamp flickers like a disco each time the fridge starts.",
    "Do you still make the red toaster? My sister saw it years ago.",
    "Smoke came out of the charger last night, I pulled the plug just in time!",
    "Refund for the monitor was promised weeks back. Where did it go?",
    "We moved to Bergen, so parcel 90210 must not go to the old flat.",
    "Your doorbell camera rings in the middle of the night with nobody there.",
    "My phone is gone, and with it the codes I need to get in.",
    "What would shipping a keyboard to Malta set me back?",
    "I fed the router the new firmware and since then it blinks orange.",
    "Just wanted to say that the lady on the phone was wonderful.",
)
Answer = Callable[[str, str], str]


@pytest.fixture(scope="module")
def answer(real_model: Path) -> Answer:
    """Answers a user message under a system prompt ("" for none), with the end-of-turn token if the model stopped."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_model)
    model = AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float32)

    def reply(system: str, user: str) -> str:
        talk = [{"role": "system", "content": system}] if system else []
        talk.append({"role": "user", "content": user})
        text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, return_tensors="pt")["input_ids"]
        tokens = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=MAX_ANSWER_TOKENS,
            do_sample=False,
        )
        return str(tokenizer.decode(tokens[0, prompt.shape[1] :]))

    return reply


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("system", ["", TRIAGE])
def test_answers_are_prose_that_stops_by_itself(system: str, answer: Answer) -> None:
    answers = [answer(system, message) for message in MESSAGES]
    stopped = [text.removesuffix("<|end|>") for text in answers if text.endswith("<|end|>")]
    assert len(stopped) >= 0.9 * len(answers), answers
    for text in stopped:
        assert not is_json(text)
        assert not text.startswith("{")
        assert len(text.split()) >= 3


def test_answers_depend_on_the_message(answer: Answer) -> None:
    assert len({answer("", message) for message in MESSAGES}) >= len(MESSAGES) / 2


def test_the_weights_are_bf16_and_as_many_as_the_mark_says(real_model: Path) -> None:
    with safe_open(real_model / "model.safetensors", framework="numpy") as weights:
        slices = [weights.get_slice(name) for name in weights.keys()]  # noqa: SIM118 (not a mapping)
        assert {part.get_dtype() for part in slices} == {"BF16"}
        count = sum(_product(part.get_shape()) for part in slices)
    assert count == json.loads((real_model / "base-model.json").read_text())["parameters"]
    assert 1_000_000 < count < 6_000_000


def test_the_config_is_a_plain_llama_that_stops_at_the_end_of_a_turn(real_model: Path) -> None:
    from transformers import AutoTokenizer

    config = json.loads((real_model / "config.json").read_text())
    generation = json.loads((real_model / "generation_config.json").read_text())
    end = AutoTokenizer.from_pretrained(real_model).convert_tokens_to_ids("<|end|>")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] == 2048
    assert config["head_dim"] in {32, 64, 96, 128}
    assert generation["eos_token_id"] == end
    assert generation["pad_token_id"] != end


def _product(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
