"""Log format: one line per event, with control characters escaped, so that client text cannot forge log lines."""

import logging

_FORMAT = "%(asctime)s %(name)s: %(message)s"


class OneLineFormatter(logging.Formatter):
    """Escapes control characters and line breaks in messages; traceback lines are indented and escaped as well."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is logging's)
        """Format the first line of an event."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        """Format the traceback below it."""
        trace: str = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(f"  {printable(line)}" for line in trace.split("\n"))


def printable(text: str) -> str:
    """Escape all characters of a text that are not printable."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def log_warnings() -> None:
    """Log warnings and errors to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
