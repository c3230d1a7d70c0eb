"""What an operator sees while a publish or a verify runs: the upload, then each step that the gateway is at."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from adapters.client import AdminClient
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
