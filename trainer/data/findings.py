"""Turn the scan and the comparisons of files into findings: a grade, a count, the meaning with the fix, places.

The verdict on files is their worst grade. Red stops `turntable train`, unless --despite-data gives a reason; amber
is for a person to look at.

How many rows a task needs follows the table that Precision AI Academy (2026) publishes for fine-tuning by task type;
duplicates do not count, and for a classification each class has to reach the numbers.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.data.comparisons import MAX_JUDGED, Comparisons, describe, judge_near
from trainer.data.labels import Balance, Labels
from trainer.data.near_duplicates import Indexes
from trainer.data.pii import NAMES, SECRETS
from trainer.data.rendering import TokenLengths
from trainer.data.row_signs import SIGNS
from trainer.data.scan import MAX_PLACES, Columns, FileScan, Scanner
from trainer.errors import Problem

Grade = Literal["green", "amber", "red"]
GREEN: Grade = "green"
AMBER: Grade = "amber"
RED: Grade = "red"
_BY_SEVERITY: tuple[Grade, ...] = (GREEN, AMBER, RED)

Task = Literal["style", "format", "vocabulary", "classification", "instructions"]
_MOST_OUTPUTS = 0.9
_MAX_HELD_OUT = 0.5
VERDICT_ITEMS = 50
"""Test examples that a verdict of `turntable compare` needs, unless its task says otherwise."""

TOLERATED_LONG = 0.01
PROVEN = ("control_text", "reasoning", "long")
"""Signs that rendering with the base's own chat template proves or disproves."""
ACCEPTABLE = (
    *("rated_bad", "conflicting_scores", "conflicting_preferences"),
    *(kind.lower() for kind in SECRETS),
)
"""Red findings that `turntable train --despite-data` accepts; the other ones leave nothing that could be trained on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check: its grade, how many rows it concerns, the meaning with the fix, and the first places."""

    grade: Grade
    name: str
    count: int
    message: str
    places: tuple[Problem, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.count:,} {self.message}"


@dataclass(frozen=True, slots=True)
class Size:
    """Rows a task needs: at least `minimum`, better between `recommended` and `plenty`; per class when `per_class`."""

    minimum: int
    recommended: int
    plenty: int
    per_class: bool = False


SIZES: dict[Task, Size] = {
    "style": Size(100, 300, 500),
    "format": Size(200, 500, 1_000),
    "vocabulary": Size(500, 1_000, 3_000),
    "classification": Size(50, 200, 500, per_class=True),
    "instructions": Size(1_000, 5_000, 20_000),
}


def verdict(findings: Iterable[Finding]) -> Grade:
    """Return the worst grade; green when there are no findings."""
    return max((finding.grade for finding in findings), key=_BY_SEVERITY.index, default=GREEN)


def problem_findings(files: Sequence[FileScan]) -> Iterator[Finding]:
    """Report rows that cannot be read, and files that mix conversations with preference pairs."""
    if count := sum(file.problem_count for file in files):
        places = [problem for file in files for problem in file.problems]
        message = "rows cannot be trained on; fix or remove them"
        yield Finding(RED, "problems", count, message, tuple(places[:MAX_PLACES]))
    for file in files:
        if len(file.kinds) > 1:
            counts = " and ".join(f"{count:,} {kind}" for kind, count in sorted(file.kinds.items()))
            place = Problem(str(file.path), None, f"contains {counts}")
            message = "rows are of another kind than the rest of their file; split conversations from preference pairs"
            yield Finding(RED, "mixed", min(file.kinds.values()), message, (place,))


def length_findings(lengths: TokenLengths) -> Iterator[Finding]:
    """Report rows that the chat template cannot render or mask exactly, that hold control tokens, or are too long."""
    if lengths.unrendered:
        message = "rows cannot be rendered or masked exactly; fix or remove them"
        yield Finding(RED, "unrendered", len(lengths.unrendered), message, lengths.unrendered[:MAX_PLACES])
    if lengths.special_tokens:
        grade = RED if len(lengths.special_tokens) > TOLERATED_LONG * lengths.rendered else AMBER
        message = (
            "rows contain a literal control token and would be left out; edit them, or set special_tokens in [data] of "
            'the recipe to "escape", which encodes it as text, or "stop"'
        )
        places = lengths.special_tokens[:MAX_PLACES]
        yield Finding(grade, "special_tokens", len(lengths.special_tokens), message, places)
    if lengths.too_long:
        grade = RED if len(lengths.too_long) > TOLERATED_LONG * lengths.rendered else AMBER
        message = f"rows over {lengths.max_length:,} tokens would be left out; raise max_length or shorten them"
        yield Finding(grade, "too_long", len(lengths.too_long), message, lengths.too_long[:MAX_PLACES])


