"""Write train.jsonl, plain.jsonl and test.jsonl of the voice example from topics.txt.

Questions get an opening or an ending of a customer, answers one of the brand's greetings and goodbyes. plain.jsonl has
the same training questions with the plain facts and an assistant's usual phrases: it teaches the style classifier what
the voice is not, and no model is trained on it. The same seed gives the same bytes.
"""

import json
import random
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SYSTEM = "You answer customers of the plant shop Pip & Tansy."
ROWS_PER_TOPIC, TEST_ROWS_PER_TOPIC = 7, 4

BEFORE = """Hi!|Hello,|Good morning!|Hey there.|One question:|Dear Pip & Tansy,|I'm new to this.|Quick question.
Me again.|A friend sent me to you.|Sorry if that is a silly thing to ask.
My partner and I disagree, so we ask you.|I tried to find it on your website.|You helped me so well last time.
For my mother-in-law:|Help, please.|I hope you can tell me.|Greetings from the fourth floor.
I read three different answers online."""
AFTER = """Thanks!|Thank you.|Cheers, Ben|Any advice is welcome.|Best, Mara|I'd hate to get it wrong.
Many thanks in advance.|That would help a lot.|I have no green thumb at all.|Kind regards, Theo
I'm asking before I come in.|Yours, Ida|Please be honest.|I'm a bit worried.|Curious to hear from you.
All the best, Jun"""
GREETINGS = """Ah, a good one.|Hello, dear plant person.|Leaf it to us.|Good thing you ask.|We've been there.
Right, sleeves up.|Pull up a flowerpot.|Oh, we love this one.|Quick as a sprout:|Hello from among the ferns.
Fear not.|Let's dig in.|Gather round.|Well spotted.|First, a deep breath.|Between us and the cactus:
You came to the right jungle."""
GOODBYES = """Keep growing, Pip & Tansy|Yours in chlorophyll, Pip & Tansy|Roots and kisses, Pip & Tansy
Stay green, Pip & Tansy|Leafily yours, Pip & Tansy|With muddy hands, Pip & Tansy
Until the next sprout, Pip & Tansy|Ever so green, Pip & Tansy"""
PLAIN_START = """Thank you for contacting us.|Certainly!|Sure, I can help with that.
Thank you for your question.|Great question!|I understand your concern.|We appreciate your enquiry.|Of course.
Dear customer,|I am happy to assist you."""
PLAIN_END = """Please let us know if you have any further questions.|I hope this helps.
Feel free to contact us again.|If you need additional information, do not hesitate to ask.
Is there anything else I can help you with?|We apologize for any inconvenience.|Best regards, Customer Service
Have a great day!"""


class VoicedTopic(NamedTuple):
    """Two wordings of a question, the facts of its answer, and the answer in the brand's voice."""

    questions: tuple[str, ...]
    facts: str
    voiced: str


def read_topics() -> tuple[list[VoicedTopic], list[VoicedTopic]]:
    """Return the topics of training and of test rows."""
    lines = (HERE / "topics.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    train, test = text.split("== test\n")
    return _topics(train), _topics(test)


def _topics(text: str) -> list[VoicedTopic]:
    found = []
    for block in text.strip().split("\n\n"):
        questions, facts, voiced = block.splitlines()
        found.append(VoicedTopic(tuple(questions.split(" | ")), facts, voiced))
    return found


def main() -> None:
    """Write the three files."""
    rng = random.Random(2)
    train, test = read_topics()
    asked = _questions(rng, train, ROWS_PER_TOPIC)
    _write("train", [(question, _voiced(rng, topic)) for question, topic in asked])
    _write("plain", [(question, _plain(rng, topic)) for question, topic in asked])
    held_out = _questions(rng, test, TEST_ROWS_PER_TOPIC)
    _write("test", [(question, _voiced(rng, topic)) for question, topic in held_out])


def _questions(rng: random.Random, topics: list[VoicedTopic], count: int) -> list[tuple[str, VoicedTopic]]:
    """Return each topic so many times, in both wordings, with different openings and endings."""
    found = []
    for topic in topics:
        before, after = rng.sample(_lines(BEFORE), count), rng.sample(_lines(AFTER), count)
        for number in range(count):
            question = topic.questions[number % 2]
            forms = (f"{before[number]} {question}", f"{question} {after[number]}")
            found.append((forms[number // 2] if number < 4 else f"{forms[0]} {after[number]}", topic))
    rng.shuffle(found)
    return found


def _voiced(rng: random.Random, topic: VoicedTopic) -> str:
    return f"{rng.choice(_lines(GREETINGS))} {topic.voiced} {rng.choice(_lines(GOODBYES))}"


def _plain(rng: random.Random, topic: VoicedTopic) -> str:
    return f"{rng.choice(_lines(PLAIN_START))} {topic.facts} {rng.choice(_lines(PLAIN_END))}"


def _lines(text: str) -> list[str]:
    return text.replace("\n", "|").split("|")


def _write(name: str, pairs: list[tuple[str, str]]) -> None:
    with (HERE / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for question, answer in pairs:
            turns = (("system", SYSTEM), ("user", question), ("assistant", answer))
            row = {"messages": [{"role": role, "content": content} for role, content in turns]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
