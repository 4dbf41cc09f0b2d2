"""The usual PyTorch loop on photographs, a process of its own for gpu.py: timm's model, torchvision's transforms, and
DataLoader workers, a core each. Its last line is JSON: accuracy, seconds and images/s.
"""

import argparse
import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from gpu_common import WARMUP
from gpu_torch import PETALS, compiled, create, freeze, half_precision, wait  # First: it mends torchvision.
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn import functional as F
from torchvision import datasets, transforms


def loaders(arguments: argparse.Namespace, side: int) -> tuple[Any, Any]:
    """Gives the loaders of train, shuffled, and of test; the views are those of the recipe configs/vit_flowers.py."""
    bicubic = transforms.InterpolationMode.BICUBIC
    end = [transforms.ToTensor(), transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
    crop = transforms.RandomResizedCrop(side, scale=(0.8, 1.0), interpolation=bicubic)
    train = transforms.Compose([crop, transforms.RandomHorizontalFlip(), *end])
    test = transforms.Compose([transforms.Resize(side * 8 // 7, bicubic), transforms.CenterCrop(side), *end])
    common = {
        "batch_size": arguments.batch,
        "num_workers": len(os.sched_getaffinity(0)),
        "pin_memory": arguments.device == "cuda",
    }
    return (
        torch.utils.data.DataLoader(
            datasets.ImageFolder(arguments.photos / "train", train),
            shuffle=True,
            drop_last=True,
            persistent_workers=True,
            **common,
        ),
        torch.utils.data.DataLoader(datasets.ImageFolder(arguments.photos / "test", test), **common),
    )


def load(model: torch.nn.Module, path: Path) -> None:
    """Loads a file of timm's, but for its head."""
    from safetensors.torch import load_file

    arrays = {name: array for name, array in load_file(path).items() if not name.startswith("head.")}
    missing, unexpected = model.load_state_dict(arrays, strict=False)
    assert not unexpected
    assert all(name.startswith("head.") for name in missing)


class Clock:
    """How long steps take, and how long the device waits between them: for data, and for the launch of the step."""

    def __init__(self, device: str):
        self._cuda = device == "cuda"
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Notes the moment at which the device has done all that it was given so far."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        else:
            event = time.perf_counter()
        self._marks.append(event)

    def waiting(self) -> float:
        """Gives the share of the time, after the first steps, between the end of a step and the start of the next."""
        marks = self._marks[2 * WARMUP - 1 :]  # end, start, end, ..., start, end

        def between(a: Any, b: Any) -> float:
            return a.elapsed_time(b) if self._cuda else b - a

        gaps = sum(between(marks[i], marks[i + 1]) for i in range(0, len(marks) - 1, 2))
        return gaps / between(marks[0], marks[-1])


def train(arguments: argparse.Namespace, model: torch.nn.Module, loader: Any, side: int) -> dict[str, float]:
    """Trains; gives seconds of compiling and of training, images/s and the share of waiting."""
    device = arguments.device
    trained = freeze(model, arguments.unfreeze)
    forward = compiled(model, device)
    optimizer = torch.optim.AdamW(
        trained, 5e-3 if arguments.unfreeze == "head" else 3e-4, weight_decay=0.05, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, arguments.epochs * len(loader)))

    def backward(images: torch.Tensor, labels: torch.Tensor) -> None:
        with half_precision(device):
            loss = F.cross_entropy(forward(images), labels, label_smoothing=0.0)
        optimizer.zero_grad()
        loss.backward()

    begun = time.perf_counter()
    backward(
        torch.zeros(arguments.batch, 3, side, side, device=device),
        torch.zeros(arguments.batch, dtype=torch.long, device=device),
    )
    wait(device)
    begun, compiling = time.perf_counter(), time.perf_counter() - begun
    clock = Clock(device)
    for _ in range(arguments.epochs):
        for images, labels in loader:
            clock.mark()
            backward(images.to(device, non_blocking=True), labels.to(device, non_blocking=True))
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            clock.mark()
    wait(device)
    seconds = time.perf_counter() - begun
    images_seen = arguments.epochs * len(loader) * arguments.batch
    return {
        "seconds_compile": compiling,
        "seconds_train": seconds,
        "images": images_seen,
        "images_per_second": images_seen / seconds,
        "waiting": clock.waiting(),
    }


def test(arguments: argparse.Namespace, model: torch.nn.Module, loader: Any) -> float:
    """Gives the share of right answers."""
    model.eval()
    right = count = 0
    with torch.no_grad(), contextlib.ExitStack() as stack:
        stack.enter_context(half_precision(arguments.device))
        for images, labels in loader:
            found = model(images.to(arguments.device)).argmax(-1).cpu()
            right, count = right + int((found == labels).sum()), count + len(labels)
    return right / count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--unfreeze", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--device", required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    side = PETALS["img_size"] if arguments.model == "vit_petals" else 224
    train_loader, test_loader = loaders(arguments, side)
    model = create(arguments.model, len(train_loader.dataset.classes), drop_path_rate=0.1)
    if arguments.weights:
        load(model, arguments.weights)
    model.to(arguments.device)
    results = train(arguments, model, train_loader, side)
    begun = time.perf_counter()
    accuracy = test(arguments, model, test_loader)
    print(json.dumps({**results, "accuracy": accuracy, "seconds_evaluate": time.perf_counter() - begun}))


if __name__ == "__main__":
    main()
