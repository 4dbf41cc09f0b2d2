"""How often training shows the images of each class: as they are, alike, or by the roots of their numbers."""

import numpy as np

SAMPLINGS = ("", "balanced", "sqrt")
# Kinds of random streams that are drawn from one seed, beside those of the loader.
_ORDER, _PASS = 0, 2


def quotas(counts: np.ndarray, sampling: str) -> np.ndarray:
    """Returns how many images of each class an epoch shows, int [C]; as many in all as there are images.

    With "balanced" each class with images has the same share, with "sqrt" one by the root of its number of images; what
    remains of the division goes to the largest remainders.

    >>> quotas(np.array([90, 10, 0]), "balanced"), quotas(np.array([90, 10, 0]), "sqrt")
    (array([50, 50,  0]), array([75, 25,  0]))
    """
    weights = {"": counts, "balanced": counts > 0, "sqrt": np.sqrt(counts)}[sampling].astype(float)
    total = int(counts.sum())
    exact = total * weights / weights.sum()
    whole = np.floor(exact).astype(int)
    rest = np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]
    whole[rest] += 1
    return whole


def plain_epoch(count: int, *, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the order of `count` images in an epoch, each once, and which time each is shown: the epoch, int [n]."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(count), np.full(count, epoch)


def sampled_epoch(labels: np.ndarray, sampling: str, *, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the order of an epoch in which classes come as `quotas` has it: the images, and which time each is shown.

    Both are int [n]. Within a class no image comes again before all others have come, in this epoch or a later one.
    They are a function of the arguments alone, so the state of the input stays one integer; and as no image has the
    same time twice, each time it is seen in another view.

    Args:
      labels: class indices [n].
      sampling: "balanced" or "sqrt".
      seed: of the order.
      epoch: from 0.
    """
    counts = np.bincount(labels)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    shown, times = [], []
    for c, quota in enumerate(quotas(counts, sampling)):
        if not quota:
            continue
        first, count = epoch * int(quota), int(counts[c])
        passes = range(first // count, (first + int(quota) - 1) // count + 1)
        drawn = [members[c][np.random.default_rng([seed, _PASS, c, p]).permutation(count)] for p in passes]
        begin = first - passes[0] * count
        shown.append(np.concatenate(drawn)[begin : begin + quota])
        times.append(np.repeat(passes, count)[begin : begin + quota])
    order, _ = plain_epoch(len(labels), seed=seed, epoch=epoch)
    return np.concatenate(shown)[order], np.concatenate(times)[order]
