"""Split rows without leakage: a near-duplicate cluster or a group never spans two parts.

`write_split` writes train, validation and test files in which classes keep their shares (`turntable data split`).
`hold_out` samples the validation rows of a run whose recipe names no validation file. Both depend on the seed and on
the contents of the rows, not on their order.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.findings import held_out_advice
from trainer.data.near_duplicates import DEFAULT_SIMILARITY, U64, Indexes, NearDuplicateIndex, connected, hash64
from trainer.data.scan import Columns, Scanner
from trainer.errors import DataError, Problem, RunError
from trainer.files import replacing

PARTS = ("train", "valid", "test")
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class SplitPlan:
    """Shares of the validation and test parts (the rest is for training), and which rows must stay together."""

    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    group_field: str | None = None
    label_field: str | None = None
    similarity: float = DEFAULT_SIMILARITY

    @property
    def shares(self) -> dict[str, float]:
        """The share of each part that is not empty."""
        wanted = {"train": 1 - self.valid - self.test, "valid": self.valid, "test": self.test}
        return {name: share for name, share in wanted.items() if share > 0}


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split with their rows, their classes, and the clusters that had to stay together."""

    paths: Mapping[str, Path]
    rows: Mapping[str, int]
    classes: Mapping[str, Mapping[str, int]]
    clusters: int
    largest_cluster: int

    @property
    def advice(self) -> str | None:
        """What to do when the test part is too small for a verdict; None when it is large enough or not asked for."""
        return held_out_advice(self.rows["test"], sum(self.rows.values())) if "test" in self.rows else None


def write_split(source: Path, folder: Path, plan: SplitPlan, *, force: bool = False) -> SplitFiles:
    """Write `<name>.train.jsonl`, `.valid.jsonl` and `.test.jsonl` into `folder`, each row byte for byte.

    Raises `DataError` when the file has problems or a part would be empty, `RunError` when a file exists.
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
        sizes = f"{len(columns):,} rows make {len(np.unique(together)):,} clusters of near-duplicates and groups"
        raise DataError(
            [Problem(str(source), None, f"leaves no row for {empty[0]}: {sizes}; add rows or lower a share")]
        )
    _write(source, paths, columns, parts)
    sizes_of = np.unique(together, return_counts=True)[1]
    classes = _classes(scanner, columns, parts, list(paths)) if stratified else {}
    return SplitFiles(paths, rows, classes, len(sizes_of), int(sizes_of.max()))


def hold_out(keys: Sequence[int | str], clusters: Indexes, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Sample whole clusters until a `fraction` of the different rows is held out; returns which rows are.

    `keys` identify what a row says, one per row. A cluster larger than the whole share is left to training; where every
    cluster is, the smallest one is held out. Nothing is where all rows are one cluster.
    """
    members: dict[int, set[Any]] = {}
    for key, cluster in zip(keys, clusters.tolist(), strict=True):
        members.setdefault(cluster, set()).add(key)
    by_key = {min(group): group for group in members.values()}
    if not fraction or len(by_key) < 2:
        return np.zeros(len(keys), bool)
    wanted = max(1, round(fraction * sum(map(len, by_key.values()))))
    sampled = random.Random(seed).sample(sorted(by_key), min(wanted, len(by_key) - 1))  # noqa: S311 - no secret
    chosen = set[Any]()
    for key in sampled:
        if len(chosen) + len(by_key[key]) <= wanted:
            chosen |= by_key[key]
    chosen = chosen or min((by_key[key] for key in (*sampled, *sorted(by_key))), key=len)
    return np.array([key in chosen for key in keys], bool)


def join_groups(clusters: Indexes, groups: U64) -> Indexes:
    """Join clusters that share rows of one group; group 0 is none."""
    grouped = np.flatnonzero(groups)
    _, group = np.unique(groups[grouped], return_inverse=True)
    size = int(clusters.max(initial=-1)) + 1
    pairs = np.stack((clusters[grouped], group + size), axis=1)
    return connected(size + len(grouped), pairs)[clusters]


def assign(rows: U64, labels: U64, clusters: Indexes, shares: Sequence[float], seed: int) -> npt.NDArray[np.int64]:
    """Assign each row to a part: large clusters first, each to the part that lacks most rows of its classes."""
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
    """Hash the values so that each seed gives another order."""
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
    """Count the rows of each class in each part; classes are those that the scan counted."""
    balance = next(one for one in scanner.labels.balances if one.field is None or one.field == scanner.labels.wanted)
    return {
        name: {
            label: int(((columns.label == np.uint64(hash64(label))) & (parts == number)).sum())
            for label in balance.counts
        }
        for number, name in enumerate(names)
    }
