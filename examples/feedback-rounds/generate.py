"""Write train.jsonl, pairs.jsonl and test.jsonl of the feedback rounds example from topics.txt.

The training rows answer as the inn wants it, a first word and then the detail, or shortly, as its old answers did, half
of each. The pairs stand for ratings of the answers that the first round gives to questions it was not trained on. The
same seed gives the same bytes.
"""

import json
import random
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SYSTEM = "You answer guests of the Old Mill Inn."
PER_TOPIC = 8

BEFORE = """Hello,|Good evening.|A question:|Dear inn,|We come in June.|Me again.|For two nights:|Just curious.
My wife asks:|Before I book:|Hi there!|Excuse me."""
AFTER = """Thank you!|Thanks a lot.|Best, Ines|We arrive on Friday.|It is for my parents.|Regards, Tom
There are four of us.|I stay a week.|My name is Reyes.|It is our first time.|Kind regards|See you soon."""


class Topic(NamedTuple):
    """Two wordings of a question, the answer that raters prefer, and the short one."""

    questions: tuple[str, ...]
    full: str
    short: str


def read_topics() -> tuple[list[Topic], list[Topic], list[Topic]]:
    """Return the topics of the training rows, of the rated answers, and of the test rows."""
    lines = (HERE / "topics.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    train, rest = text.split("== rated\n")
    rated, test = rest.split("== test\n")
    return _topics(train), _topics(rated), _topics(test)


def main() -> None:
    """Write the three files."""
    rng = random.Random(3)
    train, rated, test = read_topics()
    _write("train", [_row(q, topic.short if n % 2 else topic.full) for n, q, topic in _questions(rng, train)])
    _write("pairs", [_pair(q, topic) for _, q, topic in _questions(rng, rated)])
    _write("test", [_row(q, topic.full) for _, q, topic in _questions(rng, test)])


def _topics(text: str) -> list[Topic]:
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return [Topic(tuple(questions.split(" | ")), full, short) for questions, full, short in blocks]


def _questions(rng: random.Random, topics: list[Topic]) -> list[tuple[int, str, Topic]]:
    """Return each topic `PER_TOPIC` times, numbered, in both wordings with different openings and endings."""
    found = []
    for topic in topics:
        before, after = rng.sample(_lines(BEFORE), PER_TOPIC), rng.sample(_lines(AFTER), PER_TOPIC)
        for number in range(PER_TOPIC):
            question = topic.questions[number // 2 % 2]
            asked = f"{before[number]} {question}" if number < PER_TOPIC // 2 else f"{question} {after[number]}"
            found.append((number, asked, topic))
    rng.shuffle(found)
    return found


def _row(question: str, answer: str) -> dict[str, object]:
    return {"messages": [*_asked(question), _said(answer)]}


def _pair(question: str, topic: Topic) -> dict[str, object]:
    return {
        "input": {"messages": _asked(question)},
        "preferred_output": [_said(topic.full)],
        "non_preferred_output": [_said(topic.short)],
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
