"""Features in two dimensions, and which images lie next to each other."""

from typing import Literal

import numpy as np

# t-SNE compares all images with all: it gets so many principal components of each, which are nearly all of them.
_COMPONENTS = 50
# With fewer images there is no neighbourhood to keep.
_LEAST = 5

Projection = Literal["pca", "tsne"]
PROJECTIONS: tuple[Projection, ...] = ("pca", "tsne")


def project(features: np.ndarray, method: Projection = "tsne", *, seed: int = 0) -> np.ndarray:
    """Returns places in the plane [N, 2], the same ones each time.

    "pca" keeps the two directions in which features differ most, and so distances over the whole; "tsne" (van der
    Maaten & Hinton, 2008) keeps neighbours, and distances between groups mean little.

    Args:
      features: [N, D].
      method: one of PROJECTIONS; of fewer than five images, or one feature, both are "pca".
      seed: of t-SNE.
    """
    if method not in PROJECTIONS:
        raise ValueError(f"the projection is {method!r}; known are {', '.join(PROJECTIONS)}")
    from sklearn.decomposition import PCA

    features = np.asarray(features, np.float64)
    number, width = features.shape
    if number < 2:
        return np.zeros((number, 2))
    components = PCA(min(_COMPONENTS, number, width), svd_solver="full").fit_transform(features)
    if method == "tsne" and number >= _LEAST and width > 1:
        from sklearn.manifold import TSNE

        # A third of the images at most, as scikit-learn wants it less than all.
        perplexity = min(30.0, (number - 1) / 3)
        places: np.ndarray = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(components)
        return places
    return np.pad(components[:, :2], ((0, 0), (0, max(0, 2 - components.shape[1]))))


def nearest(queries: np.ndarray, features: np.ndarray, *, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Returns the most similar rows of `features` for each query, the nearest first.

    Args:
      queries: [Q, D].
      features: [N, D].
      count: how many; at most N.

    Returns:
      Their indices [Q, count] and cosine similarities [Q, count].
    """
    similarity = _unit(queries) @ _unit(features).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(similarity, order, 1)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
