import dataclasses

import numpy as np
import pytest
import tiny

from jaxtl.experiment.scorer import Scorer
from jaxtl.models.layers.batchnorm import BatchNorm


class Normed(tiny.Tiny):
    """The tiny network with the colours normalised."""

    def run_group(self, x, name, train):
        if name == "stem":
            x = BatchNorm(name="norm")(x, use_running_average=not train)
        return super().run_group(x, name, train)

    def groups(self):
        return (("stem", "stem|norm"), ("body", "body"), ("head", "head"))


@pytest.fixture
def scorer():
    experiment = tiny.experiment(tiny.still(train__monitor="map"))
    norm = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    variables = {
        "params": {**experiment.variables["params"], "norm": norm},
        "batch_stats": {"norm": {"mean": np.full(3, 9, np.float32), "var": np.ones(3, np.float32)}},
    }
    model = dataclasses.replace(experiment.model, module=Normed())
    return Scorer(dataclasses.replace(experiment, model=model, variables=variables))


def test_statistics_are_those_of_the_training_images_as_evaluation_sees_them(scorer):
    train = scorer.experiment.splits.train
    images = np.stack([np.asarray(train.read(i), np.float64) for i in range(len(train))]) / 127.5 - 1
    found = scorer.with_statistics(scorer.experiment.variables, {"norm"})
    np.testing.assert_allclose(found["batch_stats"]["norm"]["mean"], images.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    assert scorer.images == 24
    assert scorer.with_statistics(scorer.experiment.variables, set()) == scorer.experiment.variables


def test_scores_are_the_loss_where_the_monitor_wants_a_ranking(scorer):
    metrics = scorer.metrics(scorer.experiment.variables)
    assert scorer.score(metrics) == (-metrics["loss"],)
    renewed = scorer.metrics(scorer.with_statistics(scorer.experiment.variables, {"norm"}))
    assert set(renewed) == set(metrics)
