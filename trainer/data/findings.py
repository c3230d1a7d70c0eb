"""What was found in the files of a check, each with its grade, what it means and the fix.

What a check says: findings, each with a grade, and the verdict, which is the worst of them.

How many rows a task needs, by its kind: the least to start with, and what is recommended.

The numbers are Precision AI Academy's table (2026) for fine-tuning by task type; copies do not count, and of a
classification each class has to reach them.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.data.comparisons import MOST_JUDGED, Comparisons, describe, judge_near
from trainer.data.labels import Balance, Labels
from trainer.data.near_duplicates import Indexes
from trainer.data.pii import NAMES, SECRETS
from trainer.data.rendering import TokenLengths
from trainer.data.row_signs import SIGNS
from trainer.data.scan import PLACES, Columns, FileScan, Scanner
from trainer.errors import Problem

Grade = Literal["green", "amber", "red"]
GREEN: Grade = "green"
AMBER: Grade = "amber"
RED: Grade = "red"
_BY_GRAVITY: tuple[Grade, ...] = (GREEN, AMBER, RED)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked for: its grade, how many rows it concerns, what it means with the fix, and where.

    Red must be mended before training; amber is for a person to look at. Of many places the first ones are kept.
    """

    grade: Grade
    name: str
    count: int
    message: str
    places: tuple[Problem, ...] = ()


def verdict(findings: Iterable[Finding]) -> Grade:
    """The worst grade; green when there is nothing."""
    return max((finding.grade for finding in findings), key=_BY_GRAVITY.index, default=GREEN)


Task = Literal["style", "format", "vocabulary", "classification", "instructions"]
_MOST_SHORT = 0.9
_MOST_HELD_OUT = 0.5
VERDICT_ITEMS = 50
"""Held-out rows that a verdict of `turntable compare` takes, unless its task says otherwise."""


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


def verdict_advice(held_out: int, rows: int) -> str | None:
    """What to do when too few of so many rows are held out for a verdict; None when there are enough."""
    if held_out >= VERDICT_ITEMS:
        return None
    told = f"{held_out:,} test rows, and a verdict of turntable compare takes {VERDICT_ITEMS} (min_items in [gate])"
    share = math.ceil(100 * VERDICT_ITEMS / rows) / 100 if rows else 1.0
    if share <= _MOST_HELD_OUT:
        return f"{told}; split with --test {share:g}, or collect {10 * VERDICT_ITEMS:,} rows for --test 0.1"
    least = 2 * VERDICT_ITEMS
    return f"{told}; collect {least - rows:,} more rows and split with --test 0.5, or set a lower min_items beforehand"


def guess_task(labels: Labels) -> Task | None:
    """The kind of task that outputs show by their form: classes, or JSON; nothing else can be told from outside."""
    if labels.objects >= _MOST_SHORT * labels.outputs > 0:
        return "format"
    return "classification" if any(balance.field is None for balance in labels.balances) else None


def judge_size(task: Task, rows: int, balances: tuple[Balance, ...]) -> Finding:
    """Red below the minimum, amber below what is recommended; `rows` are those left without copies."""
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
    return Finding(grade, "size", least, f"{least:,} {what} for a {task} task; {advice}")


TOLERATED_LONG = 0.01
PROVEN = ("control_text", "reasoning", "long")
"""Signs that rendering under the base's own template makes certain, one way or the other."""


def problem_findings(files: Sequence[FileScan]) -> Iterator[Finding]:
    """Rows that cannot be read, and files that mix conversations with pairs."""
    if count := sum(file.problem_count for file in files):
        places = [problem for file in files for problem in file.problems]
        yield Finding(
            RED, "problems", count, "rows that cannot be trained on; mend or remove them", tuple(places[:PLACES])
        )
    for file in files:
        if len(file.kinds) > 1:
            held = " and ".join(f"{count:,} {kind}" for kind, count in sorted(file.kinds.items()))
            place = Problem(str(file.path), None, f"holds {held}")
            yield Finding(
                RED, "mixed", min(file.kinds.values()), "a file is trained on as one kind; split it", (place,)
            )


def copy_findings(files: Sequence[FileScan], columns: Columns, found: Comparisons) -> Iterator[Finding]:
    """Copies within a file, and rows that two files share."""
    kinds = (
        ("copies", found.copies, "holds the same messages as", "exact copies; each is learnt that many times over"),
        ("near_copies", found.near_copies, "asks nearly the same as", "near copies; they add less than they seem to"),
        ("shared", found.shared, "is also in", "rows stand in two files: what is scored on them was learnt by heart"),
        ("shared_near", found.shared_near, "asks nearly the same as", "near copies stand in two files: scores flatter"),
        ("shared_group", found.shared_group, "is of the same group as", "rows of one group stand in two files"),
    )
    fixes = {"copies": "turntable data prepare drops them", "near_copies": "turntable data prepare --duplicates near"}
    for name, pairs, relation, message in kinds:
        if len(pairs):
            fix = fixes.get(name, "split again with turntable data split")
            yield Finding(AMBER, name, len(pairs), f"{message}; {fix}", _places(files, columns, pairs, relation))


