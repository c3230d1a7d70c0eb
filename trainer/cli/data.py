"""`turntable data`: lint, convert, preview and split datasets before training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from trainer.cli import data_report
from trainer.cli.options import show_problems, trainer_app
from trainer.data.convert import COLUMN_ROLES
from trainer.data.estimate import Hardware, Machine, parameters_of
from trainer.data.findings import AMBER, RED, Task
from trainer.data.lint import LintOptions, lint_files
from trainer.data.loaders import Shape
from trainer.data.prepare import Policy, prepare
from trainer.data.rendering import first_rows, render_rows
from trainer.data.split import SplitPlan, write_split
from trainer.errors import RunError
from trainer.training.base import BASE_MODEL_FOLDER, Base, find_base
from trainer.training.publish import other_tokens
from trainer.training.recipe import EMBEDDED
from turntable.console import FAILED, CommandError, print_json, say
from turntable.options import DEFAULT_DATA_DIR, AsJson, DataDir

if TYPE_CHECKING:
    from trainer.training.loss_mask import Renderer

app = trainer_app(help="Check, convert, preview and split datasets.", no_args_is_help=True)


Similarity = Annotated[float, typer.Option(min=0.5, max=1.0, help="Similarity from which inputs are near-duplicates.")]


@app.command("check")
def check(
    files: Annotated[
        list[Path], typer.Argument(help="JSONL files: the training set first, then validation and test sets.")
    ],
    base_model: Annotated[
        str | None,
        typer.Option(help="Measure token lengths with this model: `embedded`, a model directory or a hub name."),
    ] = None,
    max_length: Annotated[int, typer.Option(min=8, help="The recipe's max_length.")] = 1024,
    epochs: Annotated[int, typer.Option(min=1, help="The recipe's num_train_epochs.")] = 3,
    task: Annotated[
        Task | None, typer.Option(help="The kind of task, for the check of the training set's size.")
    ] = None,
    label_field: Annotated[
        str | None, typer.Option(help="The field of JSON outputs that holds the class label.")
    ] = None,
    group_field: Annotated[
        str | None, typer.Option(help="A field, like a customer id, whose values must not be in two files.")
    ] = None,
    similarity: Similarity = 0.8,
    usd_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price of the machine, for the cost estimate.")
    ] = None,
    tokens_per_s: Annotated[
        float | None, typer.Option(min=0.001, help="Training speed of the machine, for the estimate.")
    ] = None,
    hardware: Annotated[
        Hardware | None, typer.Option(help="Estimate for this hardware instead of the local machine.")
    ] = None,
    parameters_b: Annotated[
        float | None,
        typer.Option(min=0.001, help="Billions of parameters of a base model that is not local, for the estimate."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 for amber as well.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Lint datasets before training: format, duplicates, leakage, PII, sizes; exit code 1 when the verdict is red."""
    base = _base(base_model, data_dir) if base_model else None
    renderer, name = (_renderer(base), base.name) if base else (None, None)
    size = round(parameters_b * 1e9) if parameters_b else parameters_of(base.directory) if base else None
    machine = Machine(tokens_per_s, hardware, size)
    rules = (max_length, epochs, task, label_field, group_field, similarity, usd_per_hour, machine)
    options = LintOptions(renderer, name, data_dir / "runs", *rules)
    report = lint_files(files, options)
    print_json(data_report.lint_json(report)) if as_json else data_report.show_lint(report)
    if unreadable := [str(file.path) for file in report.files if file.unreadable]:
        raise CommandError(f"{', '.join(unreadable)} cannot be read; check the path.")
    if report.verdict == RED or (strict and report.verdict == AMBER):
        raise typer.Exit(FAILED)


def _base(base_model: str, data_dir: Path) -> Base:
    if base_model == EMBEDDED and not (data_dir / BASE_MODEL_FOLDER / "config.json").is_file():
        say(
            "note: the chat template is that of the embedded base model, built first (once, about 15 s); "
            "give --base-model to use your model's template.",
            err=True,
        )
    return find_base(base_model, relative_to=Path(), data_dir=data_dir, console=Console(stderr=True))


def _renderer(base: Base) -> "Renderer":
    from trainer.training.loss_mask import Renderer

    return Renderer.load(base.directory)


