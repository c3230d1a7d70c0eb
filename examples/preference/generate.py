"""Write pairs.jsonl and test.jsonl of the preference example from topics.txt.

A pair has the shape that `turntable review export` writes: the preferred answer comes to the point, the other says the
same after an introduction and before a polite ending. The same seed gives the same bytes.
"""

import json
import random
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SYSTEM = "You answer customers of the bicycle workshop Spoke & Chain."
PAIRS_PER_TOPIC, TEST_ROWS_PER_TOPIC = 4, 4

BEFORE = """Hi!|Hello,|Good morning.|Quick question:|Me again.|Dear workshop,|I'm no expert.|For my son:
One more thing.|A friend couldn't tell me.|Help!|Sorry to bother you."""
AFTER = """Thanks!|Thank you.|Cheers.|It's a city bike.|I bought it in spring.|Regards, Ola|Much obliged.
I ride every day.|It's the blue one.|I leave tomorrow.|Best, Finn|It's for my commute."""
START = """Thank you so much for reaching out to us!|Great question!
Certainly, I would be happy to help you with that.|I understand how important this is to you.
We really appreciate that you contacted us today.|Of course!"""
END = """I hope this information was helpful to you, and please do not hesitate to contact us with further questions.
Of course every situation is different, so it is always a good idea to consult a professional.
Is there anything else that I can help you with today? We are always here for you.
Please note that this is general information and that your individual case may differ."""


class PaddedTopic(NamedTuple):
    """Two wordings of a question, the answer, and a padded answer's introduction."""

    questions: tuple[str, ...]
    answer: str
    padding: str


def read_topics() -> tuple[list[PaddedTopic], list[PaddedTopic]]:
    """Return the topics of the pairs and of the test rows."""
    lines = (HERE / "topics.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    train, test = text.split("== test\n")
    return _topics(train), _topics(test)


def main() -> None:
    """Write both files."""
    rng = random.Random(2)
    train, test = read_topics()
    pairs = [_pair(rng, question, topic) for question, topic in _questions(rng, train, PAIRS_PER_TOPIC)]
    _write("pairs", pairs)
    held_out = _questions(rng, test, TEST_ROWS_PER_TOPIC)
    _write("test", [{"messages": [*_asked(q), _said(topic.answer)]} for q, topic in held_out])


def _topics(text: str) -> list[PaddedTopic]:
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return [PaddedTopic(tuple(questions.split(" | ")), answer, padding) for questions, answer, padding in blocks]


def _questions(rng: random.Random, topics: list[PaddedTopic], count: int) -> list[tuple[str, PaddedTopic]]:
    """Return each topic so many times, in both wordings, with different openings and endings."""
    found = []
    for topic in topics:
        before, after = rng.sample(_lines(BEFORE), count), rng.sample(_lines(AFTER), count)
        for number in range(count):
            question = topic.questions[number % 2]
            asked = f"{before[number]} {question}" if number < 2 else f"{question} {after[number]}"
            found.append((asked, topic))
    rng.shuffle(found)
    return found


def _pair(rng: random.Random, question: str, topic: PaddedTopic) -> dict[str, object]:
    padded = f"{rng.choice(_lines(START))} {topic.padding} {topic.answer} {rng.choice(_lines(END))}"
    return {
        "input": {"messages": _asked(question)},
        "preferred_output": [_said(topic.answer)],
        "non_preferred_output": [_said(padded)],
    }


def _asked(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def _said(answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer}


def _lines(text: str) -> list[str]:
    return text.replace("\n", "|").split("|")


def _write(name: str, rows: list[dict[str, object]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (HERE / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
