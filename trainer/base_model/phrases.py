"""The notation that the corpus is written in, and the facts that fill it.

A pattern is a sentence with choices and slots: `[I was|We were] charged {amount} for order {order}.` A choice takes one
of its parts, a slot takes a fact. Facts are drawn once per document, so a reply repeats the order number of the message
it answers: that is what teaches a small model to copy.
"""

import re
from collections.abc import Callable
from random import Random
from typing import Literal, NamedTuple

from trainer.base_model.words import (
    BRANDS,
    CARDS,
    CITIES,
    CODAS,
    COLOURS,
    COURIERS,
    DAYS,
    MONTHS,
    NAMES,
    ONSETS,
    PRODUCTS,
    SERIES,
    VOWELS,
)

Urgency = Literal["high", "normal", "low"]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{([a-z]+)(\d*)\}")
_SPACE_BEFORE_MARK = re.compile(r" (?=[.,?!])")
_ARTICLE = re.compile(r"\b([Aa]) (?=[AEIOaeio])(?!one)")
_SENTENCE_START = re.compile(r"(^|[.!?] )([a-z])")


class Issue(NamedTuple):
    """One support situation: ways to report it, to answer it and to condense it into `the customer ...` clauses.

    In the `issues_*` modules a block starts with `# urgency`; `?` starts a message, `!` a reply, `=` a clause, and an
    indented line continues the one above.
    """

    topic: str
    urgency: Urgency
    messages: tuple[str, ...]
    replies: tuple[str, ...]
    clauses: tuple[str, ...]


def parse_issues(topic: str, text: str) -> list[Issue]:
    """Read the notation of the `issues_*` modules; raises KeyError or ValueError for a block that is not well formed."""
    issues = []
    for block in text.strip().split("\n\n"):
        lines: list[str] = []
        for line in block.splitlines():
            if line.startswith(" "):
                lines[-1] += " " + line.strip()
            else:
                lines.append(line)
        urgency = {"# high": "high", "# normal": "normal", "# low": "low"}[lines[0]]
        groups = (tuple(line[2:] for line in lines if line.startswith(mark)) for mark in ("? ", "! ", "= "))
        messages, replies, clauses = groups
        if not (messages and replies and clauses):
            raise ValueError(f"{topic}: an issue needs a message, a reply and a clause: {lines[1]!r}")
        issues.append(Issue(topic, urgency, messages, replies, clauses))  # type: ignore[arg-type]
    return issues


class Facts(dict[str, str]):
    """The facts of one document, drawn when first asked for: `order` and `order2` are two different order numbers."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self.rng = rng

    def __missing__(self, key: str) -> str:
        make = _MAKERS[key.rstrip("0123456789")]
        taken = set(self.values())
        drawn = (make(self.rng) for _ in range(5))
        self[key] = next((fact for fact in drawn if fact not in taken), "") or make(self.rng)
        return self[key]


def choose(pattern: str, rng: Random) -> str:
    """Resolve the choices of a pattern and leave its slots."""
    while "[" in pattern:
        pattern = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), pattern)
    return _SPACE_BEFORE_MARK.sub("", " ".join(pattern.split()))


def slots(pattern: str) -> set[str]:
    """The names of the facts that a pattern asks for."""
    return {match[1] + match[2] for match in _SLOT.finditer(pattern)}


def fill(pattern: str, facts: Facts) -> str:
    """Resolve choices and slots."""
    text = _SLOT.sub(lambda match: facts[match[1] + match[2]], choose(pattern, facts.rng))
    return _ARTICLE.sub(r"\1n ", text)


def sentence(pattern: str, facts: Facts) -> str:
    """Resolve choices and slots, and start every sentence with a capital letter."""
    text = fill(pattern, facts)
    return _SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), text)


def invented_word(rng: Random) -> str:
    """A pronounceable word that no one has seen before, so that it can only be copied."""
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 3))) + rng.choice(CODAS)


def _digits(rng: Random, count: int) -> str:
    return str(rng.randint(10 ** (count - 1), 10**count - 1))


def _order(rng: Random) -> str:
    number = _digits(rng, rng.choice((4, 5, 5, 5, 5, 6, 6, 7)))
    return rng.choice(("", "", "", "", "", "#", "LF-", "A")) + number


def _amount(rng: Random) -> str:
    whole = str(rng.choice((rng.randint(3, 99), rng.randint(100, 900))))
    cents = rng.choice(("", "", f".{rng.randint(0, 99):02d}", ".90", ".99"))
    return rng.choice(("${}", "${}", "€{}", "£{}", "{} euros", "{} dollars", "{} EUR")).format(whole + cents)


def _product(rng: Random) -> str:
    noun = rng.choice(PRODUCTS)
    kind = rng.random()
    if kind < 0.55:
        return noun
    if kind < 0.75:
        return f"Larkfield {noun}"
    return f"{rng.choice(SERIES) if kind < 0.9 else invented_word(rng).capitalize()} {noun}"


def _date(rng: Random) -> str:
    day, month = rng.randint(1, 28), rng.choice(MONTHS)
    return rng.choice((f"{day} {month}", f"{month} {day}", f"the {day}th", f"last {rng.choice(DAYS)}", "yesterday"))


def _email(rng: Random) -> str:
    user = rng.choice((rng.choice(NAMES).lower(), invented_word(rng)))
    return f"{user}{rng.choice(('', rng.randint(1, 99)))}@{rng.choice(('mail', 'post', 'example', 'inbox'))}.com"


def _city(rng: Random) -> str:
    return rng.choice(CITIES) if rng.random() < 0.75 else invented_word(rng).capitalize()


def _name(rng: Random) -> str:
    return rng.choice(NAMES) if rng.random() < 0.75 else invented_word(rng).capitalize()


def _model(rng: Random) -> str:
    return f"{rng.choice(SERIES)} {rng.choice(('', 'Pro ', 'Mini ', 'X'))}{rng.randint(2, 99)}"


_MAKERS: dict[str, Callable[[Random], str]] = {
    "amount": _amount,
    "brand": lambda rng: rng.choice(BRANDS),
    "card": lambda rng: rng.choice(CARDS),
    "city": _city,
    "cm": lambda rng: str(rng.randint(12, 98)),
    "code": lambda rng: rng.choice(("E{}", "E{}", "F{}", "ERR-{}", "{}")).format(rng.randint(1, 99)),
    "colour": lambda rng: rng.choice(COLOURS),
    "courier": lambda rng: rng.choice(COURIERS),
    "date": _date,
    "day": lambda rng: rng.choice(DAYS),
    "days": lambda rng: rng.choice(("14", "30", "60", "100")),
    "email": _email,
    "model": _model,
    "n": lambda rng: rng.choice(("two", "three", "four", "five", "six", "2", "3", "4", "5", "6", "7", "8", "9", "10")),
    "name": _name,
    "order": _order,
    "percent": lambda rng: str(rng.randint(5, 99)),
    "product": _product,
    "word": invented_word,
}
