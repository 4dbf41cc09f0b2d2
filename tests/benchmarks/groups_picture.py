"""Draws test accuracy and seconds against the number of unfrozen groups: when to freeze what.

    python tests/benchmarks/groups_picture.py --data=DIR --weights=FILE --out=tests/benchmarks/groups.png

Each point is a run of its own of the train command, without augmentation, so that a frozen prefix is computed once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]


def run(arguments: argparse.Namespace, unfreeze: str) -> tuple[float, float]:
    """Returns (accuracy on test, seconds of the whole run)."""
    values = {
        "data.source": f"folder:{arguments.data}",
        "model.weights": arguments.weights,
        "finetune.unfreeze": unfreeze,
        "augment.crop": "none",
        "augment.flip": 0.0,
        "train.epochs": arguments.epochs,
    }
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "jaxtl.main", "train", "--config=configs/vit_flowers.py:ti16"]
        command += [f"--workdir={workdir}/run", *(f"--config.{key}={value}" for key, value in values.items())]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        results = json.loads((Path(workdir) / "run" / "results.json").read_text())
    return results["test"]["accuracy"], results["seconds"]["total"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    parser.add_argument("--epochs", type=float, default=5.0)
    parser.add_argument("--groups", default="0,1,2,4,6,9,12,all", help="how many before the head train, with commas")
    arguments = parser.parse_args()
    names = arguments.groups.split(",")
    points = []
    for name in names:
        points.append(run(arguments, name))
        print(f"{name}: accuracy {points[-1][0]:.4f}, {points[-1][1]:.0f} s", flush=True)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(names, [100 * accuracy for accuracy, _ in points], marker="o", color="C0")
    axes.set_xlabel("groups that train, beside the head")
    axes.set_ylabel("accuracy on test (%)", color="C0")
    axes.grid(alpha=0.3)
    right = axes.twinx()
    right.plot(names, [seconds for _, seconds in points], marker="s", color="C1")
    right.set_ylabel("seconds of the run", color="C1")
    right.set_ylim(bottom=0)
    figure.savefig(arguments.out, dpi=120)


if __name__ == "__main__":
    main()
