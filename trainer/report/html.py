"""A decision's report as one HTML page that loads nothing, runs nothing, and prints well."""

from collections.abc import Iterable, Sequence
from html import escape

from trainer.report.blocks import Block, Charts, Facts, Heading, Sides, Table, Verdict, Words

# Nothing may run or be loaded, even if a text of a model got past the escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #2f855a; --bad: #c53030; --unsure: #b7791f; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
.verdict { color: #fff; border-radius: 8px; padding: 1rem 1.4rem; margin: 1rem 0; }
.verdict strong { display: block; font-size: 2rem; line-height: 1.2; letter-spacing: .02em; }
.good { background: var(--good); } .bad { background: var(--bad); } .unsure { background: var(--unsure); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 1rem; }
svg { width: 100%; max-width: 44rem; height: auto; border: 1px solid var(--line); border-radius: 6px;
  font: 11px system-ui, sans-serif; }
svg text { fill: currentColor; } svg .title { font-size: 13px; font-weight: 600; }
.grid { stroke: var(--line); } .mark { stroke: currentColor; stroke-dasharray: 4 3; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--soft); } td { overflow-wrap: break-word; }
.note { background: var(--soft); border-left: 4px solid var(--unsure); padding: .5rem 1rem; }
.sides { border: 1px solid var(--line); border-radius: 6px; padding: .2rem 1rem .8rem; margin: .8rem 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .5rem .8rem; margin: .2rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; } dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
@media print {
  body { margin: 0; max-width: none; font-size: 10.5pt; } h2 { break-after: avoid; }
  .sides, svg, tr, .verdict { break-inside: avoid; } .charts { grid-template-columns: 1fr 1fr; }
  .verdict, thead th, rect, circle { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def html_page(title: str, blocks: Iterable[Block]) -> str:
    """The page; every text in it is escaped, those of models above all."""
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
            *map(_block, blocks),
            "</body></html>\n",
        ]
    )


def _block(block: Block) -> str:
    match block:
        case Verdict(words, sentence, tone):
            return f'<div class="verdict {tone}"><strong>{escape(words)}</strong>{escape(sentence)}</div>'
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Words(text, note):
            return f"<p{' class=note' if note else ''}>{escape(text)}</p>"
        case Facts(rows):
            pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
            return f"<dl>{pairs}</dl>"
        case Table(head, rows):
            return _table(head, rows)
        case Charts(drawings):
            return f'<div class="charts">{"".join(drawings)}</div>'
        case Sides():
            return _sides(block)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _sides(item: Sides) -> str:
    asked = "".join(
        f"<h3>{escape(name)}</h3><pre>{escape(text)}</pre>"
        for name, text in ((item.title, item.prompt), ("expected", item.expected))
        if text
    )
    answers = "".join(f"<div><h3>{escape(name)}</h3><pre>{escape(text)}</pre></div>" for name, text in item.answers)
    return f'<div class="sides">{asked}<div class="pair">{answers}</div></div>'
