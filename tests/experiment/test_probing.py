import numpy as np
import tiny

from jaxtl.experiment.probing import unweighed_notes


def test_what_weighs_images_in_training_alone_is_said():
    plain = tiny.experiment(tiny.config())
    assert unweighed_notes(plain.config, plain.splits) == []
    weighed = tiny.with_split(plain, "train", weights=np.ones(24, np.float32))
    assert unweighed_notes(weighed.config, weighed.splits) == [
        "note      probes weigh all images alike: the column weight counts in training only"
    ]
    config = tiny.config(train__class_weights="balanced", train__sampling="sqrt")
    assert unweighed_notes(config, weighed.splits) == [
        "note      probes weigh all images alike: train.class_weights, train.sampling, the column weight count "
        "in training only"
    ]
