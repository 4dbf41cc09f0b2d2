import numpy as np
import pytest
from PIL import Image

from jaxtl.data import eval_view
from jaxtl.data.augment.prediction_views import PredictionViews
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels

PIXELS = Pixels(4, 6, (0.5,) * 3, (0.5,) * 3, "bilinear")


def image(width=12, height=6):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))


def test_the_first_view_is_that_of_evaluation():
    for views in (PredictionViews(), PredictionViews(True, 5, (1.5, 2.0)), PredictionViews(scales=(2.0,))):
        found = views(image(), PIXELS)
        np.testing.assert_array_equal(found[0], eval_view(image(), PIXELS))
        assert found.shape == (views.count, 4, 4, 3)


def test_mirrored_views_follow_and_corners_are_cut_from_what_is_resized():
    whole = np.asarray(image())  # Its shorter side is 6 already.
    found = PredictionViews(flip=True, crops=5)(image(), PIXELS)
    corners = [whole[1:5, 4:8], whole[:4, :4], whole[:4, 8:], whole[2:, :4], whole[2:, 8:]]
    np.testing.assert_array_equal(found, [*corners, *(corner[:, ::-1] for corner in corners)])


def test_a_scale_takes_the_same_square_of_a_larger_image():
    found = PredictionViews(scales=(2.0, 1.0, 2.0))(image(), PIXELS)
    assert len(found) == 2  # Once each, and always that of evaluation.
    doubled = np.asarray(image().resize((24, 12), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found[1], doubled[4:8, 10:14])


@pytest.mark.parametrize(("given", "told"), [({"crops": 3}, "crops is 3"), ({"scales": (0.5,)}, "a scale is 0.5")])
def test_what_is_wrong_is_told(given, told):
    with pytest.raises(UserError, match=told):
        PredictionViews(**given)


def test_they_say_what_they_are():
    assert PredictionViews(True, 5, (1.15,)).in_words() == (
        "20 views an image: the centre and the corners at the scales 1, 1.15, each mirrored too"
    )
