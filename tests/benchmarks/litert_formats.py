"""Size and time of LiteRT models in each format, of families at their usual size, beside float32 in the same process.

    python tests/benchmarks/litert_formats.py [MODEL ...]

Weights are drawn: what int8 costs in accuracy, `export` measures on the val split of a run.
"""

import math
import sys

import numpy as np

from jaxtl import models
from jaxtl.deploy.export.litert import THREADS, convert, open_model, quantize
from jaxtl.deploy.export.program import Program, normalized
from jaxtl.deploy.export.verification import draw_views
from jaxtl.preprocessing import IMAGENET, Pixels
from jaxtl.pretrained.load import abstract_variables
from jaxtl.trees import nest

NAMES = ("mobilenet_v3_large", "efficientnet_b0", "resnet18", "vit_ti16")
SIZE, CLASSES, RUNS = 224, 12, 30


def drawn(name: str) -> Program:
    """Draws a model whose activations neither grow nor vanish."""
    module = models.build(name, num_classes=CLASSES, image_size=SIZE)
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        noise = generator.normal(size=leaf.shape).astype(np.float32)
        if path.endswith("/var"):
            return 0.5 + np.abs(noise)
        if path.endswith("/scale"):
            return 1 + 0.1 * noise
        return noise * np.float32(0.1 if leaf.ndim < 2 else 1.2 / math.sqrt(math.prod(leaf.shape[:-1])))

    variables = nest({path: draw(path, leaf) for path, leaf in abstract_variables(module, SIZE).items()})
    return Program(name, module, variables, Pixels(SIZE, SIZE, *IMAGENET, "bicubic"), [str(i) for i in range(CLASSES)])


def main(names) -> None:
    print(f"| model, {THREADS} threads | " + " | ".join(("float32", "float16", "int8_dynamic", "int8_static")) + " |")
    for name in names:
        program = drawn(name)
        images = normalized(draw_views(SIZE, 3, RUNS), program.pixels)
        base = convert(program, with_pixels=False)
        cells = []
        for dtype in ("float32", "float16", "int8_dynamic", "int8_static"):
            model = base if dtype == "float32" else quantize(base, dtype, [image[None] for image in images[:10]])
            milliseconds = open_model(model).timed(images)[1]
            cells.append(f"{len(model) / 1e6:.1f} MB, {milliseconds:.1f} ms")
        print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES)
