"""The case that is judged: what somebody says about a task, as a TOML file or an interview gives it.

Everything may be left out but the name; what is not said or measured is None, and the rules treat it as unknown.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.data.sizes import Task as Kind
from trainer.toml_file import read_toml

Need = Literal["know", "do", "both", "unsure"]
Change = Literal["never", "yearly", "monthly", "weekly", "daily"]
Wish = Literal["quality", "cost", "latency"]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Case(BaseModel):
    """One task, as far as it is known.

    `need`: does the model lack knowledge, behaviour, both? `prompt_score` and `bar` are shares of `metric`, and
    `examples` counts labelled rows. `private` means that the data must not leave the house, `retrieval` that answers
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
        """The names of the facts that nobody said or measured."""
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
