"""`turntable report COMPARISON`: write an evaluation report as one HTML page and one Markdown file."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import trainer_app
from trainer.files import replacing
from trainer.report.context import find_report, outcome, read_context
from trainer.report.page import html_page, markdown
from turntable.console import print_json
from turntable.options import DEFAULT_DATA_DIR, AsJson, DataDir

app = trainer_app(help="Write an evaluation report as HTML and Markdown.", no_args_is_help=True)


@app.command()
def report_decision(
    decisions: Annotated[
        list[str], typer.Argument(metavar="DECISION...", help="The report or folder of a comparison, or a task's name.")
    ],
    out: Annotated[Path | None, typer.Option(help="The folder to write to.", show_default="beside each report")] = None,
    check_data: Annotated[
        bool, typer.Option("--check-data/--no-check-data", help="Lint the training data again, if it is available.")
    ] = True,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Write each evaluation report as a self-contained HTML page and as Markdown; exit code 0 for any verdict."""
    written = []
    for path in [find_report(decision, data_dir) for decision in decisions]:
        context = read_context(path, data_dir, check=check_data)
        stem = (out or path.parent) / f"{path.parent.name if path.stem == 'report' else path.stem}-decision"
        html, text = stem.with_name(f"{stem.name}.html"), stem.with_name(f"{stem.name}.md")
        for file, content in ((html, html_page(context)), (text, markdown(context))):
            with replacing(file) as handle:
                handle.write(content)
        verdict = outcome(context.report)
        written.append({"verdict": verdict.words, "why": verdict.sentence, "html": str(html), "markdown": str(text)})
    if as_json:
        print_json(written)
        return
    for one in written:
        typer.echo(f"{one['verdict']}: {one['why']}")
        typer.echo(f"{one['html']}\n{one['markdown']}")
