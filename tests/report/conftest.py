import numpy as np
import pytest
from PIL import Image

from jaxtl.evaluate.details import detailed_metrics, two_columns
from jaxtl.evaluate.multilabel import decision_metrics, multilabel_metrics
from jaxtl.evaluate.predictions import Predictions
from jaxtl.report.facts import Facts, classified


@pytest.fixture
def facts():
    """Makes the facts of a run with so many classes and test images, of which each has a picture of one colour."""

    def make(classes=3, images=12, *, logits=None, labels=None, picture=True, **values):
        rng = np.random.default_rng(0)
        names = [f"class {i}" for i in range(classes)]
        if labels is None:
            labels = np.arange(images) % classes
        if logits is None:
            logits = rng.normal(size=(len(labels), classes))
            logits[np.arange(len(labels)), labels] += 2
        logits, of_images = (
            two_columns(np.asarray(logits, np.float16)),
            np.array([f"image {i}" for i in range(len(labels))]),
        )
        kept = Predictions(of_images, labels.astype(np.int32), logits)
        predictions = {"test": classified(kept, sigmoid=False)}
        metrics = detailed_metrics(labels, logits.astype(np.float32), names)
        metrics |= {"count": len(labels), "accuracy_interval": [0.5, 0.75]}
        results = {"classes": names, "test": metrics, "seconds": {"total": 65.0}, "loss": "softmax"}
        pixels = {"size": 8, "resize": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
        model = {"model": "tiny", "classes": names, "pixels": pixels}
        color = lambda split, index: Image.new("RGB", (200, 100), (index % 256, 0, 0))  # noqa: E731
        return Facts(
            **{
                "name": "a run",
                "workdir": "runs/a",
                "state": "finished",
                "source": "folder:photos",
                "results": results,
                "model": model,
                "predictions": predictions,
                **({"picture": color} if picture else {}),
                **values,
            }
        )

    return make


@pytest.fixture
def several_facts():
    """Makes the facts of a run with several labels an image, of which it may have chosen thresholds."""

    def make(labels, logits, *, thresholds=None, **values):
        labels, logits = np.asarray(labels, np.uint8), np.asarray(logits, np.float16)
        names = [f"label {i}" for i in range(labels.shape[1])]
        kept = Predictions(np.array([f"image {i}" for i in range(len(labels))]), labels, logits)
        metrics = multilabel_metrics(labels, logits, names)
        metrics |= {"count": len(labels), "accuracy": metrics["subset_accuracy"], "accuracy_interval": [0.25, 0.75]}
        results = {"classes": names, "test": metrics, "seconds": {"total": 65.0}, "loss": "binary"}
        if thresholds:
            results["thresholds"] = dict(zip(names, thresholds, strict=True))
            decided = 1 / (1 + np.exp(-logits.astype(float))) >= thresholds
            metrics["at_thresholds"] = decision_metrics(labels, decided, names)
        pixels = {"size": 8, "resize": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
        return Facts(
            **{
                "name": "a run",
                "workdir": "runs/a",
                "state": "finished",
                "source": "csv:photos.csv",
                "results": results,
                "model": {"model": "tiny", "classes": names, "pixels": pixels, "several_labels": True},
                "predictions": {"test": classified(kept, sigmoid=True)},
                "picture": lambda split, index: Image.new("RGB", (200, 100), (index, 0, 0)),
                **values,
            }
        )

    return make
