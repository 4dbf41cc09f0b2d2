"""Images that are the same, or nearly: by digest, by perceptual hash, and by the cosine of features."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxtl.audit.looks import MIRROR, Looks

# Bits of 63 in which the hashes of near duplicates may differ, and the correlation that their thumbnails need: a set of
# 960 photographs of 12 flowers has no other pair that meets both, and one of other flowers differs in 10.
_BITS = 9
_CORRELATION = 0.75
# Below this contrast there is nothing to hash: such images are blank, and their signs are noise.
_CONTRAST = 0.02
# Cosine of features, less their mean, from which on two images look alike. Of those 460,320 pairs of flowers, 65 are
# duplicates, and DeiT-Tiny gives 71 as much or more.
_COSINE = 0.95
# Rows of a block: of hashes that are compared with all in their bucket, of features with all.
_BLOCK = 1024


@dataclass(frozen=True)
class Pair:
    """Two images that are alike: their indices, the lower first; `kind` is "file", "pixels", "near" or "features".

    `detail` says how alike they are.
    """

    first: int
    second: int
    kind: str
    detail: str


def find_pairs(looks: Mapping[int, Looks], features: np.ndarray | None = None) -> list[Pair]:
    """Returns the pairs of images that are alike, each once, by the strongest sign of it.

    Args:
      looks: of the images, by index.
      features: of the images [N, D], if there are any.
    """
    found: dict[tuple[int, int], Pair] = {}
    for pair in (*_same(looks), *_near(looks), *(() if features is None else _alike(looks, features))):
        found.setdefault((pair.first, pair.second), pair)
    return [found[key] for key in sorted(found)]


def group_pairs(pairs: Sequence[Pair], count: int) -> list[np.ndarray]:
    """Returns the groups of images that pairs join, as indices in order; of `count` images."""
    ends = np.array([(pair.first, pair.second) for pair in pairs], int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(count, count))
    of_image = connected_components(graph, directed=False)[1]
    joined = np.unique(ends)
    order = joined[np.argsort(of_image[joined], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(of_image[order])) + 1) if len(order) else []


def _same(looks: Mapping[int, Looks]) -> Iterator[Pair]:
    """Yields each image that is the same as an earlier one, with the first of them."""
    files: dict[bytes, int] = {}
    pixels: dict[bytes, int] = {}
    for i, each in looks.items():
        if each.file in files:
            yield Pair(files[each.file], i, "file", "the same file")
        elif each.pixels in pixels:
            yield Pair(pixels[each.pixels], i, "pixels", "the same pixels in another file")
        files.setdefault(each.file, i)
        pixels.setdefault(each.pixels, i)


def _near(looks: Mapping[int, Looks]) -> Iterator[Pair]:
    index = np.array([i for i, each in looks.items() if each.contrast > _CONTRAST], int)
    if not len(index):
        return
    hashes = np.array([looks[int(i)].hash for i in index], np.uint64)
    thumbnails = np.stack([looks[int(i)].thumbnail for i in index])
    for mirrored, words in ((False, ""), (True, ", mirrored")):
        queries = hashes ^ MIRROR if mirrored else hashes
        a, b = close_hashes(queries, hashes, _BITS)
        a, b = a[a < b], b[a < b]
        for start in range(0, len(a), _BLOCK):
            i, j = a[start : start + _BLOCK], b[start : start + _BLOCK]
            left = thumbnails[i][..., ::-1] if mirrored else thumbnails[i]
            for k, value in enumerate(_correlations(left, thumbnails[j])):
                if value >= _CORRELATION:
                    bits = int(np.bitwise_count(queries[i[k]] ^ hashes[j[k]]))
                    yield Pair(
                        int(index[i[k]]), int(index[j[k]]), "near", f"{bits} of 63 bits of the hash differ{words}"
                    )


def _correlations(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the correlation of each pair of thumbnails [n, 32, 32]."""
    flat = [x.reshape(len(x), -1).astype(np.float32) for x in (left, right)]
    flat = [x - x.mean(1, keepdims=True) for x in flat]
    norms = [np.maximum(np.linalg.norm(x, axis=1), 1e-6) for x in flat]
    found: np.ndarray = (flat[0] * flat[1]).sum(1) / (norms[0] * norms[1])
    return found


def close_hashes(queries: np.ndarray, hashes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices (query, hash) of the pairs that differ in at most so many bits, each once.

    Hashes are cut into bits + 1 parts, of which such a pair has one in common: only those whose parts agree are
    compared, in blocks (multi-index hashing, https://arxiv.org/abs/1307.2982).

    Args:
      queries: uint64 [Q].
      hashes: uint64 [N].
      bits: how many may differ.
    """
    edges = np.linspace(0, 64, bits + 2).astype(int)
    found: list[np.ndarray] = []
    if not len(queries):
        return np.zeros(0, int), np.zeros(0, int)
    for low, high in itertools.pairwise(edges):
        mask = np.uint64((1 << (int(high) - int(low))) - 1)
        ours, theirs = ((each >> np.uint64(low)) & mask for each in (queries, hashes))
        order, by_part = np.argsort(ours, kind="stable"), np.argsort(theirs, kind="stable")
        parts, starts = np.unique(ours[order], return_index=True)
        for part, rows in zip(parts, np.split(order, starts[1:]), strict=True):
            begin, end = (np.searchsorted(theirs[by_part], part, side) for side in ("left", "right"))
            columns = by_part[begin:end]
            for start in range(0, len(rows) if len(columns) else 0, _BLOCK):
                block = rows[start : start + _BLOCK]
                r, c = np.nonzero(np.bitwise_count(queries[block][:, None] ^ hashes[columns]) <= bits)
                found.append(np.stack([block[r], columns[c]]))
    pairs = np.unique(np.concatenate([np.zeros((2, 0), int), *found], axis=1), axis=1)
    return pairs[0], pairs[1]


def _alike(looks: Mapping[int, Looks], features: np.ndarray) -> Iterator[Pair]:
    index = np.array([i for i, each in looks.items() if each.contrast > _CONTRAST], int)
    rows = features[index].astype(np.float32)
    rows -= rows.mean(0)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    for start in range(0, len(rows), _BLOCK):
        cosines = rows[start : start + _BLOCK] @ rows.T
        for i, j in zip(*np.nonzero(cosines >= _COSINE), strict=True):
            if start + i < j:
                value = min(float(cosines[i, j]), 1.0)
                yield Pair(int(index[start + i]), int(index[j]), "features", f"cosine {value:.3f} of features")
