"""Views per second of the preset "medium", beside torchvision's transforms of the same names and ranges.

    python tests/benchmarks/augmentation.py FOLDER [--size 224] [--images 64] [--presets PRESET ...]

FOLDER holds photographs, at any depth; they are decoded before, and resized to 500 x 375 pixels, since prepared sets
may be as small as the view. One thread each, in turns; the best of five rounds counts. tests/real_packages.py says
where torchvision is looked for.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from jaxtl.data.augment import Augmentation, train_view
from jaxtl.data.augment.presets import DEFAULTS, PRESETS, with_preset
from jaxtl.parallel.cpu_runtime import keep_freed_memory
from jaxtl.preprocessing import IMAGENET, Pixels

ROUNDS = 5


def torchvision_medium(size: int) -> Callable[[Image.Image], object]:
    """Returns the transforms of the preset, as one writes them with torchvision."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import real_packages
    import torch

    real_packages.torchvision()
    from torchvision.transforms import InterpolationMode, v2

    torch.set_num_threads(1)
    a = Augmentation(**with_preset("medium", DEFAULTS))
    fill = [round(255 * share) for share in IMAGENET[0]]
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=a.scale, interpolation=InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(a.flip),
            v2.RandomRotation(a.rotate, interpolation=InterpolationMode.BILINEAR, fill=fill),
            v2.ColorJitter(*[a.color_jitter] * 3),
            v2.PILToTensor(),
            v2.RandomErasing(p=a.erase, value=0),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--presets", nargs="*", default=list(PRESETS))
    options = parser.parse_args()
    keep_freed_memory()  # As every command of jaxtl does; here both profit.
    files = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = files[:: max(1, len(files) // options.images)][: options.images]
    images = [Image.open(file).convert("RGB").resize((500, 375), Image.Resampling.BICUBIC) for file in chosen]
    pixels = Pixels(options.size, round(options.size * 8 / 7), *IMAGENET, "bicubic")
    transform = torchvision_medium(options.size)

    def ours(preset: str) -> Callable[[], None]:
        a = Augmentation(**with_preset(preset, DEFAULTS))

        def run() -> None:
            for number, image in enumerate(images):
                train_view(image, pixels, np.random.default_rng([0, number]), a)

        return run

    def theirs() -> None:
        for image in images:
            transform(image)

    contestants = {f"jaxtl {preset}": ours(preset) for preset in options.presets} | {"torchvision medium": theirs}
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(ROUNDS):
        for name, run in contestants.items():
            begun = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - begun)
    for name, seconds in best.items():
        print(f"{name:<20}{len(images) / seconds:8.0f} images/s")


if __name__ == "__main__":
    main()