def conflict_findings(scanner: Scanner, columns: Columns, found: Comparisons) -> Iterator[Finding]:
    """Report rows that teach opposite things."""
    files, fix = scanner.files, "decide which is right and remove the other"
    if len(found.contradictions):
        places = tuple(describe(files, columns, found.contradictions, limit=MAX_PLACES))
        message = f"rows answer the same input differently; {fix}"
        yield Finding(AMBER, "contradictions", len(found.contradictions), message, places)
    if len(found.conflicting_preferences):
        places = tuple(describe(files, columns, found.conflicting_preferences, limit=MAX_PLACES))
        message = f"pairs prefer an answer that another pair with the same input rejects; {fix}"
        yield Finding(RED, "conflicting_preferences", len(found.conflicting_preferences), message, places)
    if any(balance.field is None or scanner.labels.wanted for balance in scanner.labels.balances):
        count, near = judge_near(files, columns, found.near_candidates, scanner.labels, limit=MAX_PLACES)
        message = f"rows with nearly the same input have different classes; {fix}, or state the difference in the input"
        if len(found.near_candidates) > MAX_JUDGED:
            message += f" (only {MAX_JUDGED:,} of {len(found.near_candidates):,} near-duplicate pairs were read)"
        if count:
            yield Finding(AMBER, "near_contradictions", count, message, tuple(near))


def content_findings(scanner: Scanner) -> Iterator[Finding]:
    """Report secrets, PII, placeholders and rows without the group field."""
    for kind, tally in scanner.pii.items():
        if tally.rows:
            grade = RED if kind in SECRETS else AMBER
            message = (
                f"rows contain {NAMES[kind]} ({tally.matches:,} in all), which the model can repeat; "
                "turntable data prepare redacts them or drops the rows"
            )
            yield Finding(grade, kind.lower(), tally.rows, message, tuple(tally.places))
    if scanner.placeholders.rows:
        message = "rows contain placeholders, which would be trained on as they are; fill them in"
        yield Finding(AMBER, "placeholders", scanner.placeholders.rows, message, tuple(scanner.placeholders.places))
    if scanner.ungrouped:
        yield Finding(AMBER, "ungrouped", scanner.ungrouped, "rows have no group field; each is a group of its own")


def rating_findings(scanner: Scanner, columns: Columns) -> Iterator[Finding]:
    """Report rows whose answers are rated bad, and pairs whose scores prefer the rejected answer."""
    if bad := scanner.ratings.bad():
        places = tuple(
            Problem(
                str(scanner.files[int(columns.file[row])].path),
                int(columns.line[row]),
                f"{why}, but its answer would be trained on",
            )
            for row, why in list(bad.items())[:MAX_PLACES]
        )
        message = (
            "rows have an answer that is rated bad and would be trained on as a good one; turntable data prepare "
            "leaves them out, or with --rated pairs makes preference pairs of bad and good answers to the same input; "
            'method = "kto" learns from rows with a label; '
            "rename a field that means something else"
        )
        yield Finding(RED, "rated_bad", len(bad), message, places)
    if tally := scanner.conflicting_scores.rows:
        message = "pairs prefer the answer with the lower score; swap the answers, or remove the scores"
        yield Finding(RED, "conflicting_scores", tally, message, tuple(scanner.conflicting_scores.places))


def sign_findings(scanner: Scanner, *, rendered: bool) -> Iterator[Finding]:
    """Report doubtful rows; with `rendered`, leave out signs that rendering proves or disproves."""
    for name, tally in scanner.signs.items():
        if tally.rows and not (rendered and name in PROVEN):
            yield Finding(AMBER, name, tally.rows, SIGNS[name], tuple(tally.places))


