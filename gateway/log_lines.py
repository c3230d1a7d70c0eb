"""Lines of the log: one per event, whatever text of a client is in it: nobody can write lines of their own."""

import logging

_FORMAT = "%(asctime)s %(name)s: %(message)s"


class OneLineFormatter(logging.Formatter):
    """Escapes control characters and line breaks in messages; lines of a trace are indented, and escaped as well."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is logging's)
        """The first line of an event."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        """The trace below it."""
        trace: str = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(f"  {printable(line)}" for line in trace.split("\n"))


def printable(text: str) -> str:
    """The text with everything escaped that a terminal or a reader of lines would act on."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def log_warnings() -> None:
    """Have everything worth a look written to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
