import numpy as np
import pytest

from jaxtl.data.contact_sheet import contact_sheet


def flat(count, side):
    """Image i is of the one colour (20 + i, 100, 200)."""
    return np.stack([np.full((side, side, 3), (20 + i, 100, 200), np.uint8) for i in range(count)])


@pytest.mark.parametrize(("side", "shown"), [(16, 112), (100, 200), (224, 224), (384, 256)])
def test_every_image_is_there_once_in_rows_and_in_its_colours(side, shown):
    sheet = np.asarray(contact_sheet(flat(7, side), [f"class {i}" for i in range(7)], columns=3, title="seven"))
    corners = []
    for i in range(7):
        rows, columns = np.nonzero((sheet == (20 + i, 100, 200)).all(-1))
        assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (shown, shown)
        corners.append((rows.min(), columns.min()))
    assert sorted(corners) == corners  # Row by row.
    assert len({row for row, _ in corners}) == len({column for _, column in corners}) == 3
    # Something is written below each.
    for row, column in corners:
        below = sheet[row + shown : row + shown + 18, column : column + shown]
        assert (below < 128).any()


def test_captions_end_where_the_next_begins():
    long = "a species with a name that goes on and on and on"
    sheet = np.asarray(contact_sheet(flat(2, 112), [long, ""], columns=2, title=long * 5))
    row, column = np.argwhere((sheet == (21, 100, 200)).all(-1))[0]
    assert (sheet[row + 112 :, column - 1 :] == 255).all()
    assert (sheet[:, -8:] == 255).all()


def test_images_and_captions_must_match():
    with pytest.raises(ValueError, match="2 images and 1 captions"):
        contact_sheet(flat(2, 8), ["a"], columns=2, title="")
    with pytest.raises(ValueError, match="an image at least"):
        contact_sheet(flat(1, 8)[:0], [], columns=2, title="")
