"""Size and time of LiteRT models in each format, of families at their usual size, beside float32 in the same process.

    python tests/benchmarks/litert_formats.py [MODEL ...]

Weights are drawn: what int8 costs in accuracy, `export` measures on the val split of a run.
"""

import sys
from pathlib import Path

from jaxtl.deploy.export.litert import THREADS, convert, open_model, quantize
from jaxtl.deploy.export.program import normalized
from jaxtl.deploy.export.verification import draw_views

sys.path.insert(0, str(Path(__file__).parents[1]))
from programs import program as program_of

NAMES = ("mobilenet_v3_large", "efficientnet_b0", "resnet18", "vit_ti16")
SIZE, RUNS = 224, 30


def main(names) -> None:
    print(f"| model, {THREADS} threads | " + " | ".join(("float32", "float16", "int8_dynamic", "int8_static")) + " |")
    for name in names:
        program = program_of(name, SIZE)
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
