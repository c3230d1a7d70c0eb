"""The text: seeded, varied, prose where a customer writes, and rich in JSON elsewhere."""

import json
import re

from trainer.base_model.corpus import conversations, drills

OUR_KEYS = {"category", "priority", "summary"}


def test_the_same_seed_writes_the_same_text() -> None:
    assert conversations(200, 3) == conversations(200, 3)
    assert conversations(200, 3) != conversations(200, 4)
    assert drills(200, 3) == drills(200, 3)


def test_hardly_any_conversation_comes_twice() -> None:
    talks = [json.dumps(talk) for talk in conversations(3000, 0) if len(talk) == 3]
    assert len(set(talks)) > 0.9 * len(talks)


def test_no_choice_and_no_slot_is_left_unresolved() -> None:
    for talk in conversations(2000, 1) + drills(2000, 1):
        for message in talk:
            assert not re.search(r"\{[a-z]+\d*\}|\|", message["content"]), message["content"]


def test_every_conversation_ends_with_the_assistant() -> None:
    for talk in conversations(500, 2) + drills(500, 2):
        roles = [message["role"] for message in talk]
        assert roles[-1] == "assistant"
        assert set(roles) <= {"system", "user", "assistant"}


def test_json_occurs_but_never_with_the_keys_that_an_adapter_must_learn() -> None:
    objects = 0
    for talk in conversations(3000, 0):
        answer = talk[-1]["content"]
        if answer.startswith("{"):
            objects += 1
            assert not OUR_KEYS & json.loads(answer).keys()
    assert objects > 50
