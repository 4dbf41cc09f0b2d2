"""A head on cached features, evaluated after every epoch: how long the whole run takes, and where its seconds go.

    python tests/benchmarks/head_run.py --data=DIR --weights=deit_tiny_patch16_224.safetensors

DIR holds train/ and test/ with one folder a class; of each, the first few images are taken. The run is a process of its
own, as a user starts it: start, decoding, feature pass, compilation and checkpoints are included. An epoch is three
steps of a few milliseconds here, so that whatever an evaluation and its checkpoint cost is most of the run.

Measured on two cores: 7.3 to 8.0 s after the features in three runs, and 14 to 15 s in all, of which 1.0 is spent on
checkpoints and 1.2 to 1.7 on evaluations. Where each evaluation's checkpoint held the frozen backbone it took 97 s
after the features, and 84 s of a processor instead of 17 to 18.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def take(data: Path, folder: Path, counts: dict[str, int]) -> None:
    """Links the first images of each class of each split into a folder."""
    for split, count in counts.items():
        for of_class in sorted(path for path in (data / split).iterdir() if path.is_dir()):
            (folder / split / of_class.name).mkdir(parents=True)
            for image in sorted(of_class.iterdir())[:count]:
                (folder / split / of_class.name / image.name).symlink_to(image.resolve())


def run(arguments: argparse.Namespace, data: Path, workdir: Path) -> dict[str, float]:
    """Trains, and returns seconds: of the process, of its processors, of what follows the features, and by part."""
    values = {
        "data.source": f"folder:{data}",
        "model.weights": arguments.weights,
        "finetune.unfreeze": "head",
        "augment.crop": "none",
        "augment.flip": 0.0,
        "train.epochs": float(arguments.epochs),
        "train.eval_every": arguments.eval_every,
        **dict(flag.split("=", 1) for flag in arguments.set),
    }
    command = [sys.executable, "-u", "-m", "jaxtl.main", "train", "--config=configs/vit_flowers.py:ti16"]
    command += [f"--workdir={workdir}", *(f"--config.{key}={value}" for key, value in values.items())]
    begun = time.perf_counter()
    features, before = begun, sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("features of"):
                features = time.perf_counter()
    if process.returncode:
        sys.exit(process.returncode)
    ended = time.perf_counter()
    results = json.loads((workdir / "results.json").read_text())
    seconds = results["seconds"]
    explained = sum(value for key, value in seconds.items() if key not in ("total", "data"))
    return {
        "process": ended - begun,
        "of a processor": sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before,
        "after features": ended - features,
        **seconds,
        "unexplained": seconds["total"] - explained,
        "accuracy": results["test"]["accuracy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--eval-every", type=int, default=0, help="steps; 0 for once an epoch")
    parser.add_argument("--train-images", type=int, default=6, help="of each class")
    parser.add_argument("--test-images", type=int, default=2, help="of each class")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value of the config")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "photos")
        take(arguments.data, data, {"train": arguments.train_images, "test": arguments.test_images})
        for number in range(arguments.runs):
            found = run(arguments, data, Path(folder, f"run{number}"))
            print("  ".join(f"{key} {value:.2f}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
