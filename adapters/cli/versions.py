"""`turntable adapters add | list | show | verify | retire`: versions from upload to retirement, and how they print."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.admin_client import AdminClient, connect
from adapters.cli.status import show_retraining_triggers
from adapters.errors import AdapterError
from turntable.console import FAILED, CommandError, Progress, cell_text, print_json, progress, say, table_of
from turntable.console import show as show_table
from turntable.options import (
    DEFAULT_DATA_DIR,
    DEFAULT_GATEWAY,
    AsJson,
    DataDir,
    Gateway,
    OverrideBy,
    OverrideReason,
    override_of,
)

Version = Annotated[str, typer.Argument(help="Like v3.")]
_POLL_LIVE_S, _POLL_PLAIN_S = 0.25, 1.0
_VERSION_COLUMNS = {
    "adapter": "name",
    "version": "version",
    "digest": "digest",
    "state": "state",
    "traffic": "traffic",
    "verdict": "verdict",
    "approval": "approval",
    "override": "override",
    "parity": "parity",
    "resident": "resident",
    "reason": "reason",
}


def add(
    name: Annotated[str, typer.Argument(help="The name that applications send as `model`.")],
    directory: Annotated[
        Path | None,
        typer.Argument(
            help="A folder with adapter_config.json and adapter_model.safetensors, or a tar.gz or zip of it."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Where the gateway fetches it: a folder there, or hf://org/repo@revision.")
    ] = None,
    convert: Annotated[
        bool, typer.Option("--convert", help="Convert an adapter of MLX or a training wrapper to PEFT's layout.")
    ] = False,
    promote: Annotated[bool, typer.Option(help="Make the new version live at once; needs a verdict.")] = False,
    override: OverrideReason = None,
    by: OverrideBy = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Publish an adapter: upload, check, store, load into the engine and probe it. It is live once promoted."""
    if (directory is None) == (source is None):
        raise typer.BadParameter("give the adapter's folder, or --source.", param_hint="DIRECTORY")
    overriding = override_of(override, by)
    with connect(gateway, data_dir) as admin:
        with shown_steps(admin, name) as shown:
            if directory is not None:
                published = admin.publish(name, directory, convert=convert, opened=shown.reading)
            else:
                published = admin.publish_source(name, source or "", convert=convert)
        answer: dict[str, Any] = {
            field: list(value) if isinstance(value, tuple) else value for field, value in asdict(published).items()
        }
        if promote or overriding:
            answer |= admin.promote_published(published, override=overriding)
    show_versions([answer], as_json=as_json)


