"""Splitting a file into training, validation and test rows so that nothing of one part is known from another.

Rows of one near-duplicate cluster or one group stay together; classes keep their shares in each part. Which part a
cluster goes to depends on the seed and on what its rows say, not on where they stand, so a shuffled file splits alike.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.data.findings import verdict_advice
from trainer.data.near_duplicates import DEFAULT_SIMILARITY, U64, Indexes, NearDuplicateIndex, connected, hash64
from trainer.data.scan import Columns, Scanner
from trainer.errors import DataError, Problem, RunError
from trainer.files import replacing

PARTS = ("train", "valid", "test")
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class SplitPlan:
    """How to split: shares of the validation and test parts (the rest is trained on), and what must stay together."""

    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    group_field: str | None = None
    label_field: str | None = None
    similarity: float = DEFAULT_SIMILARITY

    @property
    def shares(self) -> dict[str, float]:
        """The share of each part that is wanted."""
        wanted = {"train": 1 - self.valid - self.test, "valid": self.valid, "test": self.test}
        return {name: share for name, share in wanted.items() if share > 0}


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split with their rows, their classes, and how large the clusters are that had to stay together."""

    paths: Mapping[str, Path]
    rows: Mapping[str, int]
    classes: Mapping[str, Mapping[str, int]]
    clusters: int
    largest_cluster: int

    @property
    def advice(self) -> str | None:
        """What to do when the test part is too small for a verdict; None when it is not, or none was wanted."""
        return verdict_advice(self.rows["test"], sum(self.rows.values())) if "test" in self.rows else None


def write_split(source: Path, folder: Path, plan: SplitPlan, *, force: bool = False) -> SplitFiles:
    """Write `<name>.train.jsonl` and its fellows into `folder`, each row as it stands in `source`.

    Raises `DataError` when the file has problems or a wanted part would be empty, `RunError` when a file exists.
    """
    paths = {name: folder / f"{source.stem}.{name}.jsonl" for name in plan.shares}
    for path in paths.values():
        if path.exists() and not force:
            raise RunError(f"{path} exists already; choose another --out-dir or pass --force.")
    with NearDuplicateIndex() as index:
        scanner = Scanner(index, label_field=plan.label_field, group_field=plan.group_field)
        scanner.scan(source)
        if problems := scanner.files[0].problems:
            raise DataError(problems)
        columns = scanner.columns()
        clusters, _ = index.clusters(columns.near, plan.similarity)
    together = join_groups(clusters, columns.group)
    stratified = any(balance.field is None or plan.label_field for balance in scanner.labels.balances)
    labels = columns.label if stratified else np.zeros(len(columns), np.uint64)
    parts = assign(columns.row, labels, together, list(plan.shares.values()), plan.seed)
    rows = {name: int((parts == number).sum()) for number, name in enumerate(paths)}
    if empty := [name for name, count in rows.items() if not count]:
        sizes = f"{len(columns):,} rows make {len(np.unique(together)):,} clusters of near copies and groups"
        raise DataError(
            [Problem(str(source), None, f"leaves no row for {empty[0]}: {sizes}; add rows or lower a share")]
        )
    _write(source, paths, columns, parts)
    sizes_of = np.unique(together, return_counts=True)[1]
    classes = _classes(scanner, columns, parts, list(paths)) if stratified else {}
    return SplitFiles(paths, rows, classes, len(sizes_of), int(sizes_of.max()))


def join_groups(clusters: Indexes, groups: U64) -> Indexes:
    """Clusters joined where rows of one group stand in several of them; group 0 is none."""
    grouped = np.flatnonzero(groups)
    _, group = np.unique(groups[grouped], return_inverse=True)
    size = int(clusters.max(initial=-1)) + 1
    pairs = np.stack((clusters[grouped], group + size), axis=1)
    return connected(size + len(grouped), pairs)[clusters]


def assign(rows: U64, labels: U64, clusters: Indexes, shares: Sequence[float], seed: int) -> npt.NDArray[np.int64]:
    """The part of each row. Large clusters first, each goes to the part that lacks most of its classes' rows."""
    _, label = np.unique(labels, return_inverse=True)
    lacking = [[share * float(count) for count in np.bincount(label)] for share in shares]
    _, cluster = np.unique(clusters, return_inverse=True)
    order = np.lexsort((rows, cluster))
    starts = np.searchsorted(cluster[order], np.arange(cluster.max(initial=-1) + 1))
    ends = np.append(starts[1:], len(rows))
    keys = _mixed(rows[order[starts]], seed)
    part = np.zeros(len(rows), np.int64)
    for number in np.lexsort((keys, starts - ends)):
        members = order[starts[number] : ends[number]]
        counts = Counter(label[members].tolist())
        needs = [sum(count * lack[name] for name, count in counts.items()) for lack in lacking]
        chosen = needs.index(max(needs))
        for name, count in counts.items():
            lacking[chosen][name] -= count
        part[members] = chosen
    return part


def _mixed(values: U64, seed: int) -> U64:
    """A different random-looking order of the values for each seed."""
    salt = np.uint64(int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "big"))
    mixed = values ^ salt
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return mixed ^ (mixed >> np.uint64(31))


def _write(source: Path, paths: Mapping[str, Path], columns: Columns, parts: npt.NDArray[np.int64]) -> None:
    with ExitStack() as stack:
        files = [stack.enter_context(replacing(path)) for path in paths.values()]
        lines = stack.enter_context(source.open("rb"))
        for offset, part in zip(columns.offset.tolist(), parts.tolist(), strict=True):
            lines.seek(offset)
            files[part].write(lines.readline().removeprefix(b"\xef\xbb\xbf").strip().decode() + "\n")


def _classes(
    scanner: Scanner, columns: Columns, parts: npt.NDArray[np.int64], names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Rows of each class in each part; classes are named by the balance that the scan counted."""
    balance = next(one for one in scanner.labels.balances if one.field is None or one.field == scanner.labels.wanted)
    return {
        name: {
            label: int(((columns.label == np.uint64(hash64(label))) & (parts == number)).sum())
            for label in balance.counts
        }
        for number, name in enumerate(names)
    }
