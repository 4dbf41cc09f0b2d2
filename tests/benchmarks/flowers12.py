"""Fine-tunes DeiT-Tiny on photographs with jaxtl and with a plain PyTorch loop, in turn, on the same machine.

    python tests/benchmarks/flowers12.py --data=DIR --weights=deit_tiny_patch16_224.safetensors --seeds=3

DIR holds train/ and test/ with one folder a class. jaxtl runs as a user runs it, as a process of its own; the PyTorch
loop is the usual one: Pillow, random resized crop and flip, AdamW 3e-4, batch 32, 5 epochs, on all of train, tested
at the end. Both are timed from their first line to their last figure.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch_deit import pretrained, to_tensor

from jaxtl import data
from jaxtl.preprocessing import Pixels

PIXELS = Pixels(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")


def run_jaxtl(folder: Path, weights: Path, seed: int, unfreeze: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as workdir:
        command = [
            sys.executable,
            "-m",
            "jaxtl.main",
            "--config=configs/vit_flowers.py:ti16",
            f"--config.finetune.unfreeze={unfreeze}",
            f"--workdir={workdir}/run",
            f"--config.data.source=folder:{folder}",
            f"--config.model.weights={weights}",
            f"--config.train.seed={seed}",
        ]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
        seconds = time.perf_counter() - started
        results = json.loads((Path(workdir) / "run" / "results.json").read_text())
    return {
        "accuracy": results["test"]["accuracy"],
        "seconds": seconds,
        "images_per_second": results["train"]["images_per_second"],
        **{f"seconds_{key}": value for key, value in results["seconds"].items() if key != "total"},
    }


def run_torch(folder: Path, weights: Path, seed: int, unfreeze: str, epochs: int = 5) -> dict[str, float]:
    started = time.perf_counter()
    torch.manual_seed(seed)
    source = data.open_source(f"folder:{folder}")
    train, test = source.split("train"), source.split("test")
    model = pretrained(weights, len(source.classes))
    if unfreeze == "head":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("head.")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 3e-4 if unfreeze == "all" else 5e-3, weight_decay=0.05)
    steps = epochs * -(-len(train) // 32)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    training = 0.0
    with ThreadPoolExecutor(2) as pool:
        for epoch in range(epochs):
            order = np.random.default_rng([seed, epoch]).permutation(len(train))
            for start in range(0, len(order), 32):
                begun = time.perf_counter()
                index = order[start : start + 32]
                rngs = [np.random.default_rng([seed, epoch, i]) for i in index]
                view = data.RandomView(PIXELS, data.Augmentation(scale=(0.5, 1.0)))
                images = list(pool.map(lambda i, rng: view(open_image(train, i), rng), index, rngs))  # noqa: B023
                logits = model(to_tensor(np.stack(images)))
                loss = F.cross_entropy(logits, torch.from_numpy(train.labels[index]).long(), label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                schedule.step()
                training += time.perf_counter() - begun
    correct = 0
    with torch.no_grad():
        for start in range(0, len(test), 32):
            index = range(start, min(start + 32, len(test)))
            images = np.stack([data.eval_view(open_image(test, i), PIXELS) for i in index])
            correct += (model(to_tensor(images)).argmax(-1).numpy() == test.labels[index]).sum()
    return {
        "accuracy": correct / len(test),
        "seconds": time.perf_counter() - started,
        "images_per_second": epochs * len(train) / training,
    }


def open_image(dataset: data.Dataset, index: int) -> Image.Image:
    return data.decode(dataset.read(int(index)), dataset.names[int(index)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for unfreeze in ("all", "head"):
        runs: dict[str, list[dict[str, float]]] = {"jaxtl": [], "torch": []}
        for seed in range(arguments.seeds):
            for name, run in (("jaxtl", run_jaxtl), ("torch", run_torch)):
                runs[name].append(run(arguments.data, arguments.weights, seed, unfreeze))
                print(unfreeze, name, seed, json.dumps(runs[name][-1]), flush=True)
        for name, results in runs.items():
            means = {key: statistics.mean(result[key] for result in results) for key in results[0]}
            print(unfreeze, name, "mean", json.dumps(means), flush=True)
        ratios = [
            a["images_per_second"] / b["images_per_second"] for a, b in zip(runs["jaxtl"], runs["torch"], strict=True)
        ]
        print(f"{unfreeze}: images/s of jaxtl by those of PyTorch: {statistics.median(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
