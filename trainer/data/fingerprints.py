"""What rows are compared by: 64-bit hashes of what they ask and answer, and the words that near copies share.

Case, width of characters and spacing do not count. System messages are left out of what is compared for nearness: many
rows share a long one, which would make all of them near copies of each other.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trainer.data.rows import Example, Message, Pair

SHINGLE_WORDS = 3
# A word; in scripts written without spaces, one character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Hashes of one row: of all of it, of its input with and without tools and system messages, and of its output.

    `rejected` is the hash of the output that a pair does not prefer, 0 for conversations. `shingles` are the words and
    runs of three words of the input without these.
    """

    row: int
    asked: int
    near: int
    answer: int
    rejected: int
    shingles: frozenset[str]


def fingerprint(row: Example | Pair) -> Fingerprint:
    """The fingerprint of one row."""
    example = row.preferred if isinstance(row, Pair) else row
    before = example.messages[: example.answer_index]
    asked = normalised(_texts(message for message in before if message.role != "system"))
    system = normalised(_texts(message for message in before if message.role == "system"))
    tools = json.dumps(example.tools, sort_keys=True)
    rejected = hash64(normalised(answer_text(row.rejected))) if isinstance(row, Pair) else 0
    return Fingerprint(
        int(row.row_id[:16], 16),
        hash64(f"{system}\n{tools}\n{asked}"),
        hash64(asked),
        hash64(normalised(answer_text(example))),
        rejected,
        shingles(asked),
    )


def answer_text(example: Example) -> str:
    """The output of a conversation: its last learnt message, tool calls as JSON."""
    return _texts([example.messages[example.answer_index]])


def normalised(text: str) -> str:
    """The text without what does not count in comparisons."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def hash64(text: str) -> int:
    """64 bits of a text's hash."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def words(text: str) -> list[str]:
    """The words of a normalised text, without punctuation."""
    return _WORD.findall(text)


def shingles(text: str) -> frozenset[str]:
    """The words and runs of three words of a normalised text; the text itself when it has no words."""
    found = words(text)
    runs = (" ".join(found[at : at + SHINGLE_WORDS]) for at in range(len(found) - SHINGLE_WORDS + 1))
    return frozenset((*found, *runs)) or frozenset((text,))


def _texts(messages: Iterable[Message]) -> str:
    return "\n".join(text for message in messages for text in _parts(message))


def _parts(message: Message) -> Iterator[str]:
    if message.content:
        yield message.content
    for call in message.tool_calls:
        yield json.dumps(call.get("function"), sort_keys=True, ensure_ascii=False)