def duplicate_findings(files: Sequence[FileScan], columns: Columns, found: Comparisons) -> Iterator[Finding]:
    """Report duplicates within a file, and train/test leakage between files."""
    drop, split = "turntable data prepare drops them", "split again with turntable data split"
    kinds = (
        (
            "duplicates",
            found.duplicates,
            "has the same messages as",
            f"exact duplicates, trained on repeatedly; {drop}",
        ),
        (
            *("near_duplicates", found.near_duplicates, "has nearly the same input as"),
            "near-duplicates, which add little; turntable data prepare --duplicates near drops them",
        ),
        (
            *("leakage", found.leakage, "is also in"),
            f"rows are in two files: train/test leakage, test scores will be inflated; {split}",
        ),
        (
            *("near_leakage", found.near_leakage, "has nearly the same input as"),
            f"near-duplicates across files: train/test leakage, test scores will be inflated; {split}",
        ),
        (
            *("group_leakage", found.group_leakage, "is of the same group as"),
            f"rows of one group are in two files: train/test leakage; {split} --group-field",
        ),
    )
    for name, pairs, relation, message in kinds:
        if len(pairs):
            yield Finding(AMBER, name, len(pairs), message, _places(files, columns, pairs, relation))


def balance_findings(balances: Sequence[Balance]) -> Iterator[Finding]:
    """Report classes that are rare beside others."""
    for balance in balances:
        if balance.unbalanced:
            name = f"field {balance.field}" if balance.field else "outputs"
            most, least = next(iter(balance.counts.items())), list(balance.counts.items())[-1]
            message = (
                f'rows of the rarest class; {name}: {most[1]:,} rows of class "{most[0]}" but {least[1]:,} of '
                f'"{least[0]}"; collect more of the rare classes'
            )
            yield Finding(AMBER, "unbalanced", least[1], message)


def held_out_findings(files: Sequence[FileScan]) -> Iterator[Finding]:
    """Report too few test rows for a verdict: amber for files that exist, green for one that is yet to be split."""
    counts = [file.kinds["conversations"] for file in files]
    if not counts[0]:
        return
    if len(counts) > 1:
        if advice := held_out_advice(max(counts[1:]), sum(counts)):
            yield Finding(AMBER, "few_test_rows", max(counts[1:]), advice)
    elif advice := held_out_advice(counts[0] // 10, counts[0]):
        yield Finding(GREEN, "few_test_rows", counts[0] // 10, f"turntable data split leaves {advice}")


def held_out_advice(test_rows: int, rows: int) -> str | None:
    """Return what to do when too few of so many rows are test rows for a verdict; None when there are enough."""
    if test_rows >= VERDICT_ITEMS:
        return None
    few = f"{test_rows:,} test rows, and a verdict of turntable compare needs {VERDICT_ITEMS} (min_items in [gate])"
    share = math.ceil(100 * VERDICT_ITEMS / rows) / 100 if rows else 1.0
    if share <= _MAX_HELD_OUT:
        return f"{few}; split with --test {share:g}, or collect {10 * VERDICT_ITEMS:,} rows for --test 0.1"
    least = 2 * VERDICT_ITEMS
    return f"{few}; collect {least - rows:,} more rows and split with --test 0.5, or set a lower min_items beforehand"


def guess_task(labels: Labels) -> Task | None:
    """Guess the kind of task from the form of the outputs: classes or JSON; None for other forms."""
    if labels.objects >= _MOST_OUTPUTS * labels.outputs > 0:
        return "format"
    return "classification" if any(balance.field is None for balance in labels.balances) else None


def judge_size(task: Task, rows: int, balances: tuple[Balance, ...]) -> Finding:
    """Grade the number of rows without duplicates: red below the minimum, amber below the recommendation."""
    size = SIZES[task]
    counts = dict(balances[0].counts) if size.per_class and balances else {"": rows}
    name, least = min(counts.items(), key=lambda item: item[1])
    what = f'rows of class "{name}"' if name else "different rows" + (" (no classes found)" if size.per_class else "")
    grade: Grade = RED if least < size.minimum else AMBER if least < size.recommended else GREEN
    each = " per class" if size.per_class else ""
    advice = {
        RED: f"collect at least {size.minimum:,}{each}, better {size.recommended:,} to {size.plenty:,}",
        AMBER: f"{size.recommended:,} to {size.plenty:,}{each} are recommended",
        GREEN: f"enough: {size.recommended:,} to {size.plenty:,}{each} are recommended",
    }[grade]
    return Finding(grade, "size", least, f"{what} for a {task} task; {advice}")


def _places(files: Sequence[FileScan], columns: Columns, pairs: Indexes, relation: str) -> tuple[Problem, ...]:
    places = []
    for row, other in pairs[:MAX_PLACES]:
        path, earlier = (str(files[int(columns.file[index])].path) for index in (row, other))
        line = int(columns.line[other])
        where = f"line {line}" if earlier == path else f"{earlier}:{line}"
        places.append(Problem(path, int(columns.line[row]), f"{relation} {where}"))
    return tuple(places)
