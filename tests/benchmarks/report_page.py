"""Seconds and bytes of the page of a run with 10,000 photographs of 102 classes.

    python tests/benchmarks/report_page.py

The photographs are JPEGs of 500 x 375 pixels, made at random, of which the page shows 66; metrics are
there already, as they are at the end of a run. Measured on two busy cores of an AMD EPYC: 6.3, 6.0 and 5.3 s, 1.29 MB.
"""

import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from jaxtl import config as config_lib
from jaxtl.evaluate.details import detailed_metrics
from jaxtl.evaluate.predictions import as_arrays
from jaxtl.experiment.reporting import write_report

IMAGES, CLASSES = 10_000, 102


def make_run(folder: Path) -> Path:
    """Writes photographs in folders, and the files of a run that was measured on them."""
    rng = np.random.default_rng(0)
    classes = [f"species {number:03}" for number in range(CLASSES)]
    labels = np.sort(np.arange(IMAGES) % CLASSES).astype(np.int32)
    encoded = []
    for _ in range(20):  # More than a page shows need not differ.
        file = io.BytesIO()
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    names = []
    for number, label in enumerate(labels):
        name = f"test/{classes[label]}/{number:05}.jpg"
        for split in ("train", "test"):
            path = folder / "photographs" / name.replace("test", split, 1)
            path.parent.mkdir(parents=True, exist_ok=True)
            if split == "test" or number % 10 == 0:
                path.write_bytes(encoded[number % len(encoded)])
        names.append(name)
    logits = rng.normal(size=(IMAGES, CLASSES)).astype(np.float32)
    logits[np.arange(IMAGES), labels] += 3
    logits[np.arange(IMAGES), (labels + 1) % CLASSES] += 1.5
    config = config_lib.default()
    config.data.source = f"folder:{folder / 'photographs'}"
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    metrics = {**detailed_metrics(labels, logits, classes), "count": IMAGES, "accuracy_interval": [0.5, 0.6]}
    results = {"classes": classes, "test": metrics, "loss": "softmax"}
    (run / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
    (run / "results.json").write_text(json.dumps(results))
    np.savez(run / "predictions.npz", classes=np.array(classes), **as_arrays("test", names, labels, logits))
    return run


def main() -> None:
    """Prints the seconds of three writings, and the size of the page."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        for _ in range(3):
            begun = time.perf_counter()
            page = write_report(run)
            print(f"{time.perf_counter() - begun:.1f} s, {page.stat().st_size / 1e6:.2f} MB")
        text = page.read_text()
        print(f"{text.count('data:image/jpeg')} pictures")


if __name__ == "__main__":
    main()
