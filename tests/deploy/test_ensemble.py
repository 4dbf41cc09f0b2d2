import flax.linen as nn
import jax
import numpy as np
from PIL import Image

from jaxtl.data import Dataset, Reading, eval_view
from jaxtl.data.augment.prediction_views import PredictionViews
from jaxtl.data.normalize import normalize
from jaxtl.deploy.ensemble import Ensemble, Network
from jaxtl.evaluate.combining import Combination
from jaxtl.preprocessing import Pixels

SMALL = Pixels(4, 6, (0.5,) * 3, (0.25,) * 3, "bilinear")
LARGE = Pixels(6, 6, (0.1, 0.2, 0.3), (1.0,) * 3, "bicubic")


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(x.reshape(len(x), -1))


def network(name, pixels, classes, seed):
    variables = Net().init(jax.random.key(seed), np.zeros((1, pixels.size, pixels.size, 3), np.float32))
    return Network(name, Net(), jax.device_get(variables), pixels, classes)


NETWORKS = (
    network("a", SMALL, ("x", "y", "z"), 0),
    network("b", LARGE, ("z", "x", "y"), 1),
    network("c", SMALL, ("x", "y", "z"), 2),
)


def pictures(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (9, 7 + i, 3)).astype(np.uint8) for i in range(count)]


def by_hand(one, picture):
    view = eval_view(Image.fromarray(picture), one.pixels)[None]
    logits = np.asarray(one.module.apply(one.variables, normalize(view, one.pixels)))[0]
    return np.array([logits[one.classes.index(name)] for name in ("x", "y", "z")])


def test_each_network_sees_its_own_pixels_and_classes_are_matched_by_name():
    ensemble = Ensemble(NETWORKS, PredictionViews(), Combination("logits", (1 / 3,) * 3))
    packed = np.stack([ensemble.view(Image.fromarray(picture)) for picture in pictures(3)])
    assert packed.shape == (3, 3 * (4 * 4 + 6 * 6))  # Two networks share the views of one size.
    expected = np.array([[by_hand(one, picture) for picture in pictures(3)] for one in NETWORKS])
    np.testing.assert_allclose(ensemble.logits_of_views(packed)[:, :, 0], expected, rtol=1e-4, atol=1e-5)
    said = ensemble(packed)
    centred = expected.mean(0) - expected.mean(0).max(-1, keepdims=True)
    np.testing.assert_allclose(said - said.max(-1, keepdims=True), centred, rtol=1e-3, atol=1e-4)


def test_views_of_a_mirrored_image_are_those_of_the_image_in_another_order():
    ensemble = Ensemble(NETWORKS, PredictionViews(flip=True), Combination("weighted", (0.2, 0.3, 0.5)))
    # Of the network's own size, so that a mirror image resizes to the mirror image.
    picture = pictures(1)[0][:6, :6]
    one, other = (ensemble.view(Image.fromarray(each))[None] for each in (picture, picture[:, ::-1].copy()))
    np.testing.assert_allclose(ensemble(one), ensemble(other), rtol=1e-4, atol=1e-4)
    assert np.abs(np.diff(ensemble.logits_of_views(one), axis=2)).max() > 0.01


def test_a_data_set_gives_its_images_in_order_without_what_fills_up_batches():
    ensemble = Ensemble(NETWORKS[:2], PredictionViews(flip=True), Combination("logits", (0.5, 0.5)))
    found = pictures(5)
    dataset = Dataset(("x", "y", "z"), np.zeros(5, np.int32), tuple("abcde"), lambda i: found[i])
    logits = ensemble.logits_of_dataset(dataset, batch_size=2, reading=Reading(workers=1, reader="threads"))
    assert logits.shape == (2, 5, 2, 3)
    expected = [[by_hand(one, picture) for picture in found] for one in NETWORKS[:2]]
    np.testing.assert_allclose(logits[:, :, 0], expected, rtol=1e-4, atol=1e-5)
