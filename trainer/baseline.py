"""The baseline of a run: what the answers that it learnt from are like, for comparing live answers with them."""

from typing import TYPE_CHECKING, Any

from adapters.answer_profile import STOP, Answer, Baseline
from trainer.data.rows import Example, Pair

if TYPE_CHECKING:
    from trainer.material import Material
    from trainer.rendering import Rendered


def baseline_of(material: "Material") -> dict[str, Any] | None:
    """The last learnt answer of every training row, counted; what is learnt always ends with the stop token."""
    rows = {row.row_id: _preferred(row) for row in material.rows.train.rows}
    answers = []
    for rendered in material.train.rows:
        example = rows[rendered.row_id]
        chosen = rendered.chosen if material.recipe.method == "dpo" else rendered
        prompt_tokens, completion_tokens = _last_answer(chosen)
        text = example.messages[example.answer_index].content
        answers.append(Answer(text, prompt_tokens, completion_tokens, STOP))
    baseline = Baseline.of(answers)
    return None if baseline is None else baseline.model_dump(mode="json")


def _preferred(row: Example | Pair) -> Example:
    return row if isinstance(row, Example) else row.preferred


def _last_answer(row: "Rendered") -> tuple[int, int]:
    """How many tokens stand before the last answer, and how many it has with its stop token."""
    from trainer.rendering import IGNORED

    learnt = [index for index, label in enumerate(row.labels) if label != IGNORED]
    end = first = learnt[-1]
    while first > 0 and row.labels[first - 1] != IGNORED:
        first -= 1
    return first, end - first + 1
