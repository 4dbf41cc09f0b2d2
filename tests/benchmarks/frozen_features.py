"""Frozen prefixes: jaxtl with cached features beside a plain PyTorch loop that computes the prefix in every epoch.

    python tests/benchmarks/frozen_features.py --data=DIR --weights=deit_tiny_patch16_224.safetensors

DIR holds train/ and test/ with one folder a class. jaxtl runs as a user runs it, as a process of its own, all included:
start, decoding, feature pass, compilation, checkpoints. The PyTorch loop has no augmentation either, its frozen part
runs under no_grad, and it decodes its images once. One epoch of it costs the same as any other, so a few are timed
(--timed-epochs) and counted up to 30; the accuracy is that of all 30, the rest on features outside the clock.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch_deit import DeiT, pretrained, to_tensor

from jaxtl import data
from jaxtl.preprocessing import Pixels

PIXELS = Pixels(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
ROOT = Path(__file__).parents[2]
RATE = 3e-3
EPOCHS = 30
BATCH = 32


def run_jaxtl(arguments: argparse.Namespace, blocks: int, workdir: Path) -> tuple[float, float]:
    """Returns (seconds, accuracy)."""
    command = [sys.executable, "-m", "jaxtl.main", "train", "--config=configs/vit_flowers.py:ti16"]
    values = {
        "data.source": f"folder:{arguments.data}",
        "model.weights": arguments.weights,
        "finetune.unfreeze": blocks,
        "finetune.layer_decay": 1.0,
        "finetune.lr_multipliers": {},
        "augment.crop": "none",
        "augment.flip": 0.0,
        "optimizer.learning_rate": RATE if blocks == 0 else RATE / 30,
        "optimizer.warmup_steps": 0,
        "train.check_learning_rate": False,
        "train.label_smoothing": 0.0,
        "train.epochs": float(EPOCHS),
        "train.eval_every": 100,
        "train.log_every": 100,
    }
    command += [f"--workdir={workdir}", *(f"--config.{key}={value}" for key, value in values.items())]
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    seconds = time.perf_counter() - begun
    return seconds, json.loads((workdir / "results.json").read_text())["test"]["accuracy"]


def prefix(model: DeiT, images: torch.Tensor, blocks: int) -> torch.Tensor:
    """The groups that do not train: all but the head and the last `blocks`."""
    with torch.no_grad():
        if blocks == 0:
            return model.features(images)
        x = model.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1) + model.pos_embed
        for block in model.blocks[:-blocks]:
            x = block(x)
        return x


def suffix(model: DeiT, x: torch.Tensor, blocks: int) -> torch.Tensor:
    if blocks:
        for block in model.blocks[-blocks:]:
            x = block(x)
        x = model.norm(x)[:, 0]
    return model.head(x)


def run_torch(arguments: argparse.Namespace, blocks: int) -> tuple[float, float]:
    """Returns (seconds of 30 epochs, accuracy)."""
    begun = time.perf_counter()
    torch.manual_seed(0)
    source = data.open_source(f"folder:{arguments.data}")
    train, test = (load(source.split(name)) for name in ("train", "test"))
    labels = torch.from_numpy(source.split("train").labels).long()
    model = pretrained(arguments.weights, len(source.classes))
    trained = [*model.head.parameters()]
    if blocks:
        trained += [*model.norm.parameters(), *model.blocks[-blocks:].parameters()]
    optimizer = torch.optim.AdamW(trained, RATE if blocks == 0 else RATE / 30, weight_decay=0.05)
    steps = EPOCHS * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def epoch(number: int, features: torch.Tensor | None) -> None:
        order = np.random.default_rng(number).permutation(len(train))
        for start in range(0, len(order), BATCH):
            index = order[start : start + BATCH]
            x = prefix(model, to_tensor(train[index]), blocks) if features is None else features[index]
            loss = F.cross_entropy(suffix(model, x, blocks), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    opened = time.perf_counter()
    for number in range(arguments.timed_epochs):
        epoch(number, None)
    trained_at = time.perf_counter()
    every = (trained_at - opened) / arguments.timed_epochs
    chunks = [to_tensor(train[start : start + BATCH]) for start in range(0, len(train), BATCH)]
    features = torch.cat([prefix(model, chunk, blocks) for chunk in chunks])
    for number in range(arguments.timed_epochs, EPOCHS):
        epoch(number, features)
    testing = time.perf_counter()
    with torch.no_grad():
        parts = [to_tensor(test[start : start + BATCH]) for start in range(0, len(test), BATCH)]
        guesses = torch.cat([suffix(model, prefix(model, part, blocks), blocks).argmax(-1) for part in parts])
    accuracy = float((guesses.numpy() == source.split("test").labels).mean())
    return opened - begun + EPOCHS * every + time.perf_counter() - testing, accuracy


def load(dataset: data.Dataset) -> np.ndarray:
    view = partial(data.eval_view, pixels=PIXELS)
    return np.stack([view(data.decode(dataset.read(i), dataset.names[i])) for i in range(len(dataset))])


def run_probe(arguments: argparse.Namespace, workdir: Path) -> None:
    command = [sys.executable, "-m", "jaxtl.main", "probe", "--config=configs/vit_flowers.py:ti16"]
    command += [f"--workdir={workdir}", f"--config.data.source=folder:{arguments.data}"]
    begun = time.perf_counter()
    subprocess.run([*command, f"--config.model.weights={arguments.weights}"], check=True, capture_output=True, cwd=ROOT)
    whole = time.perf_counter() - begun
    found = json.loads((workdir / "probe.json").read_text())
    (scores,) = found["groups"].values()
    line = "  ".join(f"{name} {score['accuracy']:.4f} {score['interval']}" for name, score in scores.items())
    print(f"probe: {line}; {whole:.1f} s, {whole / found['seconds']['features']:.2f} x its feature pass", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--timed-epochs", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_probe(arguments, Path(folder, "probe"))
        for blocks in (0, 2):
            ours = run_jaxtl(arguments, blocks, Path(folder, str(blocks)))
            theirs = run_torch(arguments, blocks)
            print(
                f"head and {blocks} blocks, {EPOCHS} epochs: jaxtl {ours[0]:.1f} s, accuracy {ours[1]:.4f}; "
                f"PyTorch {theirs[0]:.1f} s, accuracy {theirs[1]:.4f}; {theirs[0] / ours[0]:.1f} x",
                flush=True,
            )


if __name__ == "__main__":
    main()
