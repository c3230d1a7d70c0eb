"""Write documents.jsonl, train.jsonl and test.jsonl of the RETRIEVE example: the timetable of ferries that changes.

documents.jsonl is November's timetable, one route per document, and test.jsonl asks for it. train.jsonl holds the same
facts as they were in October: what a model would have been trained on. The same seed gives the same bytes.
"""

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
SYSTEM = "You answer questions about the Tarn Sound ferries."
ISLANDS = """Gull Island|Skerry Point|Heron Quay|Saint Brannoc|Lowther Sands|Black Rock|Merrow Bay|Osprey Head
Thistle Holm|Cormorant Cove|Whin Isle|Port Ellery|Sandray|Long Reef|Kelp Harbour|Dunmore""".replace("\n", "|").split(
    "|"
)
FACTS = {
    "last": (
        "When does the last boat leave for {island}?",
        "Which is the latest {island} boat?",
    ),
    "first": ("When is the first boat to {island}?", "How early can I set off to {island} in the morning?"),
    "adult": ("How much is an adult ticket to {island}?", "What do I pay to {island} as a grown-up?"),
    "bicycle": ("What does it cost to take a bicycle to {island}?", "I bring my bike along to {island}. Price?"),
    "minutes": ("How many minutes does the crossing to {island} take?", "Is it long to {island}? Tell me the minutes."),
}
"""A fact with the question of the test rows and the one of the training rows."""

DOCUMENT = (
    "{island}, timetable and fares from 23 November 2026. The first boat to {island} leaves at {first}, the last boat "
    "at {last}. An adult ticket costs {adult}, a bicycle {bicycle}. The crossing takes {minutes} minutes."
)
QUESTIONS_PER_ISLAND = 4


def main() -> None:
    """Write the three files."""
    rng = random.Random(5)
    october = {island: _timetable(rng) for island in ISLANDS}
    november = {island: _timetable(rng) for island in ISLANDS}
    ids = {island: f"route-{number:02d}" for number, island in enumerate(ISLANDS, 1)}
    _write("documents", [{"id": ids[name], "text": DOCUMENT.format(island=name, **november[name])} for name in ISLANDS])
    train = [_row(FACTS[fact][1], island, october[island][fact]) for island in ISLANDS for fact in FACTS]
    test = [
        _row(FACTS[fact][0], island, november[island][fact]) | {"document_ids": [ids[island]], "fact": fact}
        for island in ISLANDS
        for fact in rng.sample(list(FACTS), QUESTIONS_PER_ISLAND)
    ]
    for name, rows in (("train", train), ("test", test)):
        rng.shuffle(rows)
        _write(name, rows)


def _timetable(rng: random.Random) -> dict[str, str]:
    return {
        "first": f"{rng.randint(5, 8):02d}:{rng.randrange(0, 60, 5):02d}",
        "last": f"{rng.randint(18, 22)}:{rng.randrange(0, 60, 5):02d}",
        "adult": f"{rng.randint(4, 12)}.{rng.randrange(0, 100, 10):02d} euros",
        "bicycle": f"{rng.randint(1, 3)}.{rng.randrange(0, 100, 10):02d} euros",
        "minutes": str(rng.randint(11, 95)),
    }


def _row(question: str, island: str, answer: str) -> dict[str, object]:
    turns = (("system", SYSTEM), ("user", question.format(island=island)), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _write(name: str, rows: list[dict[str, object]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (HERE / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
