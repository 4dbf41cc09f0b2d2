"""Runs this bundle: it takes jax and numpy, and Pillow to read photographs; jaxtl, which wrote it, is not needed.

    python BUNDLE photo.jpg ...              a line of JSON for each photograph
    python BUNDLE --calibrated photo.jpg     with calibrated probabilities, where the bundle has a calibration
    python BUNDLE --verify                   compares its logits with those that it carries

BUNDLE is the folder or the .zip. In Python, with that in `sys.path`:

    import predict
    bundle = predict.Bundle()
    bundle.logits(views)                     # uint8 [N, S, S, C] -> float32 [N, K]
    bundle.probabilities(bundle.logits(predict.view(image, bundle.facts["pixels"])[None]))
"""

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "i1", "U8": "u1", "BOOL": "?"}
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Of each EXIF orientation, Pillow's number of what undoes it.


class Bundle:
    """A classifier that was exported by jaxtl.

    Attributes:
      facts: its classes, pixels, calibration and so on, as bundle.json holds them.
    """

    def __init__(self, path: str | Path = ""):
        """Opens a bundle, a folder or a .zip; without a path, the one that this file lies in."""
        self.path = Path(path) if path else Path(__file__).parent
        self.facts: dict[str, Any] = json.loads(self.read("bundle.json"))
        self._loaded: Any = None

    def read(self, name: str) -> bytes:
        """Returns one of its files."""
        if self.path.is_dir():
            return (self.path / name).read_bytes()
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name)

    def _open(self) -> Any:
        """Returns a function of views, which is compiled once for each number of them."""
        if self._loaded is None:
            try:
                import flatbuffers  # noqa: F401  (What jax reads programs with; it does not bring it.)
            except ModuleNotFoundError:
                sys.path.append(str(self.path / "vendor"))
            import jax
            from jax import export

            called = jax.jit(export.deserialize(bytearray(self.read("program.jax"))).call)
            weights = jax.device_put(read_arrays(self.read("model.safetensors")))
            self._loaded = lambda views: np.asarray(called(weights, views))
        return self._loaded

    def logits(self, views: np.ndarray, batch_size: int = 16) -> np.ndarray:
        """Returns the logits, float32 [N, K], of views, uint8 [N, S, S, C]; the last batch is filled up."""
        run, found = self._open(), []
        size = min(batch_size, len(views))
        for start in range(0, len(views), size or 1):
            batch = views[start : start + size]
            filled = np.concatenate([batch, np.zeros((size - len(batch), *views.shape[1:]), np.uint8)])
            found.append(run(filled)[: len(batch)])
        return np.concatenate(found) if found else np.zeros((0, len(self.facts["classes"])), np.float32)

    def probabilities(self, logits: np.ndarray, calibrated: bool = False) -> np.ndarray:
        """Returns the probabilities [N, K] of logits, with `calibrated` those of the bundle's calibration."""
        logits = np.asarray(logits, np.float64)
        if calibrated:
            scaling = self.facts["calibration"]
            if scaling is None or "temperature" not in scaling:  # Else it says how logits are read, alone.
                raise SystemExit("error: this bundle has no calibration; do without --calibrated.")
            if not scaling["folded_into_weights"]:
                vector = "scale" in scaling
                logits = logits * scaling["scale"] + scaling["bias"] if vector else logits / scaling["temperature"]
        if self.facts["probabilities"] == "sigmoid":
            return 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def verify(self) -> tuple[float, bool]:
        """Returns the largest difference from the logits that it carries, and whether that is small enough."""
        with np.load(io.BytesIO(self.read("verification.npz")), allow_pickle=False) as arrays:
            views, expected, tolerance = arrays["views"], arrays["logits"], float(arrays["tolerance"])
        largest = float(np.abs(self.logits(views) - expected).max())
        return largest, largest <= tolerance * max(1.0, float(np.abs(expected).max()))


def read_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file by name."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        flat = np.frombuffer(content[start:stop], np.dtype(_DTYPES[entry["dtype"]]))
        arrays[name] = flat.reshape(entry["shape"])
    return arrays


def upright(image: Any) -> Any:
    """Returns an image of Pillow as RGB, turned as EXIF says, over white where it is transparent."""
    from PIL import Image

    try:
        turn = _UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # Broken EXIF says nothing; the pixels are still good.
        turn = None
    image = image if turn is None else image.transpose(Image.Transpose(turn))
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"it has {image.mode} pixels (32 bits), whose range is not fixed; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def view(image: Any, pixels: Mapping[str, Any]) -> np.ndarray:
    """Returns what the network sees of an image of Pillow, uint8 [S, S, 3]: the shorter side resized, then cut."""
    image = upright(image)
    size, resize = pixels["size"], pixels["resize"]
    short = min(image.size)
    if max(image.size) > 200 * short:
        raise ValueError(f"it has {image.width} x {image.height} pixels, too thin for a square")
    sides = (int(resize * image.width / short), int(resize * image.height / short))
    if sides != image.size:
        numbers = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
        image = image.resize(sides, numbers[pixels["interpolation"]])
    left, top = round((sides[0] - size) / 2), round((sides[1] - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def main(given: Sequence[str] | None = None) -> int:
    """Prints a line of JSON for each photograph; returns 1 where one could not be read, or the logits differ."""
    parser = argparse.ArgumentParser(prog="python BUNDLE", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--verify", action="store_true", help="compare its logits with those that it carries")
    parser.add_argument("--calibrated", action="store_true", help="give calibrated probabilities")
    parser.add_argument("files", nargs="*", metavar="PHOTO")
    arguments = parser.parse_args(given)
    if not (arguments.files or arguments.verify):
        parser.error("give photographs, or --verify")
    try:
        bundle = Bundle()
        bundle._open()
    except Exception as error:  # Zip files, flatbuffers and jax have errors of their own.
        raise SystemExit(f"error: this bundle cannot be read: {error}") from None
    if arguments.verify:
        largest, passes = bundle.verify()
        print(f"{'verified' if passes else 'differs'}: the largest difference of logits is {largest:.2g}")
        return int(not passes)
    failed = False
    for file in arguments.files:
        line = _line(bundle, file, arguments.calibrated)
        failed |= "error" in line
        print(json.dumps(line), flush=True)
    return int(failed)


def _line(bundle: Bundle, file: str, calibrated: bool) -> dict[str, Any]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            views = view(image, bundle.facts["pixels"])[None]
    except Exception as error:  # Each of Pillow's decoders has errors of its own for a broken file.
        return {"file": file, "error": str(error)}
    row = bundle.probabilities(bundle.logits(views), calibrated)[0]
    if not np.isfinite(row).all():
        return {"file": file, "error": "its logits are not finite: the bundle is damaged"}
    classes, order = bundle.facts["classes"], np.argsort(-row, kind="stable")
    top = [{"class": classes[i], "probability": round(float(row[i]), 6)} for i in order[:5]]
    said = bundle.facts["calibration"] or {}
    if not said.get("several_labels"):
        return {"file": file, **top[0], "top5": top}
    cuts = [said["thresholds"].get(name, 0.5) for name in classes]
    return {"file": file, "labels": [classes[i] for i in order if row[i] >= cuts[i]], "top5": top}
