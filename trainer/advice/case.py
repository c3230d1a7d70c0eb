"""Task facts that advice is based on, read from a TOML file or an interview.

Only the name is required; a fact that is not given or measured is None, and the rules treat it as unknown.

The interview: the questions of `turntable advise`, one after the other; an empty answer means not known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from trainer.data.findings import Task as Kind
from trainer.files import read_toml

Need = Literal["know", "do", "both", "unsure"]
Change = Literal["never", "yearly", "monthly", "weekly", "daily"]
Wish = Literal["quality", "cost", "latency"]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Case(BaseModel):
    """One task, as far as it is known.

    `need`: does the model lack knowledge, behaviour, both? `prompt_score` and `bar` are shares of `metric`, and
    `examples` counts labelled rows. `private` means data that must not leave your machines, `retrieval` that answers
    are given documents already, `recall` how often the right one is among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    need: Need | None = None
    kind: Kind | None = None
    metric: Annotated[str, Field(min_length=1)] | None = None
    bar: Annotated[float, Field(gt=0, le=1)] | None = None
    prompt_tried: bool | None = None
    prompt_score: Share | None = None
    requests_per_day: Count | None = None
    examples: Count | None = None
    smallest_class: Count | None = None
    labels_agree: bool | None = None
    facts_change: Change | None = None
    private: bool | None = None
    retrieval: bool | None = None
    recall: Share | None = None
    wish: Wish | None = None

    @model_validator(mode="after")
    def _nothing_contradicts(self) -> "Case":
        if self.prompt_score is not None and self.prompt_tried is False:
            raise ValueError("prompt_score is given although prompt_tried is false; correct one of them.")
        if self.recall is not None and self.retrieval is False:
            raise ValueError("recall is given although retrieval is false; correct one of them.")
        return self

    @property
    def unknown(self) -> tuple[str, ...]:
        """The names of the facts that were neither given nor measured."""
        return tuple(name for name in type(self).model_fields if name != "name" and getattr(self, name) is None)


class CaseFile(Case):
    """A case as a file holds it: `data` are files to check, the one to train on first; paths are the file's own."""

    data: tuple[str, ...] = ()
    directory: Annotated[Path, Field(exclude=True, repr=False)]

    def case(self) -> Case:
        """The case alone."""
        return Case(**{name: getattr(self, name) for name in Case.model_fields})

    def data_paths(self) -> tuple[Path, ...]:
        """The files to check."""
        return tuple(self.directory / name for name in self.data)


def read_case(path: Path) -> CaseFile:
    """Read and check a case file; raises `RecipeError`."""
    return read_toml(path, CaseFile)


@dataclass(frozen=True, slots=True)
class InterviewQuestion:
    """A question about one fact; `applies` decides on the facts known so far."""

    field: str
    text: str
    hint: str
    applies: Callable[[Mapping[str, Any]], bool] = lambda facts: True


QUESTIONS: tuple[InterviewQuestion, ...] = (
    InterviewQuestion(
        "need", "Does the model lack knowledge (know), behaviour (do), or both?", "know, do, both, unsure"
    ),
    InterviewQuestion("kind", "What kind of task is it?", "style, format, vocabulary, classification, instructions"),
    InterviewQuestion("metric", "Which metric says whether an answer is good?", "a name, like exact_match"),
    InterviewQuestion("bar", "From which value of it on is it good enough?", "a share, like 0.9"),
    InterviewQuestion(
        "prompt_tried", "Has a prompt with examples been evaluated, for at least an hour of work?", "yes, no"
    ),
    InterviewQuestion(
        "prompt_score",
        "What did that prompt score on held-out rows?",
        "a share, like 0.75",
        lambda facts: facts.get("prompt_tried") is True,
    ),
    InterviewQuestion("requests_per_day", "How many requests a day are there, or will there be?", "a number"),
    InterviewQuestion("examples", "How many labelled examples are there?", "a number"),
    InterviewQuestion(
        "smallest_class",
        "How many of them has the rarest class?",
        "a number",
        lambda facts: facts.get("kind") == "classification",
    ),
    InterviewQuestion("labels_agree", "Do people who label the same row agree?", "yes, no"),
    InterviewQuestion(
        "facts_change", "How often do facts in the answers change?", "never, yearly, monthly, weekly, daily"
    ),
    InterviewQuestion("private", "Must the data stay on your own machines?", "yes, no"),
    InterviewQuestion(
        "retrieval",
        "Does a search bring documents into the prompt already?",
        "yes, no",
        lambda facts: facts.get("need") in ("know", "both") or facts.get("facts_change") not in (None, "never"),
    ),
    InterviewQuestion(
        "recall",
        "How often is the right document among those that it brings?",
        "a share, like 0.9",
        lambda facts: facts.get("retrieval") is True,
    ),
    InterviewQuestion("wish", "What is wished above all?", "quality, cost, latency"),
)


def parse(field: str, text: str) -> Any:
    """The fact that an answer gives, or None when it is empty; raises `ValueError` with a sentence."""
    given = text.strip()
    if not given:
        return None
    annotation: Any = Case.model_fields[field].annotation
    value: Any = given.rstrip("%")
    if field in ("bar", "prompt_score", "recall") and given.endswith("%"):
        value = float(value) / 100
    elif field in ("requests_per_day", "examples", "smallest_class"):
        value = given.replace(",", "").replace("_", "")
    elif field != "metric":
        value = given.lower()
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from error


def interview(name: str, known: Mapping[str, Any], ask: Callable[[InterviewQuestion], str]) -> Case:
    """A case from the answers that `ask` gets; what is known already, measured or given, is not asked."""
    facts = dict(known)
    for question in QUESTIONS:
        if question.field not in facts and question.applies(facts):
            facts[question.field] = parse(question.field, ask(question))
    return Case(name=name, **facts)
