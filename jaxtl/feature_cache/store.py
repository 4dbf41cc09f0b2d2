"""Features on disk: one folder for each key, one memory-mapped file for each host, whole or not there at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxtl.checkpoints.digests import digests
from jaxtl.data.dataset import Dataset
from jaxtl.errors import UserError
from jaxtl.parallel import processes


def make_key(
    variables: Any,
    facts: Mapping[str, Any],
    datasets: Sequence[Dataset],
    own: Callable[[Dataset], Iterable[int]] = lambda dataset: range(len(dataset)),
) -> str:
    """Returns a digest of all that features depend on, the same for all hosts.

    Args:
      variables: those of the prefix; every bit counts.
      facts: the model, the prefix, the preprocessing, seeds: anything that JSON can hold.
      datasets: the images in their order; names, labels and contents count.
      own: gives the indices of the images that this host reads; together the hosts read all.
    """
    sha = hashlib.sha256(json.dumps([digests(variables), dict(facts)], sort_keys=True).encode())
    for dataset in datasets:
        sha.update(fingerprint(dataset, own(dataset)).encode())
    return hashlib.sha256("".join(processes.gather(sha.hexdigest())).encode()).hexdigest()[:32]


def fingerprint(dataset: Dataset, indices: Iterable[int]) -> str:
    """Returns a digest of all names and labels, and of the contents of the images at `indices`, read one by one."""
    sha = hashlib.sha256(json.dumps([list(dataset.names), dataset.labels.tolist()]).encode())
    for index in indices:
        content = dataset.read(int(index))
        shape = content.shape if isinstance(content, np.ndarray) else len(content)
        raw = np.ascontiguousarray(content).data if isinstance(content, np.ndarray) else content
        sha.update(f"{shape} {hashlib.sha256(raw).hexdigest()}".encode())
    return sha.hexdigest()


class Mapped:
    """Rows in memory-mapped files, each with the contiguous part of the rows that one host wrote."""

    def __init__(self, parts: Sequence[np.ndarray]):
        """Takes the parts in the order of their rows."""
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the rows at `index` [B], as one array [B, ...] in memory."""
        owner = np.searchsorted(self._starts, index, side="right") - 1
        rows = np.empty((len(index), *self._parts[0].shape[1:]), self._parts[0].dtype)
        for part in np.unique(owner):
            chosen = owner == part
            rows[chosen] = self._parts[part][index[chosen] - self._starts[part]]
        return rows


def load(folder: Path) -> Mapped | None:
    """Opens the features in a folder; None if they are not there, incomplete, or differ from their digests."""
    try:
        facts = [json.loads(path.read_text()) for path in sorted(folder.glob("part-*.json"))]
        if not facts or len(facts) != facts[0]["hosts"]:
            return None
        parts = []
        for host, fact in enumerate(facts):
            path = folder / f"part-{host:05d}.bin"
            if _digest(path) != fact["sha256"]:
                return None
            parts.append(np.memmap(path, _dtype(fact["dtype"]), "r", shape=tuple(fact["shape"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Mapped(parts)


def build(
    folder: Path,
    *,
    count: int,
    shape: tuple[int, ...],
    dtype: Any,
    fill: Callable[[Callable[[int, np.ndarray], None]], None],
    shard: tuple[int, int] = (0, 1),
    wait: Callable[[], None] = lambda: None,
) -> Mapped:
    """Writes features into a folder and opens them.

    Args:
      folder: appears when all hosts are done; a process that dies before leaves only a temporary file.
      count: number of rows.
      shape: of one row.
      dtype: of the values.
      fill: calls its argument with (row, features) until all rows are written; each host sees all rows and keeps its
        own part of them.
      shard: (this host, number of hosts).
      wait: returns when all hosts have called it.

    Raises:
      UserError: the disk is full or not writable, or hosts do not see each other's files.
    """
    host, hosts = shard
    low, high = count * host // hosts, count * (host + 1) // hosts
    path = folder / f"part-{host:05d}.bin"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _reserve(temporary, (high - low) * int(np.prod(shape)) * np.dtype(dtype).itemsize)
        part = np.memmap(temporary, dtype, "r+", shape=(high - low, *shape))

        def write(row: int, features: np.ndarray) -> None:
            begin, end = max(row, low), min(row + len(features), high)
            if begin < end:
                part[begin - low : end - low] = features[begin - row : end - row]

        fill(write)
        part.flush()
        facts = {"hosts": hosts, "shape": part.shape, "dtype": np.dtype(dtype).name, "sha256": _digest(temporary)}
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # The description goes last: without it, or with the digest of other bytes, the part does not count.
        temporary.replace(path)
        described = path.with_suffix(f".{os.getpid()}.tmp")
        described.write_text(json.dumps(facts))
        described.replace(path.with_suffix(".json"))
    except OSError as error:
        raise UserError(
            f"features cannot be written to {folder}: {error.strerror}; give another folder, or do not cache them.",
            arguments=["cache_dir", "cache_features"],
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()
    wait()
    mapped = load(folder)
    if mapped is None or len(mapped) != count:
        raise UserError(
            f"{folder} does not hold the features of all hosts: give a folder that they share.",
            arguments=["cache_dir"],
        )
    return mapped


def free_bytes(folder: Path) -> int:
    """Returns what features may take on the disk of a folder: half of what is free there."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // 2


def _reserve(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            # A full disk is an error here; later, in mapped memory, it would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