def list_adapters(
    gateway: Gateway = DEFAULT_GATEWAY, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """List all adapters with their versions, states, traffic and the engines where they are resident."""
    with connect(gateway, data_dir) as admin:
        found = admin.request("GET", "/adapters")["data"]
    show_versions(found, as_json=as_json)


def show(
    name: str, gateway: Gateway = DEFAULT_GATEWAY, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """Show one adapter: policy, versions with history and evidence, figures of its canary and shadow."""
    with connect(gateway, data_dir) as admin:
        document = admin.request("GET", f"/adapters/{name}")
    if as_json:
        print_json(document)
        return
    show_policy({"name": name, **document["policy"]}, as_json=False)
    show_versions(document["versions"], as_json=False)
    _show_arms("canary", document.get("canary_watch"))
    _show_arms("shadow", document.get("shadow_mirror"))
    show_retraining_triggers(document.get("retrain", []))
    _show_evidence(document["versions"])
    history = [
        {"version": version["version"], **change, "at": _to_the_second(change["at"])}
        for version in document["versions"]
        for change in version.get("history", ())
    ]
    columns = ("version", "state", "at", "actor", "reason")
    show_table(table_of({head: head for head in columns}, history, title="History"))


def verify(
    name: str,
    version: Version,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Hash, check and probe a version again and print the evidence; exit code 1 when it fails."""
    with connect(gateway, data_dir) as admin, shown_steps(admin, name):
        document = admin.request("POST", f"/adapters/{name}/versions/{version}/verify")
    if as_json:
        print_json(document)
    else:
        show_versions([document], as_json=False)
        for found in document["evidence"]:
            title = f"{found['kind']} of {found['at']}"
            facts = list(_flat(found["document"]))
            show_table(table_of({"fact": "fact", "value": "value"}, facts, title=title))
    if not document["ok"]:
        raise CommandError(f"{name} {version} does not pass: {document['failure']}", exit_code=FAILED)


def retire(
    name: str,
    version: Version,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Drain a version without traffic, unload it from every engine and delete its files."""
    with connect(gateway, data_dir) as admin:
        document = admin.request("DELETE", f"/adapters/{name}/versions/{version}")
    if as_json:
        print_json(document)
        return
    show_versions([document], as_json=False)
    if engines := document["engines"]:
        show_table(table_of({head: head for head in engines[0]}, engines, title="On the engines"))
    say(f"Files {document['files']}.")


def show_versions(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print versions as the gateway describes them."""
    if as_json:
        print_json(list(rows))
        return
    show_table(table_of(_VERSION_COLUMNS, [row | {"digest": row["digest"][:12], **_verdict(row)} for row in rows]))
    for row in rows:
        for kind, sentences in (("converted", row.get("converted", ())), ("warning", row.get("warnings", ()))):
            for sentence in sentences:
                say(f"{row['name']}@{row['version']} {kind}: {sentence}")


def show_policy(policy: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the rollout policy of one name."""
    if as_json:
        print_json(policy)
        return
    parts = {
        part: split and f"{split['version']} {split['percent']:g}%"
        for part in ("canary", "shadow")
        for split in (policy.get(part),)
    }
    columns = ("name", "live", "previous", *parts, "pinned")
    show_table(table_of({head: head for head in columns}, [{**policy, **parts}]))


@contextmanager
def shown_steps(admin: AdminClient, name: str) -> Iterator[Progress]:
    """Show on standard error which step the gateway is at for `name` while the block runs."""
    with progress(name) as shown:
        every_s = _POLL_LIVE_S if shown.is_live else _POLL_PLAIN_S
        with following(admin, name, shown.step, every_s=every_s):
            yield shown


@contextmanager
def following(
    admin: AdminClient, name: str, report_step: Callable[[str], None], *, every_s: float = _POLL_LIVE_S
) -> Iterator[None]:
    """While the block runs, ask the gateway in a thread which step it is at for `name`, and tell each change."""
    stopped = threading.Event()

    def follow() -> None:
        last = ""
        while not stopped.wait(every_s):
            with suppress(AdapterError):  # the request that is followed reports it
                steps = ", ".join(work["step"] for work in admin.request("GET", f"/adapters/{name}/work")["in_work"])
                if steps and steps != last:
                    report_step(steps)
                    last = steps

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _verdict(row: Mapping[str, Any]) -> dict[str, Any]:
    verdict = row.get("verdict")
    # The promotion gate takes PROMOTE alone, and only when it was reached on this base and on all examples.
    stale = verdict == "PROMOTE" and not row.get("verdict_counts")
    return {"verdict": f"{verdict} (does not count now)" if stale else verdict}


def _flat(document: Mapping[str, Any], under: str = "") -> Iterator[dict[str, str]]:
    """A nested document as rows of one fact each: `checks.0.name` and its value."""
    for name, value in document.items():
        fact = f"{under}{name}"
        if isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
            value = {str(number): one for number, one in enumerate(value)}
        if isinstance(value, dict):
            yield from _flat(value, f"{fact}.")
        elif value not in (None, "", []):
            yield {"fact": fact, "value": cell_text(value) or "no"}


def _to_the_second(at: str) -> str:
    return f"{at[:19]}Z"


def _show_evidence(versions: Sequence[dict[str, Any]]) -> None:
    """Print the probes, measurements, verdicts, approvals and promotions of each version."""
    rows = []
    for version in versions:
        for found in version.get("evidence", ()):
            verdict, summary = _summary(found["document"])
            at = _to_the_second(found["at"])
            rows.append(
                {"version": version["version"], "kind": found["kind"], "verdict": verdict, "at": at, "summary": summary}
            )
    if rows:
        columns = ("version", "kind", "verdict", "at", "summary")
        show_table(table_of({head: head for head in columns}, rows, title="Evidence"))


def _summary(document: Mapping[str, Any]) -> tuple[str | None, str]:
    """Verdict and sentence of a document; a promotion has those of the verdict that allowed it."""
    verdict = document.get("verdict")
    if isinstance(verdict, Mapping):
        return str(verdict.get("verdict")), f"went live on the verdict by {verdict.get('by')} of {verdict.get('at')}"
    if isinstance(override := document.get("override"), Mapping):
        return verdict, f"overridden by {override.get('by')}: {override.get('reason')}"
    sentence = document.get("sentence") or document.get("summary") or document.get("reason") or ""
    return verdict, str(sentence) or " ".join(map(str, document.get("warnings", ())))


def _show_arms(arm: str, document: dict[str, Any] | None) -> None:
    """Print the live version and the canary or shadow side by side, then what concerns both."""
    if document is None:
        return
    live, other = document["live"], document[arm]
    rows = [{"metric": metric, "live": live[metric], arm: other[metric]} for metric in live]
    show_table(table_of({"metric": "metric", "live": "live", arm: arm}, rows, title=f"The {arm} so far"))
    both = {name: value for name, value in document.items() if not isinstance(value, dict)}
    if both:
        say(", ".join(f"{name} {value}" for name, value in both.items()))