def contradiction_findings(scanner: Scanner, columns: Columns, found: Comparisons) -> Iterator[Finding]:
    """Rows that teach opposite things."""
    files, fix = scanner.files, "decide which is right and remove the other"
    if len(found.same_asked):
        places = tuple(describe(files, columns, found.same_asked, most=PLACES))
        yield Finding(AMBER, "contradictions", len(found.same_asked), f"the same input, unlike outputs; {fix}", places)
    if len(found.preferences):
        places = tuple(describe(files, columns, found.preferences, most=PLACES))
        message = f"pairs prefer what another pair of the same input rejects; {fix}"
        yield Finding(RED, "turned_preferences", len(found.preferences), message, places)
    if any(balance.field is None or scanner.labels.wanted for balance in scanner.labels.balances):
        count, near = judge_near(files, columns, found.near_asked, scanner.labels, most=PLACES)
        message = f"near inputs, unlike classes; {fix}, or tell in the input what makes the difference"
        if len(found.near_asked) > MOST_JUDGED:
            message += f" (only {MOST_JUDGED:,} of {len(found.near_asked):,} near pairs were read)"
        if count:
            yield Finding(AMBER, "near_contradictions", count, message, tuple(near))


def content_findings(scanner: Scanner) -> Iterator[Finding]:
    """Secrets, personal data and placeholders."""
    for kind, tally in scanner.personal.items():
        if tally.rows:
            grade = RED if kind in SECRETS else AMBER
            what = f"rows hold {NAMES[kind]} ({tally.pieces:,} in all), which a model can repeat"
            fix = "turntable data prepare redacts them or drops the rows"
            yield Finding(grade, kind.lower(), tally.rows, f"{what}; {fix}", tuple(tally.places))
    if scanner.placeholders.rows:
        message = "placeholders would be learnt as they stand; fill them in"
        yield Finding(AMBER, "placeholders", scanner.placeholders.rows, message, tuple(scanner.placeholders.places))
    if scanner.ungrouped:
        yield Finding(AMBER, "ungrouped", scanner.ungrouped, "rows have no group field, so they count as groups of one")


def rating_findings(scanner: Scanner, columns: Columns) -> Iterator[Finding]:
    """Rows whose answers are said to be bad, and pairs whose scores prefer what they reject."""
    if bad := scanner.ratings.bad():
        places = tuple(
            Problem(str(scanner.files[int(columns.file[row])].path), int(columns.line[row]), f"{why}, yet it is learnt")
            for row, why in list(bad.items())[:PLACES]
        )
        message = (
            "rows say that their answer is bad, and would be learnt as good ones; turntable data prepare leaves them "
            "out, with --rated pairs it makes preference pairs of them and the good answers to the same input; "
            "give a field that means something else another name"
        )
        yield Finding(RED, "rated_bad", len(bad), message, places)
    if scanner.turned_scores.rows:
        message = "pairs prefer the answer of the lower score; turn them round, or remove the scores"
        yield Finding(RED, "turned_scores", scanner.turned_scores.rows, message, tuple(scanner.turned_scores.places))


def sign_findings(scanner: Scanner, *, rendered: bool) -> Iterator[Finding]:
    """What is doubtful about single rows; what a rendering proves or disproves is told only without one."""
    for name, tally in scanner.signs.items():
        if tally.rows and not (rendered and name in PROVEN):
            yield Finding(AMBER, name, tally.rows, SIGNS[name], tuple(tally.places))


def held_out_findings(files: Sequence[FileScan]) -> Iterator[Finding]:
    """Too few held-out rows for a verdict: amber for files that are there, a word beforehand for one to be split."""
    counts = [file.kinds["conversations"] for file in files]
    if not counts[0]:
        return
    if len(counts) > 1:
        if said := verdict_advice(max(counts[1:]), sum(counts)):
            yield Finding(AMBER, "few_test_rows", max(counts[1:]), said)
    elif said := verdict_advice(counts[0] // 10, counts[0]):
        yield Finding(GREEN, "few_test_rows", counts[0] // 10, f"turntable data split leaves {said}")


def balance_findings(balances: Sequence[Balance]) -> Iterator[Finding]:
    """Classes that are rare beside others."""
    for balance in balances:
        if balance.unbalanced:
            name = f"field {balance.field}" if balance.field else "outputs"
            most, least = next(iter(balance.counts.items())), list(balance.counts.items())[-1]
            message = (
                f'{name}: {most[1]:,} rows of class "{most[0]}" but {least[1]:,} of "{least[0]}"; '
                "collect more of the rare classes"
            )
            yield Finding(AMBER, "unbalanced", least[1], message)


def length_findings(lengths: TokenLengths) -> Iterator[Finding]:
    """Rows that the chat template cannot render or mask exactly, and rows over the longest length."""
    if lengths.unrendered:
        message = "rows that cannot be rendered or masked exactly; mend or remove them"
        yield Finding(RED, "unrendered", len(lengths.unrendered), message, lengths.unrendered[:PLACES])
    if lengths.too_long:
        grade = RED if len(lengths.too_long) > TOLERATED_LONG * lengths.rendered else AMBER
        message = f"rows over {lengths.max_length:,} tokens would be left out; raise max_length or shorten them"
        yield Finding(grade, "too_long", len(lengths.too_long), message, lengths.too_long[:PLACES])


def _places(files: Sequence[FileScan], columns: Columns, pairs: Indexes, relation: str) -> tuple[Problem, ...]:
    places = []
    for row, other in pairs[:PLACES]:
        path, earlier = (str(files[int(columns.file[index])].path) for index in (row, other))
        line = int(columns.line[other])
        where = f"line {line}" if earlier == path else f"{earlier}:{line}"
        places.append(Problem(path, int(columns.line[row]), f"{relation} {where}"))
    return tuple(places)
