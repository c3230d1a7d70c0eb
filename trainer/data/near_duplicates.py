"""Clusters of rows whose inputs are nearly the same, found by MinHash without holding the rows in memory.

Each row leaves a MinHash signature of 128 numbers in a temporary file, and one hash per band of six numbers in a file
of each band. Rows that agree in a band are candidates; they are near when their signatures agree in the wanted share
of places, which estimates the Jaccard similarity of their shingles (standard error 0.035 at 0.8). With 21 bands of
six, two inputs of similarity 0.8 meet in a band with a probability of 0.998. The index of datasketch holds Python sets
per band in memory; here it is 21 sorts of one column each, one after the other.

What rows are compared by: 64-bit hashes of what they ask and answer, and the words that near copies share.

Case, width of characters and spacing do not count. System messages are left out of what is compared for nearness: many
rows share a long one, which would make all of them near copies of each other.
"""

import hashlib
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from trainer.data.schema import Example, Message, Pair

if TYPE_CHECKING:
    from datasketch import MinHash


PERMUTATIONS = 128
BANDS = 21
_BAND_ROWS = 6
_BATCH_ROWS = 4096
_MIX = np.uint64(0x9E3779B97F4A7C15)
DEFAULT_SIMILARITY = 0.8

U64 = npt.NDArray[np.uint64]
Indexes = npt.NDArray[np.int64]


class NearDuplicateIndex:
    """A context manager that collects the signatures of all rows and finds their clusters."""

    def __init__(self) -> None:
        self.rows = 0
        self._batch: list[npt.NDArray[np.uint32]] = []
        self._stack = ExitStack()
        self._minhash: MinHash | None = None

    def __enter__(self) -> Self:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="turntable-data-")))
        self._signatures = self._stack.enter_context((self._folder / "signatures").open("wb"))
        self._bands: list[IO[bytes]] = [
            self._stack.enter_context((self._folder / f"band{band}").open("wb")) for band in range(BANDS)
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, shingles: Iterable[str]) -> None:
        """Take the next row's shingles."""
        if self._minhash is None:
            import xxhash
            from datasketch import MinHash

            # The 32-bit schemes of datasketch estimate 0.03 too low; of 64-bit minima the low halves tell as much.
            self._minhash = MinHash(PERMUTATIONS, seed=1, hashfunc=xxhash.xxh64_intdigest, scheme="affine64")
        self._minhash.clear()
        self._minhash.update_batch([shingle.encode() for shingle in shingles])
        self._batch.append(self._minhash.hashvalues.astype(np.uint32))
        self.rows += 1
        if len(self._batch) == _BATCH_ROWS:
            self._flush()

    def clusters(self, inputs: U64, similarity: float) -> tuple[Indexes, Indexes]:
        """The cluster of each row, and pairs of rows (one per line) that join the rows of each cluster.

        `inputs` has one hash per row: rows of equal hashes are one cluster without being compared.
        """
        self._flush()
        _, first, inverse = np.unique(inputs, return_index=True, return_inverse=True)
        labels, pairs = np.arange(len(first)), [np.empty((0, 2), np.int64)]
        for band in range(BANDS):
            hashes = np.fromfile(self._folder / f"band{band}", np.uint64)[first]
            candidates = _neighbours(hashes)
            candidates = candidates[labels[candidates[:, 0]] != labels[candidates[:, 1]]]
            pairs.append(candidates[self._similar(first[candidates], similarity)])
            labels = connected(len(first), np.concatenate(pairs))
        return labels[inverse], first[np.concatenate(pairs)]

    def _similar(self, pairs: Indexes, similarity: float) -> npt.NDArray[np.bool_]:
        near = np.zeros(len(pairs), bool)
        with (self._folder / "signatures").open("rb") as file:
            for begin in range(0, len(pairs), _BATCH_ROWS):
                part = slice(begin, begin + _BATCH_ROWS)
                one, other = (_read_signatures(file, pairs[part, side]) for side in (0, 1))
                near[part] = (one == other).mean(axis=1) >= similarity
        return near

    def _flush(self) -> None:
        if self._batch:
            signatures = np.stack(self._batch)
            self._signatures.write(signatures.tobytes())
            for band, file in enumerate(self._bands):
                file.write(_band_hashes(signatures, band).tobytes())
            self._batch.clear()
        for file in (self._signatures, *self._bands):
            file.flush()


def _read_signatures(file: IO[bytes], rows: Indexes) -> npt.NDArray[np.uint32]:
    """Signatures of scattered rows, read one by one: a mapped file would count as memory, with pages around them."""
    signatures = np.empty((len(rows), PERMUTATIONS), np.uint32)
    for place, row in enumerate(rows.tolist()):
        os.preadv(file.fileno(), [signatures[place]], row * signatures.itemsize * PERMUTATIONS)
    return signatures


def _band_hashes(signatures: npt.NDArray[np.uint32], band: int) -> U64:
    hashes = np.zeros(len(signatures), np.uint64)
    for column in range(band * _BAND_ROWS, (band + 1) * _BAND_ROWS):
        hashes = (hashes ^ signatures[:, column]) * _MIX
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _neighbours(hashes: U64) -> Indexes:
    """Pairs of rows of equal hashes: each row with the one before it and with the first one of its group."""
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    starts = np.maximum.accumulate(np.where(np.concatenate(([True], ~same)), np.arange(len(order)), 0))
    later = np.flatnonzero(same) + 1
    chained = np.stack((order[later - 1], order[later]), axis=1)
    starred = np.stack((order[starts[later]], order[later]), axis=1)
    return np.concatenate((starred, chained[starts[later] != later - 1]))


def connected(size: int, pairs: Indexes) -> Indexes:
    """The component of each of `size` nodes in the graph that the pairs make."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    labels: Indexes = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def near_duplicate_clusters(shingles: Sequence[frozenset[str]], inputs: Sequence[int], similarity: float) -> list[int]:
    """The cluster of each of a few rows that are in memory anyway."""
    with NearDuplicateIndex() as index:
        for row in shingles:
            index.add(row)
        labels, _ = index.clusters(np.array(inputs, np.uint64), similarity)
    return [int(label) for label in labels]


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
