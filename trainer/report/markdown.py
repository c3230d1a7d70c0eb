"""A decision's report as Markdown, for a repository or a ticket."""

import re
from collections.abc import Iterable, Iterator, Sequence

from trainer.report.blocks import Block, Charts, Facts, Heading, Sides, Table, Verdict, Words

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&!])")
_FENCES = re.compile(r"`+")


def markdown(title: str, blocks: Iterable[Block]) -> str:
    """The text; charts are left out, as their figures stand in tables, and what models wrote stands in fences."""
    lines = [f"# {_plain(title)}", ""]
    for block in blocks:
        lines += [*_block(block), ""]
    return "\n".join(lines)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Verdict(words, sentence, _):
            yield f"**{_plain(words)}** {_plain(sentence)}"
        case Heading(text):
            yield f"## {_plain(text)}"
        case Words(text, note):
            yield f"> {_plain(text)}" if note else _plain(text)
        case Facts(rows):
            yield from (f"- **{_plain(name)}**: {_plain(value)}" for name, value in rows)
        case Table(head, rows):
            yield from (_row(head), _row(["---"] * len(head), escaped=True), *map(_row, rows))
        case Charts():
            return
        case Sides():
            yield from _sides(block)


def _row(cells: Sequence[str], *, escaped: bool = False) -> str:
    return f"| {' | '.join(cells if escaped else map(_plain, cells))} |"


def _sides(item: Sides) -> Iterator[str]:
    for name, text in ((item.title, item.prompt), ("expected", item.expected), *item.answers):
        if text or name not in ("expected", item.title):
            yield from (f"**{_plain(name)}**", "", *_fenced(text), "")


def _fenced(text: str) -> Iterator[str]:
    """The text in a fence that nothing in it can close."""
    fence = "`" * max(3, 1 + max((len(run) for run in _FENCES.findall(text)), default=0))
    yield from (fence, text, fence)


def _plain(text: str) -> str:
    """One line in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
