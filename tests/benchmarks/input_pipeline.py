"""Images per second of decoding and augmenting, beside the plainest Pillow loop, and the time to open a large folder.

    python tests/benchmarks/input_pipeline.py FOLDER [--size 224] [--files 400] [--workers 2]

FOLDER holds JPEG files, at any depth. Processor seconds are counted, so that other work on the machine disturbs
little; the best of five rounds is taken, and rounds of all contestants take turns.

Before them, reader threads and processes at the same number of workers, and PyTorch's DataLoader where torch is
installed, crop images that are kept in memory. Seconds on the clock are counted there, and the processor time of the
main process, which holds Python's lock for a part of it: 1 / that time is a speed that processes can reach on enough
cores, whatever they do. Threads do all their work in the main process.
"""

import argparse
import importlib.util
import io
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from jaxtl import data
from jaxtl.data.augment import random_box
from jaxtl.data.preloading import cores
from jaxtl.preprocessing import Pixels

ROUNDS = 5
BATCH = 32
STEADY = 60  # Batches that are timed of a stream.


def pillow_loop(files: list[bytes], size: int) -> None:
    """What a short script does: one thread, one image after the other."""
    rng = np.random.default_rng(0)
    for start in range(0, len(files), BATCH):
        batch = []
        for encoded in files[start : start + BATCH]:
            image = Image.open(io.BytesIO(encoded)).convert("RGB")
            box = random_box(image.width, image.height, rng, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
            image = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
            if random.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            batch.append(np.array(image))
        np.stack(batch)


def batches(dataset: data.Dataset, pixels: Pixels, *, workers: int, min_side: int = 0) -> None:
    stream = data.train_batches(
        dataset,
        batch_size=BATCH,
        seed=0,
        view=data.RandomView(pixels, data.Augmentation()),
        min_side=min_side,
        reading=data.Reading(workers, "threads", prefetch=0),
    )
    for _ in islice(stream, len(dataset) // BATCH):
        pass
    stream.close()


def dataset_of(files: list[bytes]) -> data.Dataset:
    labels = np.zeros(len(files), np.int32)
    return data.Dataset(("a", "b"), labels, tuple(map(str, range(len(files)))), files.__getitem__)


def enlarged(encoded: bytes, width: int) -> bytes:
    """A photograph of as many pixels as a telephone takes, with some noise, which enlarging alone would not give."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    image = image.resize((width, width * image.height // image.width), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 4, (image.height, image.width, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def race(title: str, count: int, contestants: dict[str, Callable[[], None]]) -> None:
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(ROUNDS):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    print(title)
    for name, seconds in best.items():
        print(f"  {name:42} {count / seconds:7.0f} images per core-second")


def time_readers(kept: data.Dataset, pixels: Pixels, workers: int) -> None:
    """Steady streams of batches, each timed alone, in turns."""
    view = data.RandomView(pixels, data.Augmentation())

    def stream(reader: data.Reader) -> Iterable[object]:
        return data.train_batches(kept, batch_size=BATCH, seed=0, view=view, reading=data.Reading(workers, reader))

    contestants: dict[str, Callable[[], Iterable[object]]] = {
        "train_batches, threads": lambda: stream("threads"),
        "train_batches, processes": lambda: stream("processes"),
    }
    if importlib.util.find_spec("torch"):
        contestants["DataLoader of PyTorch"] = lambda: data_loader(kept, pixels.size, workers)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, make in contestants.items():
            batches = iter(make())
            for _ in range(2 * workers + 4):  # Everyone has started, and what lay ready is used up.
                next(batches)
            wall, processor = time.perf_counter(), time.process_time()
            for _ in range(STEADY):
                next(batches)
            images = STEADY * BATCH
            found[name].append(((time.perf_counter() - wall) / images, (time.process_time() - processor) / images))
            del batches
    print(f"{len(kept)} images kept in memory, {workers} workers, cropped to {pixels.size}: median of {ROUNDS} rounds")
    for name, rounds in found.items():
        wall, processor = np.median(rounds, axis=0)
        speeds = [1 / seconds for seconds, _ in rounds]
        print(
            f"  {name:25} {1 / wall:6.0f} images/s ({min(speeds):.0f} to {max(speeds):.0f}); main process "
            f"{1e3 * processor:.3f} ms an image"
            + ("" if name.endswith("threads") else f", enough for {1 / processor:,.0f} images/s")
        )


def data_loader(kept: data.Dataset, size: int, workers: int) -> Iterable[object]:
    """The usual loader on the same decoded pixels, with the same crop; endless, as ours is."""
    from torch.utils.data import DataLoader, RandomSampler

    sampler = RandomSampler(range(len(kept)), replacement=True, num_samples=10**6)
    return DataLoader(Cropped(kept, size), BATCH, sampler=sampler, num_workers=workers)


class Cropped:
    """What DataLoader takes for a data set."""

    def __init__(self, kept: data.Dataset, size: int):
        self.kept, self.size = kept, size

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        rng = np.random.default_rng()
        image = Image.fromarray(self.kept.read(index))
        box = random_box(image.width, image.height, rng, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(image), int(self.kept.labels[index])


def time_opening(files: list[Path], count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            target = Path(folder, "train", f"class{i % 1000:03d}", f"image_{i // 1000:03d}.jpg")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(files[i % len(files)].resolve())
        start = time.perf_counter()
        source = data.open_source(f"folder:{folder}")
        opened = time.perf_counter()
        data.choose_splits(source)
        chosen = time.perf_counter()
        print(f"a folder of {count:,} links: opened in {opened - start:.2f} s, split in {chosen - opened:.2f} s")
        data.check(source.split("train"))
        print(f"  all headers read in {time.perf_counter() - chosen:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--workers", type=int, default=cores(), help="of the comparison of threads and processes")
    parser.add_argument("--only-readers", action="store_true", help="the comparison of threads and processes alone")
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    files = [path.read_bytes() for path in paths[: arguments.files]]
    pixels = Pixels(arguments.size, arguments.size, (0.0,) * 3, (1.0,) * 3, "bicubic")
    dataset = dataset_of(files)
    kept = data.preload(dataset, budget_bytes=2**32)
    time_readers(kept, pixels, arguments.workers)
    if arguments.only_readers:
        return
    race(
        f"{len(files)} files of {arguments.folder}, random-resized crop to {arguments.size}",
        len(files) // BATCH * BATCH,
        {
            "Pillow loop": lambda: pillow_loop(files[: len(files) // BATCH * BATCH], arguments.size),
            "train_batches, 1 thread": lambda: batches(dataset, pixels, workers=1),
            "train_batches, 2 threads": lambda: batches(dataset, pixels, workers=2),
            "train_batches, preloaded, 1 thread": lambda: batches(kept, pixels, workers=1),
        },
    )
    large = [enlarged(encoded, 4000) for encoded in files[:BATCH]]
    race(
        f"{len(large)} of them enlarged to 4000 pixels a side",
        len(large),
        {
            "Pillow loop": lambda: pillow_loop(large, arguments.size),
            "train_batches, 1 thread": lambda: batches(dataset_of(large), pixels, workers=1),
            "train_batches, min_side, 1 thread": lambda: batches(
                dataset_of(large), pixels, workers=1, min_side=2 * arguments.size
            ),
        },
    )
    time_opening(paths, 50_000)


if __name__ == "__main__":
    main()
