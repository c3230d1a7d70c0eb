"""The interview: the questions of `turntable advise`, one after the other; an empty answer means not known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trainer.advice.case import Case


@dataclass(frozen=True, slots=True)
class Question:
    """Asks for one fact; `applies` looks at what was said so far."""

    field: str
    text: str
    hint: str
    applies: Callable[[Mapping[str, Any]], bool] = lambda said: True


QUESTIONS: tuple[Question, ...] = (
    Question("need", "Does the model lack knowledge (know), behaviour (do), or both?", "know, do, both, unsure"),
    Question("kind", "What kind of task is it?", "style, format, vocabulary, classification, instructions"),
    Question("metric", "Which metric says whether an answer is good?", "a name, like exact_match"),
    Question("bar", "From which value of it on is it good enough?", "a share, like 0.9"),
    Question("prompt_tried", "Has a prompt with examples been tried in earnest, for an hour at least?", "yes, no"),
    Question(
        "prompt_score",
        "What did that prompt score on held-out rows?",
        "a share, like 0.75",
        lambda said: said.get("prompt_tried") is True,
    ),
    Question("requests_per_day", "How many requests a day are there, or will there be?", "a number"),
    Question("examples", "How many labelled examples are there?", "a number"),
    Question(
        "smallest_class",
        "How many of them has the rarest class?",
        "a number",
        lambda said: said.get("kind") == "classification",
    ),
    Question("labels_agree", "Do people who label the same row agree?", "yes, no"),
    Question("facts_change", "How often do facts in the answers change?", "never, yearly, monthly, weekly, daily"),
    Question("private", "Must the data stay in the house?", "yes, no"),
    Question(
        "retrieval",
        "Does a search bring documents into the prompt already?",
        "yes, no",
        lambda said: said.get("need") in ("know", "both") or said.get("facts_change") not in (None, "never"),
    ),
    Question(
        "recall",
        "How often is the right document among those that it brings?",
        "a share, like 0.9",
        lambda said: said.get("retrieval") is True,
    ),
    Question("wish", "What is wished above all?", "quality, cost, latency"),
)


def parse(field: str, text: str) -> Any:
    """The fact that an answer gives, or None when it is empty; raises `ValueError` with a sentence."""
    said = text.strip()
    if not said:
        return None
    annotation: Any = Case.model_fields[field].annotation
    value: Any = said.rstrip("%")
    if field in ("bar", "prompt_score", "recall") and said.endswith("%"):
        value = float(value) / 100
    elif field in ("requests_per_day", "examples", "smallest_class"):
        value = said.replace(",", "").replace("_", "")
    elif field != "metric":
        value = said.lower()
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from error


def interview(name: str, known: Mapping[str, Any], ask: Callable[[Question], str]) -> Case:
    """A case from the answers that `ask` gets; what is known already, measured or given, is not asked."""
    said = dict(known)
    for question in QUESTIONS:
        if question.field not in said and question.applies(said):
            said[question.field] = parse(question.field, ask(question))
    return Case(name=name, **said)
