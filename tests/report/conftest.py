import numpy as np
import pytest
from PIL import Image

from jaxtl.evaluate.details import detailed_metrics
from jaxtl.report.facts import Facts, read_predictions


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
        arrays = {
            "test_names": np.array([f"image {i}" for i in range(len(labels))]),
            "test_labels": labels.astype(np.int32),
            "test_logits": np.asarray(logits, np.float16),
        }
        predictions = read_predictions(arrays, sigmoid=False)
        metrics = detailed_metrics(labels, arrays["test_logits"].astype(np.float32), names)
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
