import numpy as np
import pytest

from jaxtl.evaluate.embedding import nearest, project


def groups(count, width=8):
    """Three groups of points, far from each other."""
    labels = np.arange(count) % 3
    rng = np.random.default_rng(0)
    return labels, 20 * np.eye(width)[labels] + rng.normal(size=(count, width))


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_groups_stay_apart_and_places_the_same(method):
    labels, features = groups(30)
    places = project(features, method)
    centres = np.stack([places[labels == c].mean(0) for c in range(3)])
    assert (np.linalg.norm(places[:, None] - centres, axis=2).argmin(1) == labels).all()
    np.testing.assert_array_equal(project(features, method), places)


def test_principal_components_are_those_of_the_covariance():
    features = groups(30)[1]
    values, vectors = np.linalg.eigh(np.cov(features.T))
    expected = (features - features.mean(0)) @ vectors[:, ::-1][:, :2]
    places = project(features, "pca")
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(places.var(0, ddof=1), values[::-1][:2])


@pytest.mark.parametrize(("count", "width"), [(1, 5), (2, 5), (4, 1), (6, 1)])
def test_a_few_images_and_narrow_features_have_places(count, width):
    for method in ("pca", "tsne"):
        places = project(np.random.default_rng(0).normal(size=(count, width)), method)
        assert places.shape == (count, 2)
        assert np.isfinite(places).all()


def test_the_nearest_come_first_whatever_their_length():
    features = np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 2.0], [0.0, 0.0]])
    order, similarity = nearest(np.array([[5.0, 0.0], [1.0, 2.0]]), features, count=3)
    assert order.tolist() == [[0, 2, 1], [2, 1, 0]]
    np.testing.assert_allclose(similarity[0], [1, np.sqrt(0.5), 0], atol=1e-12)


def test_an_unknown_projection_is_told():
    with pytest.raises(ValueError, match="'umap'; known are pca, tsne"):
        project(np.zeros((3, 3)), "umap")
