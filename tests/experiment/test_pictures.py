import numpy as np
import tiny

from jaxtl.experiment.pictures import pictures_of, wants_logits


def test_an_evaluation_shows_its_confusion_and_its_mistakes():
    dataset = tiny.dataset("val", 6, 0)
    logits = np.eye(3, dtype=np.float32)[dataset.labels]
    confusion = np.diag([2, 2, 2]).astype(np.float32)
    assert wants_logits(dataset, dataset.classes)
    assert pictures_of({"confusion": confusion}, logits, dataset, sigmoid=False).keys() == {"val/confusion"}
    logits[0] = [0, 5, 0]
    found = pictures_of({"confusion": confusion}, logits, dataset, sigmoid=False)
    for draw in found.values():
        pixels = draw()
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[-1] == 3
        assert len(np.unique(pixels)) > 2
    assert found.keys() == {"val/confusion", "val/mistakes"}
    logits[0] = np.nan
    assert pictures_of({}, logits, dataset, sigmoid=False) == {}
    assert pictures_of({}, None, dataset, sigmoid=True) == {}
