"""The apps of the trainer's commands by name, and how a test runs one."""

import typer
from typer.testing import CliRunner, Result

from trainer.cli.advise import app as advise
from trainer.cli.compare import app as compare
from trainer.cli.data import app as data
from trainer.cli.export import app as export
from trainer.cli.lineage import app as lineage
from trainer.cli.push import app as push
from trainer.cli.report import app as report
from trainer.cli.review import app as review
from trainer.cli.train import app as train

__all__ = ["advise", "compare", "data", "export", "lineage", "push", "report", "review", "run", "train"]


def run(app: typer.Typer, *arguments: object) -> Result:
    """Run a command of an app in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
