"""What a decision's report is made of, before it becomes HTML or Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "bad", "unsure"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer in big words, and why in a sentence."""

    words: str
    sentence: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class Heading:
    """Begins a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Words:
    """A paragraph; one that is a `note` warns of something and stands out."""

    text: str
    note: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and what they are, one below the other."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Charts:
    """Drawings of figures that stand in a table as well; where nothing can be drawn they are left out."""

    drawings: Sequence[str]


@dataclass(frozen=True, slots=True)
class Sides:
    """One item, and what two arms answered: texts of models, to be trusted with nothing."""

    title: str
    prompt: str
    expected: str
    answers: Sequence[tuple[str, str]]


Block = Verdict | Heading | Words | Facts | Table | Charts | Sides
