"""`turntable adapters drift`: live answers beside those that a version learnt from, and whether to train again."""

from typing import Annotated

import typer

from adapters.cli.shared import DATA, URL, AsJson, DataDir, Gateway, admin_of, print_json, print_table

_COLUMNS = {name: name for name in ("measure", "drift", "answers", "baseline", "live", "distance", "by_chance")}


def drift(
    name: str,
    version: Annotated[str | None, typer.Option(help="Another version than the live one, like v3.")] = None,
    days: Annotated[int, typer.Option(min=1, max=400, help="Answers of so many days, today included.")] = 7,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Compare a sample of live answers with those learnt from: lengths, endings, format, class mix; what is due."""
    asked = {"days": days} | ({"version": version} if version else {})
    with admin_of(gateway, data_dir) as admin:
        document = admin.request("GET", f"/adapters/{name}/drift", params=asked)
    if as_json:
        return print_json(document)
    subject = f"{name}@{document['version']} since {document['since']}"
    if document["measures"]:
        print_table(_COLUMNS, document["measures"], title=subject)
    else:
        typer.echo(f"{subject}: not watched, because its training left no baseline.")
    return show_due(document["retrain"])


def show_due(triggers: list[dict[str, object]]) -> None:
    """Print each reason to train again, the ones that hold first."""
    for trigger in sorted(triggers, key=lambda trigger: not trigger["is_due"]):
        typer.echo(f"{'DUE' if trigger['is_due'] else 'ok ':<4}{trigger['reason']}: {trigger['sentence']}")