@app.command("prepare", interrupted="interrupted; nothing was written")
def convert(
    file: Annotated[Path, typer.Argument(help="JSONL, a JSON array, CSV, TSV or Parquet; may be gzipped.")],
    out: Annotated[Path, typer.Option(help="The JSONL file to write; a log of all changes goes beside it.")],
    shape: Annotated[
        Shape | None, typer.Option("--from", help="The input format.", show_default="detected per row")
    ] = None,
    pii: Annotated[Literal["redact", "drop", "keep"], typer.Option(help="What to do with secrets and PII.")] = "redact",
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAME=ROLE,...", help="Map columns to roles, like question=user,answer=assistant."),
    ] = None,
    rated: Annotated[
        Literal["drop", "pairs", "keep"],
        typer.Option(help="What to do with rows rated as bad answers; `pairs` makes preference pairs of them."),
    ] = "drop",
    duplicates: Annotated[
        Literal["exact", "near", "keep"],
        typer.Option(help="Which duplicates to drop; near-duplicates only when their answers agree."),
    ] = "exact",
    similarity: Similarity = 0.8,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert and clean a file; every redacted, trimmed or dropped row is listed in a log beside it."""
    policy = Policy(pii, duplicates, rated, similarity)
    account = prepare(file, out, policy, shape=shape, columns=_columns(columns), force=force)
    if as_json:
        print_json(data_report.account_json(account))
    else:
        data_report.show_account(account)


def _columns(text: str | None) -> dict[str, str] | None:
    """Column roles as given to --columns."""
    if text is None:
        return None
    roles = {}
    for part in text.split(","):
        name, _, role = (piece.strip() for piece in part.rpartition("="))
        if not name or role not in COLUMN_ROLES or name in roles:
            raise RunError(f"--columns: {part!r} is not NAME=ROLE; the roles are {', '.join(COLUMN_ROLES)}.")
        roles[name] = role
    if missing := {"user", "assistant"} - set(roles.values()):
        raise RunError(f"--columns maps no column to {min(missing)}; write for example question=user,answer=assistant.")
    return roles


@app.command()
def preview(
    file: Annotated[Path, typer.Argument(help="JSONL: conversations or preference pairs.")],
    base_model: Annotated[str, typer.Option(help="`embedded`, a model directory or a hub name.")] = EMBEDDED,
    rows: Annotated[int, typer.Option(min=1, help="How many examples to show.")] = 3,
    against_gateway: Annotated[
        str | None, typer.Option(metavar="URL", help="Also compare the tokens with those of this gateway's /tokenize.")
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Show examples as the model sees them, loss tokens in ⟦green⟧; exit code 1 when a loss mask is wrong."""
    shown = first_rows(file, rows)
    renderer = _renderer(_base(base_model, data_dir))
    rendered, problems = render_rows(renderer, file, shown)
    if against_gateway:
        problems += other_tokens(renderer, file, shown, gateway_url=against_gateway, data_dir=data_dir)
    if as_json:
        print_json([data_report.mask_json(row) for row in rendered])
    else:
        for row in rendered:
            typer.echo(data_report.mask_text(row))
    show_problems(problems)
    if problems:
        raise typer.Exit(FAILED)


@app.command("split", interrupted="interrupted; nothing was written")
def split(
    file: Annotated[Path, typer.Argument(help="JSONL: conversations or preference pairs.")],
    out_dir: Annotated[
        Path | None, typer.Option(help="The folder to write to.", show_default="beside the file")
    ] = None,
    valid: Annotated[float, typer.Option(min=0, max=0.5, help="Share of the validation set; 0 writes none.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=0.5, help="Share of the test set; 0 writes none.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Random seed of the split.")] = 0,
    group_field: Annotated[
        str | None, typer.Option(help="Keep rows with the same value of this field, like a customer id, in one set.")
    ] = None,
    label_field: Annotated[
        str | None, typer.Option(help="The field of JSON outputs that holds the class label.")
    ] = None,
    similarity: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Similarity from which inputs stay in one set.")
    ] = 0.8,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Split a dataset into train, validation and test sets; near-duplicates and groups stay together."""
    if valid + test >= 1:
        raise typer.BadParameter("valid and test together leave nothing to train on", param_hint="--test")
    plan = SplitPlan(valid, test, seed, group_field, label_field, similarity)
    parts = write_split(file, out_dir or file.parent, plan, force=force)
    if as_json:
        print_json(data_report.parts_json(parts))
    else:
        data_report.show_parts(parts)
