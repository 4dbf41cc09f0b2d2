"""Cuts images into train, val and test by the fixed places of their names, so that each class is on every side.

A percentage of a split says only where the places are cut; of a small or a lopsided class no image may lie beyond the
cut, or all of them. `cut` then moves images to the side that lacks them, two of a class at most.
"""

import numpy as np

TRAIN, VAL, TEST = 0, 1, 2


def cut(labels: np.ndarray, places: np.ndarray, *, val_from: float, test_from: float | None = None) -> np.ndarray:
    """Returns the side of each image: TRAIN, VAL or TEST, int8 [n].

    An image below `val_from` trains, one from there on validates, and one from `test_from` on tests. Where that leaves
    out a class, the images of the class that lie nearest to the cut change sides:

    - Every class has at least one image in train.
    - Of two images one validates; of three and more one validates and one tests (without `test_from`, one validates).

    When images are added, an image that trains goes on training, once its class has three images (two, without
    `test_from`), with one exception: while all images of a class lie from `val_from` on, the lowest is lent to train,
    and goes back when a lower one comes. A class of n images is like that with a probability of (1 - val_from) ** n.
    No rule could promise it to smaller classes: if one of any two images trains, and goes on training, then two of any
    three do, and none is left to test. Where a class lacked one of the two, images may change between val and test, or
    come to train.

    Args:
      labels: int [n].
      places: in [0, 1), float64 [n]; see `splits.positions`.
      val_from: where val begins.
      test_from: where test begins; None for no test.
    """
    sides = (places >= val_from).astype(np.int8)
    if test_from is not None:
        sides += places >= test_from
    order = np.lexsort((places, labels))
    borders = np.flatnonzero(np.diff(labels[order])) + 1
    for members in np.split(order, borders):
        sides[members] = _of_one_class(sides[members], three=test_from is not None)
    return sides


def cut_several(
    labels: np.ndarray, places: np.ndarray, *, val_from: float, test_from: float | None = None
) -> np.ndarray:
    """Returns the side of each image as `cut` does, of images with several labels each, or none.

    The places decide. Then, the rarest class first, images change sides where a class would be left out:

    - A class without an image in train takes the one whose place is lowest.
    - Of a class without one in val, the training image whose place is highest validates, unless it is the last
      training image of one of its classes. Of one that test lacks and that train has two images of, likewise.

    So each class with images has one in train; val and test may lack some where classes always come together.

    Args:
      labels: which classes each image has, [n, C] of 0 and 1.
      places: as of `cut`.
      val_from: as of `cut`.
      test_from: as of `cut`.
    """
    there = labels > 0
    sides = (places >= val_from).astype(np.int8)
    if test_from is not None:
        sides += places >= test_from
    counts = there.sum(0)
    rarest_first = [c for c in np.argsort(counts, kind="stable") if counts[c]]
    for c in rarest_first:
        members = np.flatnonzero(there[:, c])
        if not (sides[members] == TRAIN).any():
            sides[members[places[members].argmin()]] = TRAIN
    for side in (VAL, TEST) if test_from is not None else (VAL,):
        for c in rarest_first:
            members = np.flatnonzero(there[:, c])
            if (sides[members] == side).any():
                continue
            training = members[sides[members] == TRAIN]
            for image in training[np.argsort(-places[training], kind="stable")]:
                left = there[sides == TRAIN].sum(0)
                if (left[there[image]] > 1).all():
                    sides[image] = side
                    break
    return sides


def _of_one_class(sides: np.ndarray, *, three: bool) -> np.ndarray:
    """Returns the sides of a class, none left out; its images come in the order of their places."""
    count = len(sides)
    needed = min(count - 1, 2 if three else 1)
    held_out = min(max(int((sides != TRAIN).sum()), needed), count - 1)
    fixed = np.full(count, TRAIN, np.int8)
    if not held_out:
        return fixed
    outside = np.maximum(sides[count - held_out :], VAL)
    if three and held_out == 1:
        outside[:] = VAL
    elif three:
        outside[0], outside[-1] = VAL, TEST
    fixed[count - held_out :] = outside
    return fixed
