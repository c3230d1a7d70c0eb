"""What an operator sees while a publish or a verify runs: the upload, then each step that the gateway is at.

`turntable adapters add | list | show | verify | retire`: versions, from their publishing to their end.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from adapters.admin_client import AdminClient
from adapters.cli.shared import (
    DATA,
    URL,
    AsJson,
    DataDir,
    Gateway,
    OverrideBy,
    OverrideReason,
    Version,
    admin_of,
    fact_rows,
    override_of,
    print_json,
    print_table,
    show_policy,
    show_versions,
    to_the_second,
)
from adapters.cli.status import show_due
from adapters.errors import AdapterError

_ASK_EVERY_S = 0.25
Opened = Callable[[BinaryIO], AbstractContextManager[BinaryIO]]


@contextmanager
def shown_progress(admin: AdminClient, name: str) -> Iterator[Opened | None]:
    """Show on a terminal what is being done for `name` inside the block; yields what wraps an upload's file."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=None)

        def opened(file: BinaryIO) -> AbstractContextManager[BinaryIO]:
            progress.update(task, description=f"{name}: uploading")
            return progress.wrap_file(file, Path(file.name).stat().st_size, task_id=task)

        with following(admin, name, lambda step: progress.update(task, description=f"{name}: {step}")):
            yield opened


@contextmanager
def following(
    admin: AdminClient, name: str, tell: Callable[[str], None], *, every_s: float = _ASK_EVERY_S
) -> Iterator[None]:
    """While the block runs, ask the gateway in a thread what it does for `name`, and tell each change."""
    over = threading.Event()

    def follow() -> None:
        last = ""
        while not over.wait(every_s):
            with suppress(AdapterError):  # whoever publishes hears of it
                steps = ", ".join(work["step"] for work in admin.request("GET", f"/adapters/{name}/work")["in_work"])
                if steps and steps != last:
                    tell(steps)
                    last = steps

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def add(
    name: Annotated[str, typer.Argument(help="The name that applications will use as the model.")],
    directory: Annotated[
        Path | None,
        typer.Argument(
            help="A folder with adapter_config.json and adapter_model.safetensors, or a tar.gz or zip of it."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Where the gateway fetches it itself: a folder there, or hf://org/repo@revision.")
    ] = None,
    convert: Annotated[
        bool, typer.Option("--convert", help="Bring what MLX or a training wrapper saved into PEFT's layout first.")
    ] = False,
    promote: Annotated[bool, typer.Option(help="Make the new version live at once; needs a verdict.")] = False,
    override: OverrideReason = None,
    by: OverrideBy = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Upload an adapter: it is checked, stored, loaded into the engine, probed, and live once promoted."""
    if (directory is None) == (source is None):
        raise typer.BadParameter("give the adapter's folder, or --source.", param_hint="DIRECTORY")
    overriding = override_of(override, by)
    with admin_of(gateway, data_dir) as admin:
        with shown_progress(admin, name) as opened:
            if directory is not None:
                published = admin.publish(name, directory, convert=convert, opened=opened)
            else:
                published = admin.publish_source(name, source or "", convert=convert)
        answer: dict[str, Any] = {
            field: list(v) if isinstance(v, tuple) else v for field, v in asdict(published).items()
        }
        if promote or overriding:
            answer |= admin.promote_published(published, override=overriding)
    show_versions([answer], as_json=as_json)


def list_adapters(gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """All adapters with their versions, states, traffic, and the engines where they are resident."""
    with admin_of(gateway, data_dir) as admin:
        show_versions(admin.request("GET", "/adapters")["data"], as_json=as_json)


def show(name: str, gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """One adapter whole: policy, versions with history and evidence, what canary and shadow have shown."""
    with admin_of(gateway, data_dir) as admin:
        document = admin.request("GET", f"/adapters/{name}")
    if as_json:
        return print_json(document)
    show_policy({"name": name, **document["policy"]}, as_json=False)
    show_versions(document["versions"], as_json=False)
    _show_sides("canary", document.get("canary_watch"))
    _show_sides("shadow", document.get("shadow_mirror"))
    show_due(document.get("retrain", []))
    _show_evidence(document["versions"])
    history = [
        {"version": version["version"], **change, "at": to_the_second(change["at"])}
        for version in document["versions"]
        for change in version.get("history", ())
    ]
    return print_table({head: head for head in ("version", "state", "at", "actor", "reason")}, history, title="History")


def verify(
    name: str, version: Version, gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False
) -> None:
    """Re-hash a version's files, check and probe it anew, and print the evidence; ends with 1 when it fails."""
    with admin_of(gateway, data_dir) as admin, shown_progress(admin, name):
        document = admin.request("POST", f"/adapters/{name}/versions/{version}/verify")
    if as_json:
        print_json(document)
    else:
        show_versions([document], as_json=False)
        for found in document["evidence"]:
            title = f"{found['kind']} of {found['at']}"
            print_table({"what": "what", "found": "found"}, list(fact_rows(found["document"])), title=title)
    if not document["ok"]:
        typer.echo(f"error: {name} {version} does not pass: {document['failure']}", err=True)
        sys.exit(1)


def retire(
    name: str, version: Version, gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False
) -> None:
    """Drain a version that takes no traffic, unload it, verify that it is gone, release its files."""
    with admin_of(gateway, data_dir) as admin:
        document = admin.request("DELETE", f"/adapters/{name}/versions/{version}")
    if as_json:
        return print_json(document)
    show_versions([document], as_json=False)
    if document["engines"]:
        print_table({head: head for head in document["engines"][0]}, document["engines"], title="On the engines")
    return typer.echo(f"Files {document['files']}.")


def _show_evidence(versions: Sequence[dict[str, Any]]) -> None:
    """What speaks for or against each version: its probes, measurements, verdicts, approvals and promotions."""
    rows = []
    for version in versions:
        for found in version.get("evidence", ()):
            verdict, said = _in_short(found["document"])
            at = to_the_second(found["at"])
            rows.append(
                {"version": version["version"], "kind": found["kind"], "verdict": verdict, "at": at, "said": said}
            )
    if rows:
        print_table({head: head for head in ("version", "kind", "verdict", "at", "said")}, rows, title="Evidence")


def _in_short(document: Mapping[str, Any]) -> tuple[str | None, str]:
    """Verdict and sentence of a document; a promotion's are those of the verdict that it stands on."""
    verdict = document.get("verdict")
    if isinstance(verdict, Mapping):
        return str(verdict.get("verdict")), f"went live on the verdict by {verdict.get('by')} of {verdict.get('at')}"
    if isinstance(override := document.get("override"), Mapping):
        return verdict, f"overridden by {override.get('by')}: {override.get('reason')}"
    said = document.get("sentence") or document.get("summary") or document.get("reason") or ""
    return verdict, str(said) or " ".join(map(str, document.get("warnings", ())))


def _show_sides(what: str, document: dict[str, Any] | None) -> None:
    """A comparison of two versions: facts of each side beside each other, then what is known of both."""
    if document is None:
        return
    live, other = document["live"], document[what]
    print_table(
        {"": "fact", "live": "live", what: what},
        [{"fact": fact, "live": live[fact], what: other[fact]} for fact in live],
        title=f"The {what} so far",
    )
    both = {fact: value for fact, value in document.items() if not isinstance(value, dict)}
    if both:
        typer.echo(", ".join(f"{fact} {value}" for fact, value in both.items()))
