"""`turntable advise`: decide between prompting, retrieval and fine-tuning, from a case file or an interview."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trainer.advice.advice import Advice, Ground, advise, spoken
from trainer.advice.case import Case, CaseFile, InterviewQuestion, interview, parse, read_case
from trainer.advice.rules import RuleAnswer, articles_in
from trainer.cli.options import address_of, inference_key, trainer_app
from trainer.errors import RecipeError
from turntable.console import print_json, progress
from turntable.options import DEFAULT_DATA_DIR, DEFAULT_GATEWAY, AsJson, DataDir, Gateway

app = trainer_app(help="Decide between prompting, retrieval and fine-tuning.")

_STYLES = {
    RuleAnswer.FINE_TUNE: "green",
    RuleAnswer.NOT_YET: "yellow",
    RuleAnswer.PROMPT: "cyan",
    RuleAnswer.RETRIEVE: "cyan",
}


@app.command(interrupted="interrupted; nothing was kept")
def advise_case(
    file: Annotated[
        Path | None, typer.Argument(metavar="[CASE]", help="The case, a TOML file; without it, an interview.")
    ] = None,
    task: Annotated[
        Path | None, typer.Option(help="A task file: the prompted base model is evaluated on it through the gateway.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Datasets to check, the training set first; repeatable.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The task's name; training runs of this name record the advice.")
    ] = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Print PROMPT, RETRIEVE, FINE-TUNE or NOT YET, with the rule, its threshold and its source."""
    given = read_case(file) if file else None
    measured, facts = _measure(given, task, data, gateway, data_dir)
    case = _case(given, name, measured)
    advice = advise(case, facts)
    path = advice.save(data_dir)
    if as_json:
        print_json(advice.model_dump(mode="json") | {"file": str(path)})
    else:
        show(advice, Console())
    typer.echo(f"kept as {path}", err=True)


def show(advice: Advice, console: Console) -> None:
    """Print the answer in a panel, then the rule and other answers that apply."""
    decided = advice.decided
    title = Text(spoken(advice.answer), style=f"bold {_STYLES[advice.answer]}")
    console.print(Panel(Text(f"{_sentence(decided.because)}"), title=title, title_align="left"))
    table = Table.grid(padding=(0, 2))
    for label, value in _rows(advice, decided):
        table.add_row(Text(label, style="bold"), Text(value))
    console.print(table)
    for ground in advice.also:
        console.print(Text.assemble((f"also {spoken(ground.answer)}", "bold"), f": {ground.because} ({ground.source})"))


def _rows(advice: Advice, decided: Ground) -> list[tuple[str, str]]:
    rows = [("rule", decided.rule), ("number", decided.number), ("source", decided.source)]
    rows += [("disputed", decided.disputed)] if decided.disputed else []
    rows += [("would change it", decided.change)]
    rows += [("come back on", advice.come_back_on)] if advice.come_back_on else []
    rows += [("", line) for line in articles_in(f"{decided.source} {decided.disputed}")]
    rows += [("measured", line) for line in advice.measured.get("sentences", ())]
    rows += [("not known", ", ".join(advice.unknown))] if advice.unknown else []
    return rows


def _measure(
    given: CaseFile | None, task: Path | None, data: list[Path] | None, gateway: str, data_dir: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measured facts of the case, and the details of the measurements."""
    from trainer.advice.measure import measure_data

    facts: dict[str, Any] = {}
    seen: dict[str, Any] = {}
    paths = tuple(data or ()) or (given.data_paths() if given else ())
    if paths:
        facts, seen = measure_data(paths, given.kind if given else None)
    if task is not None:
        from trainer.advice.measure import measure_prompt

        metric, key = given.metric if given else None, inference_key(data_dir)
        with progress("evaluating") as shown:
            found, details = measure_prompt(
                task,
                metric,
                gateway_url=address_of(gateway, data_dir),
                key=key,
                data_dir=data_dir,
                progress=shown.update,
            )
        facts, seen = facts | found, _joined(seen, details)
    return facts, seen


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {**one, **other, "sentences": [*one.get("sentences", ()), *other.get("sentences", ())]}


def _case(given: CaseFile | None, name: str | None, measured: Mapping[str, Any]) -> Case:
    """The case, with measured facts in place of stated ones."""
    try:
        if given is not None:
            said = given.case().model_dump(exclude_none=True)
            return Case.model_validate(said | dict(measured) | ({"name": name} if name else {}))
        if not sys.stdin.isatty() and not name:
            raise RecipeError("give a case file, or --name and run it in a terminal for the interview.")
        chosen = name or typer.prompt("The task's name")
        return interview(chosen, measured, _ask)
    except ValidationError as error:
        detail = error.errors()[0]
        raise RecipeError(f"{'.'.join(map(str, detail['loc'])) or 'case'}: {detail['msg']}.") from error


def _ask(question: InterviewQuestion) -> str:
    """Ask until the answer can be parsed; empty means unknown."""
    while True:
        text: str = typer.prompt(f"{question.text} ({question.hint}; empty: not known)", default="", show_default=False)
        try:
            parse(question.field, text)
        except ValueError as error:
            typer.echo(f"  {error}; say one of: {question.hint}", err=True)
        else:
            return text


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
