"""Line ends of event streams: an engine, or a proxy before it, may end lines with CR, LF or both."""

MOST_EVENT_BYTES = 16 << 20
"""More than any event takes; what never ends would be kept, and searched again with each piece that comes."""


class LineFeeds:
    """Makes line feeds of all line ends, whatever the chunking. Within JSON every CR is escaped, so none is text."""

    __slots__ = ("is_split",)

    def __init__(self) -> None:
        self.is_split = False
        """The last chunk ended with a CR, whose LF may come next."""

    def normal(self, chunk: bytes) -> bytes:
        """A chunk with line feeds only; may be empty."""
        if self.is_split and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self.is_split = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
