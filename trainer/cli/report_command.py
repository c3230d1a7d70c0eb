"""`turntable report DECISION`: a comparison's decision as one HTML page and one Markdown file, to read and to send."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import DEFAULT_DATA_DIR, AsJson, DataDir, exit_codes, print_json
from trainer.files import replacing
from trainer.report.context import find_report, outcome, read_context
from trainer.report.page import html_page, markdown

app = typer.Typer(help="A comparison's decision as one HTML page and Markdown.", no_args_is_help=True)


@app.command()
def report_decision(
    decisions: Annotated[
        list[str], typer.Argument(metavar="DECISION...", help="A comparison's report or folder, or a task's name.")
    ],
    out: Annotated[Path | None, typer.Option(help="The folder to write to; beside each report by default.")] = None,
    check_data: Annotated[
        bool, typer.Option("--check-data/--no-check-data", help="Check the training file again, if it is here.")
    ] = True,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Write each decision as a self-contained HTML page and as Markdown; it ends with 0 whatever the verdict is."""
    written = []
    with exit_codes("interrupted"):
        for path in [find_report(decision, data_dir) for decision in decisions]:
            context = read_context(path, data_dir, check=check_data)
            stem = (out or path.parent) / f"{path.parent.name if path.stem == 'report' else path.stem}-decision"
            html, text = stem.with_name(f"{stem.name}.html"), stem.with_name(f"{stem.name}.md")
            for file, content in ((html, html_page(context)), (text, markdown(context))):
                with replacing(file) as handle:
                    handle.write(content)
            verdict = outcome(context.report)
            written.append(
                {"verdict": verdict.words, "why": verdict.sentence, "html": str(html), "markdown": str(text)}
            )
    if as_json:
        print_json(written)
        return
    for one in written:
        typer.echo(f"{one['verdict']}: {one['why']}")
        typer.echo(f"{one['html']}\n{one['markdown']}")
