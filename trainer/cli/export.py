"""`turntable export ADAPTER --format FORMAT --out DIR`: export an adapter: PEFT's files, a merged model, or GGUF."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from trainer.cli.options import trainer_app
from turntable.console import print_json
from turntable.options import DEFAULT_DATA_DIR, AsJson, DataDir

app = trainer_app(help="Export an adapter: PEFT's files, a merged model, or GGUF.", no_args_is_help=True)


@app.command(interrupted="interrupted; nothing was written")
def export_adapter(
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="The directory of a run or an adapter, or `name@v3`.")
    ],
    export_format: Annotated[
        Literal["peft", "merged", "gguf"],
        typer.Option(
            "--format",
            help="`peft`: its files; `merged`: a model of base and adapter; `gguf`: an adapter for llama.cpp.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The directory to write.")],
    base_model: Annotated[
        str | None,
        typer.Option(help="`embedded`, a model directory or a hub name.", show_default="the adapter's base model"),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Export an adapter; a merged model is written only if its log-probabilities stay the same."""
    from trainer.training.base import prepare_libraries

    prepare_libraries()
    from trainer.training.export import export

    exported = export(adapter, export_format, base_model, out, data_dir, Console(stderr=True))
    found = exported.differences
    if as_json:
        of_merge = {"mean_difference": found.mean, "largest_difference": found.largest} if found else {}
        print_json({"path": str(exported.path), "format": export_format, **of_merge})
        return
    typer.echo(f"{exported.path}: written as {export_format}")
    if found:
        typer.echo(
            f"rounding changes log-probabilities by {found.mean:.4f} on average, {found.largest:.4f} at most "
            f"(computing in bf16 changes them by {found.of_bf16:.4f})"
        )
